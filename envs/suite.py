"""What the engines take from dm_control: the compiled model, the timing and the action range."""

import copy
import dataclasses
import functools
import logging
import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import mujoco
import numpy as np
from dm_control import suite as dm_suite

from fastsac.envs.randomization import NONE, Randomization
from fastsac.envs.registry import Task, find

# Of a state, besides the model fields that are per world. The warm start makes a state whole: from
# it the solver goes on exactly where it was.
STATE = ("qpos", "qvel", "act", "qacc_warmstart")
# The rest of MuJoCo's mjSTATE_INTEGRATION. The suite's tasks leave it alone (tested), but for the
# controls, which every step overwrites, and the time, which none of them reads.
REST = (
    *("time", "history", "ctrl", "qfrc_applied", "xfrc_applied", "eq_active"),
    *("mocap_pos", "mocap_quat", "userdata", "plugin_state"),
)
# Of those the ones that a task takes as bool; the rows of a state hold numbers.
FLAGS = ("eq_active",)
# Of an initial state besides, so that MJX need not solve for the forces in order to observe it.
SENSORS = "sensordata"
# Control steps of an episode without a time limit (lqr): as good as endless, and within int32.
ENDLESS = 2**30

_this_thread = threading.local()


def load(task: Task, random: Any) -> Any:
    """Returns dm_control's own environment of the task.

    Args:
        task: the task.
        random: a seed or a numpy RandomState, as dm_control takes it.
    """
    if task.load:
        env = task.load(random)
    else:
        with _deprecations_are_silent():
            env = dm_suite.load(task.domain, task.name, task_kwargs={"random": random})
    # quadruped_escape asks for a rendering context in order to upload its terrain, which makes
    # one; there is nothing to render here, and on a machine without OpenGL that fails.
    kind = type(env.physics)
    env.physics.__class__ = type(kind.__name__, (kind,), {"contexts": None})
    return env


@contextmanager
def _deprecations_are_silent() -> Iterator[None]:
    """Of dm_control's own models, in this thread: nobody who uses them can mend them."""
    logging.getLogger("absl").addFilter(_is_for_the_user)  # which it keeps once
    _this_thread.loads = True
    try:
        yield
    finally:
        _this_thread.loads = False


def _is_for_the_user(record: logging.LogRecord) -> bool:
    return not (getattr(_this_thread, "loads", False) and "is deprecated" in record.getMessage())


def action_range(env: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns the controls that actions of -1 and 1 stand for, each (A,) float64.

    They are the bounds of dm_control's action_spec; actuators without bounds (lqr) take the
    action as it is.
    """
    spec = env.action_spec()
    low, high = (
        np.broadcast_to(v, spec.shape).astype(np.float64) for v in (spec.minimum, spec.maximum)
    )
    unlimited = high >= mujoco.mjMAXVAL
    return np.where(unlimited, -1.0, low), np.where(unlimited, 1.0, high)


@dataclasses.dataclass(frozen=True)
class Suite:
    """A task with the constants that dm_control's environment defines for it.

    Attributes:
        task: the task's functions.
        model: the compiled model; of the suite's tasks as dm_control leaves it after an episode's
            initialisation.
        substeps: physics steps per control step.
        max_episode_steps: control steps until the time limit truncates.
        parts: dm_control's names of an observation's parts and their shapes, in its order.
        action_low: (A,) float64, the control that an action of -1 stands for.
        action_high: (A,) float64, the control that an action of 1 stands for.
        randomization: the user's draws of model fields.
        frames: how many observations, the oldest first, make up one that is handed out.
        dtype: of an observation's numbers; uint8 of pictures.
    """

    task: Task
    model: mujoco.MjModel
    substeps: int
    max_episode_steps: int
    parts: Mapping[str, tuple[int, ...]]
    action_low: np.ndarray
    action_high: np.ndarray
    randomization: Randomization = NONE
    frames: int = 1
    dtype: type[np.float32] | type[np.uint8] = np.float32

    def control(self, action: Any) -> Any:
        """Maps actions (..., A) in [-1, 1], numpy or jax, to the actuators' ranges."""
        if self._controls_are_actions:
            return action
        middle, half = self.control_range
        return middle.astype(action.dtype) + half.astype(action.dtype) * action

    @property
    def control_range(self) -> tuple[np.ndarray, np.ndarray]:
        """The controls' middle and half width (A,) float64: an action's is middle + half * it."""
        low, high = self.action_low, self.action_high
        return (high + low) / 2, (high - low) / 2

    @functools.cached_property
    def _controls_are_actions(self) -> bool:
        return bool((self.action_low == -1).all() and (self.action_high == 1).all())

    @property
    def obs_dim(self) -> int:
        """The entries of a flattened observation."""
        return self.frames * sum(map(math.prod, self.parts.values()))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """What ``split`` gives of one world: the parts' shapes, behind the frames' if stacked."""
        frames = (self.frames,) if self.frames > 1 else ()
        return {name: (*frames, *shape) for name, shape in self.parts.items()}

    @property
    def are_pictures(self) -> bool:
        """Whether observations are pictures, uint8 (height, width, 3)."""
        return self.dtype is np.uint8

    def split(self, obs: Any) -> dict[str, Any]:
        """Returns the parts of observations (..., obs_dim), numpy, torch or jax; see ``shapes``."""
        if self.frames > 1:
            obs = obs.reshape((*obs.shape[:-1], self.frames, -1))
        found, start = {}, 0
        for name, shape in self.parts.items():
            end = start + math.prod(shape)
            found[name] = obs[..., start:end].reshape((*obs.shape[:-1], *shape))
            start = end
        return found

    @property
    def action_dim(self) -> int:
        """The number of actuators."""
        return self.action_low.size

    @property
    def control_timestep(self) -> float:
        """Seconds of simulated time per control step."""
        return self.model.opt.timestep * self.substeps

    @property
    def kind(self) -> dict[str, Any]:
        """What a state's env must have in common with one that goes on from it."""
        name, steps = self.task.full_name, self.substeps
        parts = ", ".join(f"{k} {v}" for k, v in self.parts.items())
        return {"task": name, "substeps": steps, "frame_stack": self.frames, "parts": parts}

    @functools.cached_property
    def state_fields(self) -> tuple[str, ...]:
        """The names of MjData's arrays that make up a state of this task."""
        if self.task.domain:
            # A reward that a user put in the task's place may read it.
            own = find(self.task.full_name).reward is self.task.reward
            return STATE if own else (*STATE, "time")
        data = mujoco.MjData(self.model)
        return (*STATE, *(k for k in REST if np.size(getattr(data, k))))

    @property
    def model_fields(self) -> tuple[str, ...]:
        """The names of the model's arrays and options that are per world."""
        return tuple(dict.fromkeys((*self.task.randomised, *self.randomization.written)))


def load_suite(task: Task, randomize: Mapping[str, Any] | None = None) -> Suite:
    """Loads the task's dm_control environment once and reads its constants.

    Raises:
        ValueError: randomize names no array of the model, or draws something of another shape.
    """
    env = load(task, 0)
    if task.domain:
        env.reset()
    model = copy.copy(env.physics.model.ptr)
    low, high = action_range(env)
    steps = env._step_limit  # dm_control has no public name for it
    return Suite(
        task=task,
        model=model,
        substeps=round(env.control_timestep() / env.physics.timestep()),
        max_episode_steps=math.ceil(steps) if math.isfinite(steps) else ENDLESS,
        parts={name: part.shape for name, part in env.observation_spec().items()},
        action_low=low,
        action_high=high,
        randomization=Randomization(randomize, model) if randomize else NONE,
    )
