"""SBX's SAC in JAX; many updates a call are one compiled loop. Its replay is numpy's."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import torch
from sbx import SAC

from fastsac.bench import device
from fastsac.bench.harness import Unavailable
from fastsac.bench.peers import sb3


@contextmanager
def open_learner(batch: int, width: int, updates: int) -> Iterator[Callable[[], int]]:
    """Opens its ``train``, so many updates a call."""
    _check_devices()
    model = sb3.filled(SAC, width)

    def train() -> None:
        model.train(updates, batch)
        _wait(model)

    with device.repeated(train, updates) as work:
        yield work


def open_training(task: str) -> Any:
    """Opens its ``learn`` in a world of a task."""
    _check_devices()
    return sb3.trained(task, SAC, _wait)


def _check_devices() -> None:
    if (jax.default_backend() != "cpu") != torch.cuda.is_available():
        raise Unavailable(f"jax runs on {jax.default_backend()}, torch on {device.device_type()}")


def _wait(model: SAC) -> None:
    jax.block_until_ready((model.policy.actor_state.params, model.policy.qf_state.params))
