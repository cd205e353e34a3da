"""Model fields that the user draws anew for each episode of each world (domain randomisation)."""

import copy
from collections.abc import Callable, Mapping

import mujoco
import numpy as np

Draw = Callable[[np.random.Generator, np.ndarray], np.ndarray]

# What mj_setConst computes from the other fields and physics reads.
_DERIVED = (
    "body_subtreemass",
    "body_invweight0",
    "dof_invweight0",
    "dof_M0",
    "tendon_invweight0",
    "tendon_length0",
    "actuator_length0",
    "actuator_acc0",
)


class Randomization:
    """Draws values of MjModel arrays, and refreshes what MuJoCo derives from them.

    Args:
        draws: field name -> function (numpy Generator, default array) -> array of the same
            shape. Called once per episode and world, with a copy of the model's own values.
        model: the compiled model.

    Raises:
        ValueError: a name is no floating-point array of MjModel, a function is none, or what it
            returns has another shape or is not finite.
    """

    def __init__(self, draws: Mapping[str, Draw], model: mujoco.MjModel | None):
        self._draws = dict(draws)
        self._defaults: dict[str, np.ndarray] = {}
        self.drawn = tuple(self._draws)
        self.written: tuple[str, ...] = ()
        if not self._draws:
            return
        for name, draw in self._draws.items():
            value = getattr(model, name, None) if not name.startswith("_") else None
            if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
                raise ValueError(f"randomize: MjModel has no floating-point array {name!r}")
            if not callable(draw):
                raise ValueError(f"randomize: {name} needs a function, got {type(draw).__name__}")
            self._defaults[name] = value.copy()
        self.apply(copy.copy(model), np.random.default_rng(0))  # so that errors come now
        self.written = (*self.drawn, *self._derived(model))

    def apply(self, model: mujoco.MjModel, random: np.random.Generator) -> None:
        """Writes new values into the model."""
        if not self._draws:
            return
        for name, draw in self._draws.items():
            default = self._defaults[name]
            value = np.asarray(draw(random, default.copy()))
            if value.shape != default.shape:
                raise ValueError(f"randomize: {name} must be {default.shape}, got {value.shape}")
            if value.dtype.kind not in "fiu" or not np.isfinite(value).all():
                raise ValueError(f"randomize: {name} must be finite numbers")
            getattr(model, name)[...] = value
        mujoco.mj_setConst(model, mujoco.MjData(model))

    def _derived(self, model: mujoco.MjModel) -> list[str]:
        """Returns the names of the derived fields that follow the drawn ones."""
        moved, same = copy.copy(model), copy.copy(model)
        for name, default in self._defaults.items():
            getattr(moved, name)[...] = 1.01 * default + 1e-4
        for changed in (moved, same):
            mujoco.mj_setConst(changed, mujoco.MjData(changed))
        differ = lambda f: not np.array_equal(getattr(moved, f), getattr(same, f))  # noqa: E731
        return [f for f in _DERIVED if f not in self._draws and differ(f)]


NONE = Randomization({}, None)
