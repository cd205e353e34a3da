"""An engine whose step is several of another one's, with one action: ``action_repeat``."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from fastsac.envs.engines import Engine, Step


class Repeated:
    """Repeats each action; rewards add up, until an episode ends.

    A step waits for the device, and only its first part runs beside the caller.

    Args:
        engine: what steps the worlds.
        times: control steps of the task in a step of this engine.
    """

    def __init__(self, engine: Engine, times: int):
        self._engine, self._times = engine, times
        self.autoreset = True
        engine.autoreset = False
        self.suite = dataclasses.replace(
            engine.suite,
            substeps=engine.suite.substeps * times,
            max_episode_steps=math.ceil(engine.suite.max_episode_steps / times),
        )
        self._action: torch.Tensor | None = None
        # Where (B,) an episode ended before a step's last part, and the states (B, ...) at its end:
        # the engine has stepped these worlds on.
        self._ended: tuple[torch.Tensor, dict[str, torch.Tensor]] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def reset(self, seed: int, clocks: np.ndarray) -> torch.Tensor:
        """See Engine.reset."""
        self._ended = None
        return self._engine.reset(seed, clocks * self._times)

    def send(self, action: torch.Tensor, overlap: bool = True) -> None:
        """See Engine.send."""
        self._ended = None
        self._action = action
        self._engine.send(action, overlap)

    def recv(self) -> Step:
        """See Engine.recv."""
        assert self._action is not None
        step = self._engine.recv()
        for _ in range(1, self._times):
            if not self.autoreset:
                self._keep(step.done)
            self._engine.send(self._action, overlap=False)
            step = _joined(step, self._engine.recv())
        done = step.done.cpu().numpy()
        if self.autoreset and done.any():
            first = self._engine.restart(done)
            step = step._replace(obs=torch.where(step.done[:, None], first, step.obs))
        return step

    def clocks(self) -> torch.Tensor:
        """See Engine.clocks; in steps of this engine."""
        return self._in_steps(self._engine.clocks())

    def get_state(self) -> dict[str, torch.Tensor]:
        """See Engine.get_state; of a world whose episode has ended, that at its end."""
        state = self._engine.get_state()
        return _where(*self._ended, state) if self._ended else state

    def set_state(self, state: dict[str, np.ndarray]) -> torch.Tensor:
        """See Engine.set_state."""
        if self._ended:
            current = {k: v.cpu().numpy().astype(np.float64) for k, v in self.get_state().items()}
            state, self._ended = current | state, None
        return self._engine.set_state(state)

    def state_dict(self) -> dict[str, Any]:
        """See Engine.state_dict."""
        state = self._engine.state_dict()
        ended = self._ended and (
            self._ended[0].cpu(),
            {k: v.cpu() for k, v in self._ended[1].items()},
        )
        return state | {"clocks": self._in_steps(state["clocks"]), "ended_within": ended}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See Engine.load_state_dict."""
        ended = state.get("ended_within")
        others = {k: v for k, v in state.items() if k != "ended_within"}
        self._engine.load_state_dict(others | {"clocks": state["clocks"] * self._times})
        where = self._engine.device
        self._ended = ended and (ended[0].to(where), {k: v.to(where) for k, v in ended[1].items()})

    def restart(self, worlds: np.ndarray, seeds: Sequence[int] | None = None) -> torch.Tensor:
        """See Engine.restart."""
        if self._ended:
            where, state = self._ended
            self._ended = where & ~torch.from_numpy(worlds.copy()).to(where.device), state
        return self._engine.restart(worlds, seeds)

    def _keep(self, ended: torch.Tensor) -> None:
        """Keeps the states of worlds that have ended (B,) and were not kept before."""
        if not ended.any():
            return
        state = self._engine.get_state()
        self._ended = ended, _where(*self._ended, state) if self._ended else state

    def _in_steps(self, clocks: torch.Tensor) -> torch.Tensor:
        return -(-clocks // self._times)  # of a whole one where the episode ended within it


def _where(
    worlds: torch.Tensor, one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Returns one state in some worlds (B,) and another in the rest."""
    return {
        k: torch.where(worlds.view(-1, *[1] * (v.dim() - 1)), one[k], v) for k, v in other.items()
    }


def _joined(one: Step, two: Step) -> Step:
    """Returns two steps as one, of which worlds that ended with the first have no second."""
    ended = one.done
    fault = torch.where(ended, one.fault, two.fault)
    obs = torch.where(ended[:, None], one.final_obs, two.final_obs)
    reward = one.reward + two.reward.masked_fill(ended, 0)
    return Step(
        obs=obs,
        final_obs=obs.clone(),
        reward=reward.masked_fill(fault > 0, 0),
        terminated=torch.where(ended, one.terminated, two.terminated),
        truncated=torch.where(ended, one.truncated, two.truncated),
        fault=fault,
        done=ended | two.done,
    )
