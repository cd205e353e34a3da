"""The modes NEXT_STEP and DISABLED, for an engine that does not reset worlds by itself."""

from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from fastsac.envs.engines import Engine, Step


class EndedWorlds:
    """Remembers whose episode ended, until the next one begins.

    Args:
        engine: with ``autoreset`` off.
        num_envs: the number of worlds.
        mode: NEXT_STEP or DISABLED.
    """

    def __init__(self, engine: Engine, num_envs: int, mode: AutoresetMode):
        self._engine, self._mode = engine, mode
        self._ended = np.zeros(num_envs, bool)
        self._last_obs: torch.Tensor | None = None

    def action(self, action: torch.Tensor) -> torch.Tensor:
        """Returns the action (B, A) to send: zeros for worlds whose step will be a reset.

        Raises:
            RuntimeError: DISABLED, and an episode has ended.
        """
        if not self._ended.any():
            return action
        if self._mode is AutoresetMode.DISABLED:
            worlds = ", ".join(map(str, np.flatnonzero(self._ended)))
            raise RuntimeError(
                f"the episodes of worlds {worlds} have ended: begin new ones with "
                'reset(options={"reset_mask": ...})'
            )
        return torch.where(self._tensor(self._ended, action)[:, None], 0, action)

    def step(self, step: Step) -> Step:
        """Returns the step as the mode has it; waits for the device."""
        begun, self._ended = self._ended, step.done.cpu().numpy().copy()
        if begun.any():
            where = self._tensor(begun, step.obs)
            obs = torch.where(where[:, None], self._engine.restart(begun), step.obs)
            others = (x.masked_fill(where, 0) for x in step[2:])
            step = Step(obs, obs.clone(), *others)
            self._ended &= ~begun
        self._last_obs = step.obs.clone()
        return step

    def begun(self, which: np.ndarray, obs: torch.Tensor) -> torch.Tensor:
        """Returns obs (B, obs_dim) after episodes began in some worlds.

        Those of the others are what was returned last: a diverged world's zeros, whatever it holds.
        """
        if self._last_obs is not None:
            obs = torch.where(self._tensor(which, obs)[:, None], obs, self._last_obs)
        self._ended &= ~which
        self.put(obs)
        return obs

    def put(self, obs: torch.Tensor) -> None:
        """Takes note of observations (B, obs_dim) that are about to be returned."""
        self._last_obs = obs.clone()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Returns all that load_state_dict goes on from, on the CPU."""
        assert self._last_obs is not None, "reset comes first"
        return {
            "ended": torch.from_numpy(self._ended.copy()),
            "last_obs": self._last_obs.cpu().clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what state_dict returned."""
        self._ended = state["ended"].numpy().copy()
        self._last_obs = state["last_obs"].to(self._engine.device)

    @staticmethod
    def _tensor(worlds: np.ndarray, beside: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(worlds.copy()).to(beside.device)
