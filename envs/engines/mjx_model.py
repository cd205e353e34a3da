"""What the MJX engine makes of a model: its edits, and mj_step's two halves from MJX's stages."""

import copy
from collections.abc import Collection, Mapping
from typing import Any

import jax
import mujoco
import numpy as np
from mujoco import mjx

from fastsac.envs.model_fields import PER_WORLD_OPTIONS, field, write_field
from fastsac.envs.registry import Solver
from fastsac.envs.suite import Suite

_NO_CONTACTS = int(mujoco.mjtDisableBit.mjDSBL_CONTACT | mujoco.mjtDisableBit.mjDSBL_CONSTRAINT)
# Where these are 0 in the compiled model, MJX builds no constraint or force at all.
_ZERO_MEANS_NONE = {"dof_frictionloss", "tendon_frictionloss", "body_gravcomp"}
# Where these are, neither MJX nor Warp computes the forces of a medium.
_MEDIUM = {"opt.density", "opt.viscosity", "opt.wind"}
# The one of its constants that MJX reads in a step only, through its index.
_INDEXED = {"wrap_prm"}


def edited(
    model: mujoco.MjModel, solver: Solver | None, per_world: Collection[str] = ()
) -> mujoco.MjModel:
    """Returns a copy of dm_control's model with the edits that MJX, and float32, need.

    - MJX computes no energies; nothing of the suite reads them.
    - MJX refuses pairs of geoms that it cannot collide even where the model disables contacts or
      constraints, so there they are taken out of collision: nothing is lost.
    - solver, if given, replaces the budget that is made for float64.
    - a medium that is per_world is there in the copy, so that its forces are computed at all.
    """
    model = copy.copy(model)
    for name in _MEDIUM & {*per_world}:
        if not field(model, name).any():
            write_field(model, name, np.ones_like(field(model, name)))
    model.opt.enableflags &= ~int(mujoco.mjtEnableBit.mjENBL_ENERGY)
    if model.opt.disableflags & _NO_CONTACTS:
        model.geom_contype[:] = model.geom_conaffinity[:] = 0
    if solver:
        model.opt.iterations = solver.iterations
        model.opt.ls_iterations = solver.ls_iterations
        model.opt.tolerance = solver.tolerance
    return model


def held_fields(model: mjx.Model, suite: Suite) -> tuple[str, ...]:
    """Returns the per-world fields that MJX has, which may lack what MuJoCo derives from others."""
    if suite.model.nhistory:
        raise NotImplementedError("it applies no delays of actuators and sensors")
    drawn = {*suite.task.randomised, *suite.randomization.drawn}
    for name in drawn & _ZERO_MEANS_NONE:
        if not getattr(suite.model, name).all():
            raise NotImplementedError(f"it leaves out what {name} is 0 for; it cannot be drawn")
    held = [k for k in suite.model_fields if _is_held(model, k)]
    if lacking := sorted({*suite.task.randomised} - {*held} - _INDEXED):
        raise NotImplementedError(f"it keeps one {lacking[0]} for all worlds, which the task draws")
    if missing := set(suite.randomization.drawn) - {*held}:
        raise NotImplementedError(f"its model has no array {sorted(missing)[0]} to randomise")
    return tuple(dict.fromkeys((*suite.task.randomised, *held)))


def _is_held(model: mjx.Model, name: str) -> bool:
    if name.startswith("opt."):
        return name in PER_WORLD_OPTIONS
    return isinstance(getattr(model, name, None), jax.Array)


def with_fields(model: mjx.Model, fields: Mapping[str, jax.Array]) -> mjx.Model:
    """Returns a model with a world's own values."""
    options = {k.removeprefix("opt."): v for k, v in fields.items() if k.startswith("opt.")}
    arrays = {k: v for k, v in fields.items() if not k.startswith("opt.")}
    indexed = {k: Indexed(getattr(model, k), arrays[k]) for k in _INDEXED & {*arrays}}
    if options:
        model = model.replace(opt=model.opt.replace(**options))
    return model.replace(**arrays | indexed)


class Indexed:
    """A world's own values where MJX keeps a constant of numpy's (point_mass_hard's wrap_prm).

    MJX indexes it, and passes what it selects for kinds of tendon that the model lacks to numpy.
    Where it rebuilds a model from its parts it asks a constant for its ``array``.
    """

    def __init__(self, constant: np.ndarray, values: jax.Array):
        self._constant, self._values = constant, values
        self.array = self

    def __getitem__(self, index: np.ndarray) -> Any:
        return self._values[index] if np.size(index) else self._constant[index]


def step1(model: mjx.Model, data: mjx.Data) -> mjx.Data:
    """mj_step1: all that depends on position and velocity."""
    data = mjx.sensor_pos(model, mjx.fwd_position(model, data))
    return mjx.sensor_vel(model, mjx.fwd_velocity(model, data))


def solve(model: mjx.Model, data: mjx.Data, actuated: bool = True) -> mjx.Data:
    """The acceleration stage of mj_forward; without actuators as dm_control resets."""
    flags = model.opt.disableflags
    if not actuated:
        off = flags | mjx.DisableBit.ACTUATION
        model = model.replace(opt=model.opt.replace(disableflags=off))
    data = mjx.fwd_acceleration(model, mjx.fwd_actuation(model, data))
    if data._impl.efc_J.size == 0:
        data = data.replace(qacc=data.qacc_smooth)
    else:
        data = mjx.solve(model, data)
    return mjx.sensor_acc(model, data)


def step2(model: mjx.Model, data: mjx.Data) -> mjx.Data:
    """mj_step2: accelerations from an up-to-date step1, then integration."""
    data = solve(model, data)
    match model.opt.integrator:
        case mjx.IntegratorType.RK4:
            return mjx.rungekutta4(model, data)
        case mjx.IntegratorType.EULER:
            return mjx.euler(model, data)
        case mjx.IntegratorType.IMPLICITFAST:
            return mjx.implicit(model, data)
        case other:
            raise NotImplementedError(f"MJX has no integrator {other}; use --engine native")
