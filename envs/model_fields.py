"""MjModel's arrays and options by name, and which of them somebody writes.

An option's name is that of MjOption behind ``opt.``, such as ``opt.gravity``.
"""

import operator
from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np

# What is drawn on a screen and moves nothing; dm_control itself colours what its tasks reward.
_SEEN_ONLY = ("light_", "mat_", "skin_", "tex_")
_OPTIONS = [f"opt.{k}" for k in dir(mujoco.MjOption) if not k.startswith("_")]
# The options that a GPU's engines can keep a world's own value of.
PER_WORLD_OPTIONS = {
    *("opt.timestep", "opt.gravity", "opt.wind", "opt.magnetic", "opt.density", "opt.viscosity"),
}
_WORD = 8  # bytes that are compared at a time


def field(model: mujoco.MjModel, name: str) -> np.ndarray:
    """Returns an array of the model, or an option; a view, but for options that are one number.

    Raises:
        AttributeError: there is none of that name.
    """
    return np.asarray(getattr(*_place(model, name)))


def write_field(model: mujoco.MjModel, name: str, value: np.ndarray) -> None:
    """Writes an array of the model, or an option."""
    owner, last = _place(model, name)
    current = getattr(owner, last)
    if isinstance(current, np.ndarray):
        current[...] = value
    else:
        setattr(owner, last, type(current)(value))


def _place(model: mujoco.MjModel, name: str) -> tuple[Any, str]:
    return (model.opt, name[4:]) if name.startswith("opt.") else (model, name)


def numeric_arrays(model: mujoco.MjModel) -> dict[str, np.ndarray]:
    """Returns the model's numeric arrays by name; views."""
    arrays = {k: getattr(model, k) for k in dir(model) if not k.startswith("_")}
    return {k: v for k, v in arrays.items() if isinstance(v, np.ndarray) and v.dtype.kind in "fiub"}


class WrittenFields:
    """Tells which arrays and options of a model were written since ``begin``.

    A humanoid's 197 arrays take 20 us, so that every episode can be looked at. Colours, lights and
    textures are left out, and so is what MuJoCo only derives for its display and its solver's
    tolerance (``stat``).

    Args:
        model: the model.
    """

    def __init__(self, model: mujoco.MjModel):
        self.model = model
        options = {k: field(model, k) for k in _OPTIONS}
        self._numbers = [k for k, v in options.items() if not v.ndim]
        self._read_numbers = operator.attrgetter(*self._numbers)
        arrays = numeric_arrays(model) | {k: v for k, v in options.items() if v.ndim}
        self._arrays = {
            k: v.reshape(-1).view(np.uint8)
            for k, v in arrays.items()
            if v.size and "rgba" not in k and not k.startswith(_SEEN_ONLY)
        }
        self._size = sum(v.size for v in self._arrays.values())
        self._before, self._now = (np.zeros(-(-self._size // _WORD), np.uint64) for _ in range(2))
        self.begin()

    def begin(self) -> None:
        """Takes what the model holds now as unwritten."""
        self._copy(self._before)
        self._numbers_before = self._read_numbers(self.model)

    def names(self) -> Sequence[str]:
        """Returns what was written, an array where a byte of it differs."""
        self._copy(self._now)
        numbers = self._read_numbers(self.model)
        if numbers == self._numbers_before and np.array_equal(self._now, self._before):
            return ()
        pairs = zip(self._numbers, numbers, self._numbers_before, strict=True)
        found = [name for name, now, before in pairs if now != before]
        differs, end = self._now.view(np.uint8) != self._before.view(np.uint8), 0
        for name, view in self._arrays.items():
            start, end = end, end + view.size
            if differs[start:end].any():
                found.append(name)
        return found

    def _copy(self, into: np.ndarray) -> None:
        np.concatenate([*self._arrays.values()], out=into.view(np.uint8)[: self._size])
