"""Checks of a configuration's fields against their annotations, and of anything else it needs."""

import functools
import operator
import reprlib
import types
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np

from fastsac.errors import ConfigError

# What a float32 tensor and an int64 one can hold.
LARGEST_FLOAT, _LARGEST_INT = 3.4e38, 2**63 - 1


def require(holds: bool, sentence: str) -> None:
    """Raises ConfigError with a sentence about the flags where something does not hold."""
    if not holds:
        raise ConfigError(sentence)


def require_types(config: Any) -> None:
    """Refuses a value that is none of its field's annotation; numpy's numbers become Python's.

    Args:
        config: an instance of a dataclass whose fields are named as their flags are.

    Raises:
        ConfigError: with the flag, what it takes and what it got.
    """
    for name, kind in _annotations(config.__class__).items():
        value = getattr(config, name)
        if (plain := _plain(value)) is not value:
            object.__setattr__(config, name, plain)  # which may be frozen
        if not _is_a(plain, kind):
            try:
                got = " ".join(reprlib.repr(value).split())
            except ValueError:  # an integer of more digits than Python prints
                got = f"{type(value).__name__} of unprintable size"
            flag = f"--{name.replace('_', '-')}" if name not in ("task", "sac") else name
            raise ConfigError(f"{flag} must be {_in_words(kind)}, got {got}")


def integers(*values: Any) -> tuple[int, ...] | None:
    """Returns integers of any type as Python's, or None where one is no integer."""
    try:
        flags = any(isinstance(value, bool | np.bool_) for value in values)
        return None if flags else tuple(map(operator.index, values))
    except TypeError:
        return None


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple) and any(isinstance(part, np.generic) for part in value):
        return tuple(map(_plain, value))
    return value


@functools.cache
def _annotations(config: type) -> dict[str, Any]:
    return get_type_hints(config)


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a value is of an annotation; a bool is no number, and numbers are finite."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return isinstance(value, str) and value in parts
    if origin is types.UnionType:
        return any(_is_a(value, part) for part in parts)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        parts = parts[:1] * len(value) if parts[-1] is ... else parts
        return len(value) == len(parts) and all(map(_is_a, value, parts))
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, int | float) and abs(value) <= LARGEST_FLOAT
    return isinstance(value, kind) and (kind is not int or abs(value) <= _LARGEST_INT)


def _in_words(kind: Any) -> str:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(parts)}"
    if origin is types.UnionType:
        return " or ".join(map(_in_words, parts))
    if origin is tuple:
        count = "" if parts[-1] is ... else f"{len(parts)} times "
        return f"a tuple of {count}{_in_words(parts[0])}"
    words = {bool: "True or False", int: "an integer below 2**63", str: "text"}
    words |= {float: "a finite number (of float32)", types.NoneType: "None"}
    return words.get(kind, f"a {kind.__name__}")
