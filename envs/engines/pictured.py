"""An engine whose observations are pictures of another one's worlds: ``pixels``."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from fastsac.envs.engines import Engine, Step
from fastsac.envs.rendering import Cameras


class Pictured:
    """Hands out pictures from dm_control's camera 0, uint8 and flat, rendered by processes.

    A step waits for the device and for the pictures. A world that diverged is not looked at: its
    last observation is black.

    Args:
        engine: what steps the worlds.
        num_envs: the number of worlds.
        height: of a picture, pixels.
        width: of a picture, pixels.

    Raises:
        RuntimeError: there is no OpenGL here.
    """

    def __init__(self, engine: Engine, num_envs: int, height: int, width: int):
        self._engine = engine
        self.autoreset = True
        engine.autoreset = False
        parts = {"pixels": (height, width, 3)}
        self.suite = dataclasses.replace(engine.suite, parts=parts, dtype=np.uint8)
        self.obs_dim = self.suite.obs_dim
        try:
            self._cameras = Cameras(engine.suite, num_envs, height, width)
        except BaseException:
            engine.close()
            raise
        self._pictures = np.zeros((num_envs, self.obs_dim), np.uint8)
        self._everywhere = np.ones(num_envs, bool)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def reset(self, seed: int, clocks: np.ndarray) -> torch.Tensor:
        """See Engine.reset."""
        self._engine.reset(seed, clocks)
        return self._seen(self._everywhere)

    def restart(self, worlds: np.ndarray, seeds: Sequence[int] | None = None) -> torch.Tensor:
        """See Engine.restart."""
        self._engine.restart(worlds, seeds)
        return self._seen(worlds)

    def recv(self) -> Step:
        """See Engine.recv."""
        step = self._engine.recv()
        invalid = step.invalid.cpu().numpy()
        self._pictures[invalid] = 0
        obs = final_obs = self._seen(~invalid)
        done = step.done.cpu().numpy()
        if self.autoreset and done.any():
            obs = self.restart(done)
        return step._replace(obs=obs, final_obs=final_obs if obs is not final_obs else obs.clone())

    def set_state(self, state: dict[str, np.ndarray]) -> torch.Tensor:
        """See Engine.set_state."""
        self._engine.set_state(state)
        return self._seen(self._everywhere)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See Engine.load_state_dict."""
        self._engine.load_state_dict(state)
        self._seen(self._everywhere)

    def close(self) -> None:
        """See Engine.close."""
        self._cameras.close()
        self._engine.close()

    def _seen(self, worlds: np.ndarray) -> torch.Tensor:
        """Looks at some worlds anew, and returns the pictures (B, H * W * 3) of all."""
        if worlds.any():
            state = {k: v.cpu().numpy()[worlds] for k, v in self._engine.get_state().items()}
            self._pictures[worlds] = self._cameras.frames(state).reshape(-1, self.obs_dim)
        return torch.tensor(self._pictures, device=self._engine.device)
