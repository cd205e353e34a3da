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

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def reset(self, seed: int, clocks: np.ndarray) -> torch.Tensor:
        """See Engine.reset."""
        return self._engine.reset(seed, clocks * self._times)

    def send(self, action: torch.Tensor, overlap: bool = True) -> None:
        """See Engine.send."""
        self._action = action
        self._engine.send(action, overlap)

    def recv(self) -> Step:
        """See Engine.recv."""
        assert self._action is not None
        step = self._engine.recv()
        for _ in range(1, self._times):
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

    def state_dict(self) -> dict[str, Any]:
        """See Engine.state_dict."""
        state = self._engine.state_dict()
        return state | {"clocks": self._in_steps(state["clocks"])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See Engine.load_state_dict."""
        self._engine.load_state_dict(state | {"clocks": state["clocks"] * self._times})

    def restart(self, worlds: np.ndarray, seeds: Sequence[int] | None = None) -> torch.Tensor:
        """See Engine.restart."""
        return self._engine.restart(worlds, seeds)

    def _in_steps(self, clocks: torch.Tensor) -> torch.Tensor:
        return -(-clocks // self._times)  # of a whole one where the episode ended within it


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
