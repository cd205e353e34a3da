"""An engine that observes the last few observations of another one: ``frame_stack``."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from fastsac.envs.engines import Engine, Step


class Stacked:
    """Hands out the last observations of an episode, the oldest first, flat.

    An episode begins with its first observation in every place, and so does what follows
    ``set_state``.

    Args:
        engine: what steps the worlds.
        frames: how many observations.
    """

    def __init__(self, engine: Engine, frames: int):
        self._engine, self._count = engine, frames
        self.suite = dataclasses.replace(engine.suite, frames=frames)
        self.obs_dim = self.suite.obs_dim
        self._frames: torch.Tensor | None = None  # (B, frames, obs_dim of one)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    @property
    def autoreset(self) -> bool:
        """See Engine.autoreset."""
        return self._engine.autoreset

    @autoreset.setter
    def autoreset(self, value: bool) -> None:
        self._engine.autoreset = value

    def reset(self, seed: int, clocks: np.ndarray) -> torch.Tensor:
        """See Engine.reset."""
        return self._all(self._engine.reset(seed, clocks))

    def restart(self, worlds: np.ndarray, seeds: Sequence[int] | None = None) -> torch.Tensor:
        """See Engine.restart."""
        obs, frames = self._engine.restart(worlds, seeds), self._now()
        where = torch.from_numpy(worlds.copy()).to(obs.device)
        self._frames = torch.where(where[:, None, None], self._filled(obs), frames)
        return self._flat()

    def recv(self) -> Step:
        """See Engine.recv."""
        step, older = self._engine.recv(), self._now()[:, 1:]
        last = torch.cat([older, step.final_obs[:, None]], 1)
        last = last.masked_fill(step.invalid[:, None, None], 0)
        self._frames = last
        if self.autoreset:
            self._frames = torch.where(step.done[:, None, None], self._filled(step.obs), last)
        return step._replace(obs=self._flat(), final_obs=last.flatten(1).clone())

    def set_state(self, state: dict[str, np.ndarray]) -> torch.Tensor:
        """See Engine.set_state."""
        return self._all(self._engine.set_state(state))

    def state_dict(self) -> dict[str, Any]:
        """See Engine.state_dict."""
        return self._engine.state_dict() | {"frames": self._now().cpu().clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See Engine.load_state_dict."""
        self._engine.load_state_dict({k: v for k, v in state.items() if k != "frames"})
        self._frames = state["frames"].to(self._engine.device)

    def _flat(self) -> torch.Tensor:
        return self._now().flatten(1).clone()  # the caller's own

    def _now(self) -> torch.Tensor:
        assert self._frames is not None, "reset comes first"
        return self._frames

    def _all(self, obs: torch.Tensor) -> torch.Tensor:
        self._frames = self._filled(obs)
        return self._flat()

    def _filled(self, obs: torch.Tensor) -> torch.Tensor:
        return obs[:, None].repeat(1, self._count, 1)
