"""Steps to time: of worlds by random actions, where those bring them, and of trainings."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from fastsac.bench.harness import closing

# Steps before the timing, so that the worlds are where random actions bring them: fallen.
SETTLE_STEPS = 50
_MEASURED_STEPS = 10  # the last of those, which say how many fill a repetition
_SECONDS_PER_REPETITION = 0.3
_TRAINED_STEPS = 20  # before the timing of a training, and those which say how many to time
_SECONDS_OF_TRAINING = 0.5
_ACTIONS = 64  # that many different ones, over and over


def random_actions(num_envs: int, action_dim: int) -> torch.Tensor:
    """Returns uniform actions (_ACTIONS, B, A) in [-1, 1], the same for every engine and peer."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand((_ACTIONS, num_envs, action_dim), generator=generator) * 2 - 1


def stepped(
    step: Callable[[Any], Any],
    actions: Sequence[Any],
    num_envs: int,
    close: Callable[[], None],
    wait: Callable[[], None] = lambda: None,
) -> Any:
    """Opens vector steps that fill a repetition, for Case.open.

    Args:
        step: a vector step.
        actions: what it takes, in turn.
        num_envs: control steps of a vector step.
        close: called at the end.
        wait: for a device that steps on its own.
    """

    def steps(count: int) -> int:
        for i in range(count):
            step(actions[i % len(actions)])
        wait()
        return count * num_envs

    try:
        steps(SETTLE_STEPS - _MEASURED_STEPS)
        start = time.perf_counter()
        steps(_MEASURED_STEPS)
        per_step = (time.perf_counter() - start) / _MEASURED_STEPS
    except BaseException:
        close()
        raise
    return closing(partial(steps, max(3, int(_SECONDS_PER_REPETITION / per_step))), close)


def trained(advance: Callable[[int], int]) -> Callable[[], int]:
    """Returns work that trains for about a repetition's time.

    Args:
        advance: trains for so many vector steps, waits for the device, and returns how many
            environment steps those were.
    """
    advance(_TRAINED_STEPS)
    start = time.perf_counter()
    advance(_TRAINED_STEPS)
    per_step = (time.perf_counter() - start) / _TRAINED_STEPS
    return partial(advance, max(1, int(_SECONDS_OF_TRAINING / per_step)))
