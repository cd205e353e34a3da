"""The physics of the Warp engine: MuJoCo Warp's model, its worlds, and one control step of them."""

import collections
import contextlib
import copy
import operator
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import mujoco
import numpy as np
import torch
import warp as wp
from mujoco.mjx.third_party import mujoco_warp as mjw

from fastsac.envs.engines.mjx_model import edited
from fastsac.envs.initial_states import InitialStates
from fastsac.envs.model_fields import PER_WORLD_OPTIONS, field, write_field
from fastsac.envs.suite import FLAGS, Suite

# Of geoms that hang on the world alone Warp never computes the place: it comes with an episode.
_MOVED_BY = {"geom_pos", "geom_quat", "body_pos", "body_quat"}
_PLACES = ("geom_xpos", "geom_xmat")

_TERRAIN = "hfield_data"

# What the stages of the short pass bring up to date; who reads more gets the whole stages.
_SHORT_FIELDS = {
    *("qpos", "qvel", "act", "ctrl", "qacc", "qacc_warmstart", "sensordata", "time"),
    *("xpos", "xquat", "xmat", "xipos", "ximat", "geom_xpos", "geom_xmat", "site_xpos"),
    *("site_xmat", "subtree_com", "cinert", "cdof", "cvel", "ten_length", "xanchor", "xaxis"),
    *("qfrc_applied", "xfrc_applied", "eq_active", "mocap_pos", "mocap_quat", "userdata"),
}
_SHORT_SENSORS = {
    int(getattr(mujoco.mjtSensor, f"mjSENS_{name}"))
    for name in (
        *("TOUCH", "ACCELEROMETER", "VELOCIMETER", "GYRO", "FORCE", "TORQUE", "MAGNETOMETER"),
        *("RANGEFINDER", "JOINTPOS", "JOINTVEL", "TENDONPOS", "BALLQUAT", "BALLANGVEL"),
        *("FRAMEPOS", "FRAMEQUAT", "FRAMEXAXIS", "FRAMEYAXIS", "FRAMEZAXIS", "FRAMELINVEL"),
        *("FRAMEANGVEL", "FRAMELINACC", "FRAMEANGACC", "SUBTREECOM", "SUBTREELINVEL"),
        *("SUBTREEANGMOM", "CLOCK"),
    )
}
# Into these put_model folds the actuators' damping, which a world's own values would undo.
_FOLDED = {"dof_damping", "dof_dampingpoly", "tendon_damping", "tendon_dampingpoly"}
_FOLDED |= {"actuator_gear"}

# MuJoCo's names of warnings, and the bits that Warp sets where a buffer overflows.
_Bit = mjw.OverflowType
_OVERFLOWS = {
    "contactfull": int(_Bit.BROADPHASE | _Bit.NARROWPHASE | _Bit.CCD | _Bit.HFIELD),
    "cnstrfull": int(_Bit.NEFC | _Bit.NJMAX_NNZ),
}
# Actions of -1 and 1, held for some steps or for all as a policy would, show how many contacts and
# constraints a world comes to. Few come to many: of 16 dogs whose actions stayed one had 374
# constraints, the others 128 or fewer; with 3/2 of 308 some worlds of a thousand lacked room.
_TRIED_EPISODES, _TRIED_STEPS, _HELD_STEPS = 16, 100, (10, 100)


class Launch(NamedTuple):
    """A kernel's launch, or a fill or a copy.

    Attributes:
        kernel: what is launched; None of a fill or a copy.
        block_dim: its threads a block; None where the kernel's module says.
        in_loop: whether it is in a loop that goes on until the data end it.
    """

    kernel: wp.Kernel | None
    block_dim: int | None
    in_loop: bool


def launches(function: Callable[[], None]) -> list[Launch]:
    """Returns what a function would launch, its loops gone through once; nothing is launched."""
    found, in_loop = [], False

    def launch(kernel: wp.Kernel, *_: Any, block_dim: int | None = None, **__: Any) -> None:
        found.append(Launch(kernel, block_dim, in_loop))

    def moved(*_: Any, **__: Any) -> None:
        found.append(Launch(None, None, in_loop))

    def capture_while(_: Any, while_body: Callable[..., None], **arguments: Any) -> None:
        nonlocal in_loop
        in_loop = True
        while_body(**arguments)
        in_loop = False

    with (
        replaced(wp, launch=launch, launch_tiled=launch, capture_while=capture_while, copy=moved),
        replaced(wp.array, zero_=moved, fill_=moved),
    ):
        function()
    return found


class WarpPhysics:
    """The worlds of a task in MuJoCo Warp.

    Args:
        suite: the task and its constants.
        num_envs: the number of worlds.
        fast: take the task's fast solver budget instead of the model's own.
        fields: of the data, what observation and reward read.
        device: Warp's.

    Raises:
        NotImplementedError: MuJoCo Warp cannot hold this model; the message says why.

    Attributes:
        model_fields: those that are per world.
        reset_fields: what an episode begins with.
        views: name -> torch's view (B, ...) of Warp's memory, of all that is read or written.
    """

    def __init__(
        self, suite: Suite, num_envs: int, fast: bool, fields: set[str], device: wp.Device
    ):
        self._suite, self._device = suite, device
        solver = suite.task.fast_solver if fast else None
        model = edited(suite.model, solver, suite.model_fields)
        rows = {k: num_envs for k in suite.model_fields if _is_per_world(k)}
        terrains = (_TERRAIN,) if _TERRAIN in suite.model_fields else ()
        self.model_fields = (*rows, *terrains)
        needed = {*suite.task.randomised, *suite.randomization.drawn}
        if lacking := sorted(needed - {*self.model_fields}):
            raise NotImplementedError(f"it keeps one {lacking[0]} for all worlds")
        damped = model.actuator_damping.any() or model.actuator_dampingpoly.any()
        if damped and (folded := sorted(_FOLDED & {*self.model_fields})):
            raise NotImplementedError(f"it folds the actuators' damping into {folded[0]}")
        if unknown := sorted(fields - {*mjw.Data.__dataclass_fields__}):
            raise NotImplementedError(f"it has no {unknown[0]}, which the task reads")
        places = _PLACES if _MOVED_BY & {*self.model_fields} else ()
        state = tuple(dict.fromkeys((*suite.state_fields, "time")))
        self.reset_fields = (*state, *self.model_fields, *places)
        contacts, constraints = _buffer_sizes(suite)
        try:
            with wp.ScopedDevice(device):
                arrays = {k: n for k, n in rows.items() if k not in PER_WORLD_OPTIONS}
                self.model = mjw.put_model(
                    model, arrays | {"geom_dataid": num_envs} if terrains else arrays
                )
                for name in PER_WORLD_OPTIONS & {*rows}:
                    _give_option(self.model, model, name, num_envs)
                self.data = mjw.make_data(
                    model, nworld=num_envs, nconmax=contacts, njmax=constraints
                )
                if terrains:
                    _give_terrains(self.model, model, num_envs)
        except ValueError as error:
            raise NotImplementedError(str(error)) from error
        self.model.opt.warn_overflow = False  # not printed from a kernel: see overflows
        self.model.opt.run_rne_postconstraint = bool(fields & {"cacc", "cfrc_int", "cfrc_ext"})
        sensors = {*map(int, suite.model.sensor_type)}
        self._is_short = fields <= _SHORT_FIELDS and sensors <= _SHORT_SENSORS
        self.views = {
            k: self._view(k, num_envs) for k in sorted({*fields, *self.reset_fields, "ctrl"})
        }

    def step(self) -> None:
        """A control step as dm_control does it: all that a task reads belongs to the new state.

        Its kernels go to Warp's current stream; nothing is waited for while that is captured.
        """
        self.bare_step()
        with wp.ScopedDevice(self._device):
            self._refresh()

    def bare_step(self) -> None:
        """MuJoCo Warp's own steps, as many as a control step has."""
        with wp.ScopedDevice(self._device):
            for _ in range(self._suite.substeps):
                mjw.step(self.model, self.data)

    def ready(self, function: Callable[[], None], stream: wp.Stream | None) -> Callable[[], None]:
        """Compiles what a function launches, and captures it where there is a stream, on a GPU.

        Returns:
            What does as the function does, on the stream; its worlds have gone a little way.
        """
        self._compile(function)
        if not stream:
            return function
        with wp.ScopedStream(stream):
            function()
            with wp.ScopedCapture() as capture:
                function()
        return partial(wp.capture_launch, capture.graph, stream=stream)

    def _compile(self, function: Callable[[], None]) -> None:
        """Compiles what a function launches, on all cores: a launch compiles its kernel alone."""
        modules = collections.defaultdict(set)
        for kernel, block_dim, _ in launches(function):
            if kernel:
                modules[block_dim].add(kernel.module)
        for block_dim, used in modules.items():
            workers = len(os.sched_getaffinity(0))
            wp.force_load(self._device, [*used], block_dim, max_workers=workers)

    def write(self, state: dict[str, torch.Tensor]) -> None:
        """Writes the fields of reset_fields; a step that follows computes all else from them."""
        for name in self.reset_fields:
            view = self.views[name]
            if view.numel():
                view.copy_(state[name].reshape(view.shape))

    def overflows(self) -> dict[str, int]:
        """Returns in how many worlds a buffer was too small so far, by MuJoCo's warning."""
        flags = self.data.overflow.numpy()
        counts = {k: int((flags & bits != 0).sum()) for k, bits in _OVERFLOWS.items()}
        return {k: count for k, count in counts.items() if count}

    def _refresh(self) -> None:
        """Brings up to date what observations read, but the sensors of forces, as mj_step1."""
        model, data = self.model, self.data
        if self._is_short:
            mjw.fwd_kinematics(model, data)
        else:
            mjw.fwd_position(model, data, factorize=False)
        mjw.sensor_pos(model, data)
        if self._is_short:
            mjw.com_vel(model, data)
        else:
            mjw.fwd_velocity(model, data)
        mjw.sensor_vel(model, data)

    def _view(self, name: str, num_envs: int) -> torch.Tensor:
        of_model = name in self.model_fields
        array = operator.attrgetter(name)(self.model if of_model else self.data)
        # Warp splits geom_aabb in two.
        shape = (num_envs, *field(self._suite.model, name).shape) if of_model else (num_envs, 0)
        if not array.size:
            kind = torch.bool if name in FLAGS else torch.float32
            return torch.zeros(shape, dtype=kind, device=wp.device_to_torch(self._device))
        view = wp.to_torch(array)
        return view.view(shape) if of_model else view


def _give_option(model: mjw.Model, of: mujoco.MjModel, name: str, num_envs: int) -> None:
    """Gives each world an option's value of its own."""
    last = name.removeprefix("opt.")
    values = np.tile(field(of, name), (num_envs, *[1] * field(of, name).ndim))
    setattr(model.opt, last, wp.array(values, dtype=getattr(model.opt, last).dtype))


def _give_terrains(model: mjw.Model, of: mujoco.MjModel, num_envs: int) -> None:
    """Gives each world height fields of its own: Warp has one list of them for all worlds."""
    count = np.arange(num_envs)

    def repeated(name: str) -> np.ndarray:
        return np.tile(getattr(of, name), (num_envs, *[1] * (getattr(of, name).ndim - 1)))

    starts = of.hfield_adr + count[:, None] * of.nhfielddata
    model.hfield_adr = wp.array(starts.ravel(), dtype=int)
    for name, dtype in (("size", wp.vec4), ("nrow", int), ("ncol", int), ("data", float)):
        setattr(model, f"hfield_{name}", wp.array(repeated(f"hfield_{name}"), dtype=dtype))
    model.nhfield, model.nhfielddata = of.nhfield * num_envs, of.nhfielddata * num_envs
    own = of.geom_dataid + count[:, None] * of.nhfield
    is_field = of.geom_type == mujoco.mjtGeom.mjGEOM_HFIELD
    model.geom_dataid.assign(np.where(is_field, own, of.geom_dataid))


@contextlib.contextmanager
def replaced(owner: Any, **functions: Callable[..., Any]) -> Iterator[None]:
    """Puts functions in the places of a module's or a class's own meanwhile."""
    before = {name: getattr(owner, name) for name in functions}
    for name, function in functions.items():
        setattr(owner, name, function)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(owner, name, function)


def _is_per_world(name: str) -> bool:
    """Whether Warp's model has a row a world of an array or an option."""
    found = mjw.Model.__dataclass_fields__.get(name)
    is_array = bool(found) and getattr(found.type, "shape", ("",))[:1] == ("*",)
    return is_array or name in PER_WORLD_OPTIONS


def _buffer_sizes(suite: Suite) -> tuple[int, int]:
    """Returns room for a world's contacts and constraints: twice what random actions need."""
    source = InitialStates(suite, 0)
    try:
        rows = source.take(_TRIED_EPISODES)
    finally:
        source.close()
    model, random = copy.copy(suite.model), np.random.default_rng(0)
    data = mujoco.MjData(model)
    contacts = constraints = 0
    for i in range(_TRIED_EPISODES):
        for name in suite.model_fields:
            write_field(model, name, rows[name][i])
        mujoco.mj_resetData(model, data)
        for name in suite.state_fields:
            setattr(data, name, rows[name][i])
        for step in range(_TRIED_STEPS):
            if step % _HELD_STEPS[i % 2] == 0:
                data.ctrl[:] = suite.control(random.choice([-1.0, 1.0], suite.action_dim))
            mujoco.mj_step(model, data, suite.substeps)
            contacts, constraints = max(contacts, data.ncon), max(constraints, data.nefc)
    return 2 * contacts + 8, 2 * constraints + 16
