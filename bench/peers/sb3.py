"""Stable-Baselines3's SAC in torch, replay in numpy. SBX's is the same but for the updates."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.logger import Logger

from fastsac.bench import device, learner, stepping
from fastsac.bench.peers import dm_control_env


class _Sizes(gymnasium.Env):
    """Nothing but the spaces to build networks by."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (learner.OBS_DIM,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (learner.ACTION_DIM,), np.float32)

    def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Returns zeros."""
        return np.zeros(learner.OBS_DIM, np.float32), {}


def open_learner(batch: int, width: int, updates: int) -> Any:
    """Opens its ``train``, so many updates a call."""
    return device.repeated(partial(filled(SAC, width).train, updates, batch), updates)


def filled(algorithm: Any, width: int) -> Any:
    """Returns an algorithm with a full replay, of the sizes in bench.learner."""
    model = _model(algorithm, _Sizes(), width)
    buffer = model.replay_buffer
    # Each (size, 1 world, ...), written whole: add() takes one transition at a time.
    columns = ("observations", "actions", "rewards", "dones", "next_observations")
    for name, values in zip(columns, learner.transitions(), strict=True):
        column = getattr(buffer, name)
        column[:] = values.cpu().numpy().reshape(column.shape)
    buffer.full = True
    return model


def open_training(task: str) -> Any:
    """Opens its ``learn`` in a world of a task."""
    return trained(task, SAC, _wait)


@contextmanager
def trained(task: str, algorithm: Any, wait: Callable[[Any], Any]) -> Iterator[Callable[[], int]]:
    """Opens an algorithm's ``learn`` after its first steps, which update nothing.

    Args:
        task: our name of a task of dm_control's suite.
        algorithm: a class of SB3's, or derived from them.
        wait: for the device, given the model.
    """
    env = dm_control_env.maker(task)()
    try:
        model = _model(algorithm, env, 256)
        model.learn(model.learning_starts, log_interval=None)

        def advance(steps: int) -> int:
            model.learn(steps, log_interval=None, reset_num_timesteps=False)
            wait(model)
            return steps

        yield stepping.trained(advance)
    finally:
        env.close()


def _model(algorithm: Any, env: gymnasium.Env, width: int) -> Any:
    networks = {"net_arch": [width, width]}
    size = learner.TRANSITIONS
    model = algorithm("MlpPolicy", env, batch_size=256, buffer_size=size, policy_kwargs=networks)
    model.set_logger(Logger(None, []))  # of which train() wants one
    return model


def _wait(_: SAC) -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
