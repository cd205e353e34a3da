"""SBX's SAC in JAX; many updates a call are one compiled loop. Its replay is numpy's."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import jax
import numpy as np
import torch
from sbx import SAC
from stable_baselines3.common.logger import Logger

from fastsac.bench import device, learner
from fastsac.bench.harness import Unavailable


class _Sizes(gymnasium.Env):
    """Nothing but the spaces, for SBX to build its networks by."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (learner.OBS_DIM,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (learner.ACTION_DIM,), np.float32)

    def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Returns zeros."""
        return np.zeros(learner.OBS_DIM, np.float32), {}


@contextmanager
def open_learner(batch: int, width: int, updates: int) -> Iterator[Callable[[], int]]:
    """Opens its ``train``, so many updates a call."""
    if (jax.default_backend() != "cpu") != torch.cuda.is_available():
        raise Unavailable(f"jax runs on {jax.default_backend()}, torch on {device.device_type()}")
    networks = {"net_arch": [width, width]}
    size = learner.TRANSITIONS
    model = SAC("MlpPolicy", _Sizes(), buffer_size=size, policy_kwargs=networks)
    model.set_logger(Logger(None, []))  # of which train() wants one
    buffer = model.replay_buffer
    # Each (size, 1 world, ...), written whole: add() takes one transition at a time.
    columns = ("observations", "actions", "rewards", "dones", "next_observations")
    for name, values in zip(columns, learner.transitions(), strict=True):
        column = getattr(buffer, name)
        column[:] = values.cpu().numpy().reshape(column.shape)
    buffer.full = True

    def train() -> None:
        model.train(updates, batch)
        jax.block_until_ready((model.policy.actor_state.params, model.policy.qf_state.params))

    with device.repeated(train, updates) as work:
        yield work
