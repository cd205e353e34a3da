"""SBX's SAC in JAX; many updates a call are one compiled loop. Its replay is numpy's."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
from sbx import SAC

from fastsac.bench import device
from fastsac.bench.peers import sb3


class _Float32(SAC):
    """On a GPU JAX would multiply in TF32 by default."""

    def train(self, *args: Any, **named: Any) -> None:
        """Trains in float32."""
        with jax.default_matmul_precision("highest"):
            super().train(*args, **named)


@contextmanager
def open_learner(batch: int, width: int, updates: int) -> Iterator[Callable[[], int]]:
    """Opens its ``train``, so many updates a call."""
    device.require_one()
    model = sb3.filled(_Float32, width)

    def train() -> None:
        model.train(updates, batch)
        _wait(model)

    with device.repeated(train, updates) as work:
        yield work


def open_training(task: str) -> Any:
    """Opens its ``learn`` in a world of a task."""
    device.require_one()
    return sb3.trained(task, _Float32, _wait)


def _wait(model: SAC) -> None:
    jax.block_until_ready((model.policy.actor_state.params, model.policy.qf_state.params))
