"""Integers and seeds as users write them: Python's, numpy's, torch's or jax's."""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np


def integer(name: str, value: Any, least: int) -> int:
    """Returns an integer of any type as Python's.

    Raises:
        ValueError: it is none, or below ``least``.
    """
    try:
        number = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least:
        shown = " ".join(repr(value).split())[:100]
        raise ValueError(f"{name} must be an integer of at least {least}, got {shown}")
    return number


def one_per_world(seeds: Sequence[Any] | np.ndarray, num_envs: int) -> list[int]:
    """Returns a list of seeds, one a world.

    Raises:
        ValueError: there are more or fewer than worlds, or one is no seed.
    """
    if len(seeds) != num_envs:
        raise ValueError(f"a list of seeds has one a world, {num_envs}, got {len(seeds)}")
    return [integer("seed", seed, 0) for seed in seeds]


def combined(seeds: Sequence[int]) -> int:
    """Returns one seed that a list of seeds fixes."""
    return int(np.random.SeedSequence(list(seeds)).generate_state(1)[0])
