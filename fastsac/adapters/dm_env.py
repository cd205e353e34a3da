"""dm_env's Environment: one world, for code that was written for dm_control or acme."""

from typing import Any

import dm_env
import numpy as np
from dm_env import specs

from fastsac.envs.gymnasium_envs import GymnasiumEnv


class Environment(dm_env.Environment):
    """One world of a task, its observations by dm_control's names, in float32 or pixels in uint8.

    Actions are in [-1, 1], which dm_control's action_spec is mapped to.

    Args:
        task: as in ``fastsac.make``.
        of_make: other arguments of ``fastsac.make``, such as engine, pixels, seed; without a seed
            the episodes differ from run to run, as those of ``suite.load`` do.

    Raises:
        ValueError: as ``fastsac.make``.
    """

    def __init__(self, task: str, **of_make: Any):
        if of_make.pop("flatten", False):
            raise ValueError("dm_env's observations are dicts: no flatten")
        self._env = GymnasiumEnv(task, **of_make, flatten=False)
        self._suite = self._env.suite
        self._ended = True

    def reset(self) -> dm_env.TimeStep:
        """Starts an episode."""
        obs, _ = self._env.reset()
        self._ended = False
        return dm_env.restart(obs)

    def step(self, action: Any) -> dm_env.TimeStep:
        """Steps by one control step; after the last one, or before the first, as ``reset``.

        Args:
            action: (A,) of any real type, rounded to float32.

        Raises:
            TypeError, ValueError: an action that is none.
        """
        if self._ended:
            return self.reset()
        obs, reward, terminated, truncated, info = self._env.step(action)
        self._ended = terminated or truncated
        kind = dm_env.StepType.LAST if self._ended else dm_env.StepType.MID
        discount = 0.0 if terminated or info["invalid"] else 1.0
        return dm_env.TimeStep(kind, reward, discount, obs)

    def observation_spec(self) -> dict[str, specs.Array]:
        """Returns the specs by dm_control's names."""
        return {k: specs.Array(v, self._suite.dtype, k) for k, v in self._suite.shapes.items()}

    def action_spec(self) -> specs.BoundedArray:
        """Returns the spec of actions (A,) in [-1, 1]."""
        return specs.BoundedArray((self._suite.action_dim,), np.float32, -1, 1, "action")

    def close(self) -> None:
        """Ends the engine's threads."""
        self._env.close()
