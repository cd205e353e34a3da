"""What users give to make, reset and set_state: numbers, seeds, options and states."""

import math
import numbers
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


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


def seconds(name: str, value: Any, finite: bool = False) -> float:
    """Returns a positive number of any type as Python's.

    Raises:
        ValueError: it is none, or not above 0, or infinite where that is not allowed.
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (is_number and value > 0 and (value != math.inf or not finite)):  # nor is NaN
        raise ValueError(f"{name} must be a positive number, got {value!r}")
    return float(value)


def checked_options(options: Any, num_envs: int) -> tuple[np.ndarray | None, bool]:
    """Returns reset_mask (B,) bool, None for all worlds, and spread_clocks.

    Raises:
        TypeError, ValueError: no dict, an unknown option, or one of another type or shape.
    """
    options = {} if options is None else options
    if not isinstance(options, Mapping):
        raise TypeError(f"options must be a dict, got {type(options).__name__}")
    if unknown := options.keys() - {"spread_clocks", "reset_mask"}:
        raise ValueError(
            f"unknown reset option {unknown.pop()!r}; there are spread_clocks and reset_mask"
        )
    spread = options.get("spread_clocks", False)
    if not isinstance(spread, bool):
        raise ValueError(f"spread_clocks is a bool, got {spread!r}")
    if "reset_mask" not in options:
        return None, spread
    mask = options["reset_mask"]
    which = mask.cpu().numpy() if isinstance(mask, torch.Tensor) else np.asarray(mask)
    if which.dtype != bool or which.shape != (num_envs,) or not which.any():
        raise ValueError(
            f"reset_mask must be ({num_envs},) bool with a True, got {which.shape} {which.dtype}"
        )
    if spread:
        raise ValueError("spread_clocks is for all worlds, without a reset_mask")
    return which, False


def checked_seeds(
    seed: Any, num_envs: int, which: np.ndarray | None
) -> tuple[int | None, list[int] | None]:
    """Returns the seed of the sequence of initial states, and those of single worlds, if any.

    Args:
        seed: None, an integer, or a list of them, one a world; those of worlds that go on may be
            anything.
        num_envs: the number of worlds.
        which: (B,) bool, the worlds that begin an episode; None is all of them.

    Raises:
        ValueError: a seed that is none, or a list of another length.
    """
    if seed is None:
        return None, None
    if is_list(seed):
        if len(seed) != num_envs:
            raise ValueError(f"a list of seeds has one a world, {num_envs}, got {len(seed)}")
        chosen = range(num_envs) if which is None else np.flatnonzero(which)
        seeds = [integer("seed", seed[i], 0) for i in chosen]
        return int(np.random.SeedSequence(seeds).generate_state(1)[0]), seeds
    if which is not None and not which.all():
        raise ValueError("beside a reset_mask seed is a list, one a world, or None")
    return integer("seed", seed, 0), None


def is_list(seed: Any) -> bool:
    """Returns whether a seed is a list of them."""
    return isinstance(seed, list | tuple) or (isinstance(seed, np.ndarray) and seed.ndim > 0)


def require_action(action: torch.Tensor, shape: tuple[int, int], device: torch.device) -> None:
    """Raises ValueError where an action has another shape or lies on another device."""
    if tuple(action.shape) != shape:
        raise ValueError(f"action must have shape {shape}, got {tuple(action.shape)}")
    if action.device != device:
        raise ValueError(f"action must be on {device}, got {action.device}")


def checked_rows(state: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Returns a state's fields as float64.

    Args:
        state: name -> tensor or array.
        shapes: of the fields that there are.

    Raises:
        TypeError, ValueError: no dict, an unknown field, no real numbers, or a wrong shape.
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"state must be a dict of arrays, got {type(state).__name__}")
    rows = {}
    for name, value in state.items():
        if name not in shapes:
            raise ValueError(f"unknown state field {name!r}; there are {', '.join(shapes)}")
        array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
        array = np.asarray(array)
        if array.dtype.kind not in "fiu":
            raise TypeError(f"{name} must hold real numbers, got {array.dtype}")
        rows[name] = array.astype(np.float64)
        if rows[name].shape != shapes[name]:
            raise ValueError(f"{name} must be {shapes[name]}, got {rows[name].shape}")
    return rows


def require_kind(given: Mapping[str, Any] | None, own: Mapping[str, Any]) -> None:
    """Refuses a state_dict of an env of another kind.

    Args:
        given: what the state says of its env; None of a state from before it said anything.
        own: what this env says.

    Raises:
        ValueError: with what differs.
    """
    if given is None:
        return
    differs = [f"{k} {given.get(k)!r} for {v!r}" for k, v in own.items() if given.get(k) != v]
    if differs:
        raise ValueError(f"the state is of another env: {', '.join(differs)}")
