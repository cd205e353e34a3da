"""What the MJX engine makes of a model: its edits, and mj_step's two halves from MJX's stages."""

import copy
from typing import Any

import jax
import mujoco
import numpy as np
from mujoco import mjx

from fastsac.envs.registry import Solver
from fastsac.envs.suite import Suite

_NO_CONTACTS = int(mujoco.mjtDisableBit.mjDSBL_CONTACT | mujoco.mjtDisableBit.mjDSBL_CONSTRAINT)
# Where these are 0 in the compiled model, MJX builds no constraint or force at all.
_ZERO_MEANS_NONE = {"dof_frictionloss", "tendon_frictionloss", "body_gravcomp"}


def edited(model: mujoco.MjModel, solver: Solver | None) -> mujoco.MjModel:
    """Returns a copy of dm_control's model with the edits that MJX, and float32, need.

    - MJX computes no energies; nothing of the suite reads them.
    - MJX refuses pairs of geoms that it cannot collide even where the model disables contacts or
      constraints, so there they are taken out of collision: nothing is lost.
    - solver, if given, replaces the budget that is made for float64.
    """
    model = copy.copy(model)
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
    for name in set(suite.randomization.drawn) & _ZERO_MEANS_NONE:
        if not getattr(suite.model, name).all():
            raise NotImplementedError(f"it leaves out what {name} is 0 for; it cannot be drawn")
    if lacking := [k for k in suite.task.randomised if not hasattr(model, k)]:
        raise NotImplementedError(f"its model has no array {lacking[0]}, which the task draws")
    held = [k for k in suite.model_fields if isinstance(getattr(model, k, None), jax.Array)]
    if missing := set(suite.randomization.drawn) - {*held}:
        raise NotImplementedError(f"its model has no array {sorted(missing)[0]} to randomise")
    return tuple(dict.fromkeys((*suite.task.randomised, *held)))


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
