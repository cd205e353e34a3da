"""One world of dm_control itself as a gymnasium.Env, through Shimmy."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.wrappers import FlattenObservation, RescaleAction, TransformObservation

from fastsac.envs.registry import find


def maker(task: str, seed: int = 0) -> Callable[[], Any]:
    """Returns what makes a world, a gymnasium.Env: flat float32 observations, actions in [-1, 1].

    What it returns can be sent to a process, which then imports neither this package nor torch or
    jax: cloudpickle sends the code of local functions.

    Args:
        task: our name of a task of dm_control's suite.
        seed: as dm_control takes it; ``reset(seed=...)`` begins another one.
    """
    entry = find(task)
    name = f"shimmy:dm_control/{entry.domain}-{entry.name}-v0"

    def make() -> gymnasium.Env:
        env = gymnasium.make(name, task_kwargs={"random": seed}, disable_env_checker=True)
        env = RescaleAction(FlattenObservation(env), np.float64(-1), np.float64(1))
        space = Box(-np.inf, np.inf, env.observation_space.shape, np.float32)
        return TransformObservation(env, np.float32, space)

    return make
