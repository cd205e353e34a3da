"""Gymnasium's AsyncVectorEnv: dm_control's own worlds, a process each, float32 out."""

import multiprocessing
from functools import partial
from typing import Any

import absl.logging
import gymnasium
from gymnasium.vector import AsyncVectorEnv

from fastsac.bench.peers import dm_control_env
from fastsac.bench.stepping import random_actions, stepped

# Imported once by the server that the worlds' processes are forked from: they share that memory.
_IMPORTED = ["shimmy", "gymnasium.vector", "gymnasium.wrappers.transform_action"]


def open_env(task: str, num_envs: int) -> Any:
    """Its vector step: an action array in, an array of all worlds' observations out."""
    make = dm_control_env.maker(task)

    def make_quietly() -> gymnasium.Env:
        if multiprocessing.parent_process():  # what dm_control warns of, the first world said
            absl.logging.set_verbosity(absl.logging.ERROR)
        return make()

    multiprocessing.set_forkserver_preload(_IMPORTED)
    # This process has threads of torch's and jax's: it must not be forked itself.
    env: Any = AsyncVectorEnv([make_quietly] * num_envs, context="forkserver")
    close = partial(_close, env)
    try:
        env.reset(seed=0)  # that of the first world
        actions = random_actions(num_envs, env.single_action_space.shape[0]).numpy()
    except BaseException:
        close()
        raise
    return stepped(env.step, list(actions), num_envs, close)


def _close(env: AsyncVectorEnv) -> None:
    """Ends the processes; its own close would wait for answers, which dead ones do not give."""
    for process in env.processes:
        process.terminate()
    for process in env.processes:
        process.join()
    for pipe in filter(None, env.parent_pipes):  # None: of a world that raised an error
        pipe.close()
    env.closed = True
