"""Model fields that the user draws anew for each episode of each world (domain randomisation)."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import mujoco
import numpy as np

from fastsac.envs.model_fields import field, numeric_arrays, write_field

Draw = Callable[[np.random.Generator, np.ndarray], np.ndarray]

# Trial draws, to learn which of the model's other arrays MuJoCo derives from the drawn ones.
_TRIALS = 16
_LARGEST_DERIVED = 100_000  # entries; larger arrays are assets


class Randomization:
    """Draws values of MjModel's arrays and options, and refreshes what MuJoCo derives from them.

    Args:
        draws: field name -> function (numpy Generator, default array) -> array of the same
            shape. Called once per episode and world, with a copy of the model's own values.
        model: the compiled model.

    Raises:
        ValueError: a name is no floating-point array or option of MjModel, a function is none, or
            what it returns has another shape or is not finite.
    """

    def __init__(self, draws: Mapping[str, Draw], model: mujoco.MjModel | None):
        if not isinstance(draws, Mapping):
            raise ValueError(f"randomize must be a dict of functions, got {type(draws).__name__}")
        self._draws = dict(draws)
        self._defaults: dict[str, np.ndarray] = {}
        self.drawn = tuple(self._draws)
        self.written: tuple[str, ...] = ()
        if model is None:
            return
        for name, draw in self._draws.items():
            value = _floats(model, name)
            if value is None:
                raise ValueError(f"randomize: MjModel has no floating-point array {name!r}")
            if not callable(draw):
                raise ValueError(f"randomize: {name} needs a function, got {type(draw).__name__}")
            self._defaults[name] = value.copy()
        self.written = (*self.drawn, *self._derived(model))

    def apply(self, model: mujoco.MjModel, random: np.random.Generator) -> None:
        """Writes new values into the model."""
        for name, draw in self._draws.items():
            default = self._defaults[name]
            value = np.asarray(draw(random, default.copy()))
            if value.shape != default.shape:
                raise ValueError(f"randomize: {name} must be {default.shape}, got {value.shape}")
            if value.dtype.kind not in "fiu" or not np.isfinite(value).all():
                raise ValueError(f"randomize: {name} must be finite numbers")
            write_field(model, name, value)
        _set_constants(model)

    def _derived(self, model: mujoco.MjModel) -> list[str]:
        """Returns the names of the arrays that follow the drawn ones, as trial draws show."""
        same, moved = copy.copy(model), copy.copy(model)
        _set_constants(same)
        expected = _small_arrays(same)
        changed = set[str]()
        for trial in range(_TRIALS):
            self.apply(moved, np.random.default_rng(trial))
            found = _small_arrays(moved)
            changed |= {k for k, v in expected.items() if not np.array_equal(v, found[k])}
        return sorted(changed - set(self.drawn))


def _small_arrays(model: mujoco.MjModel) -> dict[str, np.ndarray]:
    """Returns the model's numeric arrays by name, its assets left out; views."""
    return {k: v for k, v in numeric_arrays(model).items() if v.size < _LARGEST_DERIVED}


def _floats(model: mujoco.MjModel, name: Any) -> np.ndarray | None:
    if not isinstance(name, str) or name.startswith("_"):
        return None
    try:
        value = field(model, name)
    except AttributeError:
        return None
    return value if value.dtype.kind == "f" else None


def _set_constants(model: mujoco.MjModel) -> None:
    try:
        mujoco.mj_setConst(model, mujoco.MjData(model))
    except mujoco.FatalError as error:
        raise ValueError(f"randomize: MuJoCo refuses the values drawn: {error}") from error


NONE = Randomization({}, None)
