"""Tasks of one's own: an MJCF model with an observe and a reward function."""

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
from dm_control.mujoco import Physics as DmPhysics
from dm_control.mujoco.wrapper import MjModel
from dm_control.rl import control
from dm_control.suite import base

import fastsac.envs.tasks  # noqa: F401  (so that a name of the suite's is known to be taken)
from fastsac.envs.c_fields import RecordedFields
from fastsac.envs.physics import Physics
from fastsac.envs.randomization import small_arrays
from fastsac.envs.registry import Task, add, holding, name_forms


def register(
    name: str,
    mjcf: str | os.PathLike[str],
    observe: Callable[[Physics], Mapping[str, jax.Array]],
    reward: Callable[[Physics], jax.Array],
    *,
    terminate: Callable[[Physics], jax.Array] | None = None,
    initialize: Callable[[Any, np.random.RandomState], None] | None = None,
    randomised: Sequence[str] = (),
    control_timestep: float = 0.02,
    time_limit: float = 20.0,
    replace: bool = False,
) -> None:
    """Adds a task; every command and function then takes it by name.

    It becomes a dm_control environment as well, which draws the initial states and in which
    policies are evaluated.

    Args:
        name: of letters, digits, - and _.
        mjcf: the model, as the path of an MJCF file or as XML.
        observe: Physics -> dict of arrays, with jax.numpy, for one world; flattened in its order
            it is the observation vector.
        reward: Physics -> scalar, read after the control step.
        terminate: Physics -> bool scalar, whether the episode ends there for good; None: never.
        initialize: (dm_control physics, numpy RandomState) -> None, writes an episode's initial
            state into ``physics.data`` and ``physics.named``; None starts from the model's
            default pose.
        randomised: the names of MjModel's arrays that initialize writes.
        control_timestep: seconds between actions, a multiple of the model's timestep.
        time_limit: seconds until an episode is truncated.
        replace: whether to take the place of a task of that name that is not the suite's, as a
            notebook's cell does that is run again; envs that were made of it keep it.

    Raises:
        ValueError: the name is taken or odd, the model does not compile, or the functions do not
            fit it.
    """
    if not name.replace("-", "").replace("_", "").isalnum():
        raise ValueError(f"a task's name is made of letters, digits, - and _, got {name!r}")
    if not (isinstance(mjcf, str) and mjcf.lstrip().startswith("<")):
        mjcf = Path(mjcf).absolute()
    model = _Model(mjcf)
    task = Task(
        domain="",
        name=name,
        observe=observe,
        reward=reward,
        terminate=terminate,
        randomised=tuple(randomised),
        load=lambda random: _environment(
            model.physics(), _Task(task, initialize, random), control_timestep, time_limit
        ),
    )
    if any(form.fullmatch(name) for form in name_forms()):
        raise ValueError(f"task {name!r} is the suite's")
    if time_limit <= 0:
        raise ValueError(f"task {name}: time_limit must be positive, got {time_limit}")
    try:
        _try_out(task)
    except (ValueError, OSError, KeyError, AttributeError, TypeError, IndexError) as error:
        raise ValueError(f"task {name}: {' '.join(str(error).split())}") from error
    add(task, replace)


def _try_out(task: Task) -> None:
    """Starts an episode and calls all of the task's functions."""
    assert task.load
    env = task.load(0)
    before = {k: v.copy() for k, v in small_arrays(env.physics.model.ptr).items()}
    env.reset()
    for name, value in small_arrays(env.physics.model.ptr).items():
        seen_only = "rgba" in name or name.startswith(("light_", "cam_", "mat_"))
        if not (name in task.randomised or seen_only or np.array_equal(value, before[name])):
            raise ValueError(f"initialize writes {name}: name it in randomised")
    if not env.physics.model.nu:
        raise ValueError("the model has no actuators")
    if not sum(part.size for part in env.task.get_observation(env.physics).values()):
        raise ValueError("observe returns no numbers")
    for function in ("reward", "terminate"):
        value = getattr(task, function) and env.task.evaluate(getattr(task, function), env.physics)
        if np.shape(value):
            raise ValueError(f"{function} must return a scalar, got an array of {np.shape(value)}")


class _Model:
    """A task's model, read anew for each environment, but within ``registry.held`` once."""

    def __init__(self, mjcf: str | Path):
        self._mjcf = mjcf
        self._held_by: object | None = None
        self._compiled: Any = None

    def physics(self) -> DmPhysics:
        """Returns dm_control's physics, which may change its model."""
        holder = holding()
        if holder is not None and holder is self._held_by:
            return DmPhysics.from_model(MjModel(copy.copy(self._compiled)))
        if isinstance(self._mjcf, Path):
            physics = DmPhysics.from_xml_path(str(self._mjcf))
        else:
            physics = DmPhysics.from_xml_string(self._mjcf)
        self._compiled, self._held_by = copy.copy(physics.model.ptr), holder
        return physics


def _environment(
    physics: DmPhysics, task: "_Task", control_timestep: float, time_limit: float
) -> control.Environment:
    return control.Environment(
        physics, task, control_timestep=control_timestep, time_limit=time_limit
    )


class _Task(base.Task):
    """Our functions as a dm_control task, evaluated in float64."""

    def __init__(self, task: Task, initialize: Callable[..., None] | None, random: Any):
        super().__init__(random)
        self._task, self._initialize = task, initialize
        self._compiled: dict[Any, Any] = {}

    def initialize_episode(self, physics: Any) -> None:
        if self._initialize:
            self._initialize(physics, self.random)
        super().initialize_episode(physics)

    def get_observation(self, physics: Any) -> dict[str, np.ndarray]:
        values = self.evaluate(self._observed, physics)
        return {k: np.asarray(v) for k, v in zip(self._names, values, strict=True)}

    def _observed(self, physics: Physics) -> list[jax.Array]:
        """A list, since jax would sort a dict by its names."""
        observed = self._task.observe(physics)
        self._names = list(observed)
        return list(observed.values())

    def get_reward(self, physics: Any) -> float:
        return float(self.evaluate(self._task.reward, physics))

    def get_termination(self, physics: Any) -> float | None:
        if self._task.terminate and self.evaluate(self._task.terminate, physics):
            return 0.0
        return None

    def evaluate(self, function: Callable[[Physics], Any], physics: Any) -> Any:
        model, data = physics.model.ptr, RecordedFields(physics.data.ptr)
        rows = {name: np.array(getattr(model, name)) for name in self._task.randomised}
        with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
            if function not in self._compiled:
                function(Physics(model, data, rows))  # to learn which fields it reads
                compiled = jax.jit(
                    lambda fields, rows: function(Physics(model, SimpleNamespace(**fields), rows))
                )
                self._compiled[function] = compiled, sorted(data.names)
            compiled, names = self._compiled[function]
            return jax.device_get(compiled({k: getattr(data, k) for k in names}, rows))
