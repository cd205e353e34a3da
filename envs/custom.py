"""Tasks of one's own: an MJCF model with an observe and a reward function."""

import copy
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import mujoco
import numpy as np
from dm_control.mujoco import Physics as DmPhysics
from dm_control.mujoco.wrapper import MjModel
from dm_control.rl import control
from dm_control.suite import base
from mujoco.batch import Batch

import fastsac.envs.tasks  # noqa: F401  (so that a name of the suite's is known to be taken)
from fastsac.envs.arguments import seconds
from fastsac.envs.c_fields import RecordedFields
from fastsac.envs.devices import ENVIRONMENTS
from fastsac.envs.model_fields import WrittenFields, field, write_field
from fastsac.envs.outcome import outcome_of
from fastsac.envs.own_models import compiled, model_source
from fastsac.envs.physics import Physics
from fastsac.envs.registry import Task, add, name_forms
from fastsac.envs.task_files import running
from fastsac.forks import use

# Drawn when a task is registered: what initialize writes in three episodes of ten, it writes in one
# of these with a probability of 0.997. Every later episode is looked at as well.
_TRIED_EPISODES = 16


def register(
    name: str,
    mjcf: str | os.PathLike[str] | mujoco.MjSpec,
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
        mjcf: the model, as the path of an MJCF or MJB file, as XML, or as an MjSpec. Paths in a
            task file, and in its XML, are relative to that file; a program's to where it runs.
        observe: Physics -> dict of arrays, with jax.numpy, for one world; flattened in its order
            it is the observation vector.
        reward: Physics -> scalar, read after the control step.
        terminate: Physics -> bool scalar, whether the episode ends there for good; None: never.
        initialize: (dm_control physics, numpy RandomState) -> None, writes an episode's initial
            state into ``physics.data`` and ``physics.named``: whatever MuJoCo counts as state
            (mjSTATE_INTEGRATION), such as ``qpos``, ``mocap_pos`` or ``xfrc_applied``; None starts
            from the model's default pose.
        randomised: the names of MjModel's arrays that initialize writes, and of its options
            (``opt.gravity``); each episode begins with the compiled model's.
        control_timestep: seconds between actions, a multiple of the model's timestep.
        time_limit: seconds until an episode is truncated.
        replace: whether to take the place of a task of that name that is not the suite's, as a
            notebook's cell does that is run again; envs that were made of it keep it.

    Raises:
        ValueError: the name is taken or odd, the model does not compile, or the functions do not
            fit it.
    """
    if not (isinstance(name, str) and name.replace("-", "").replace("_", "").isalnum()):
        raise ValueError(f"a task's name is made of letters, digits, - and _, got {name!r}")
    optional = {"terminate": terminate, "initialize": initialize}
    functions = {"observe": observe, "reward": reward} | optional
    for what, function in functions.items():
        if not (callable(function) or what in optional and function is None):
            raise ValueError(f"task {name}: {what} must be a function, got {function!r}")
    if isinstance(randomised, str):
        raise ValueError(f"task {name}: randomised must be a list of names, got {randomised!r}")
    if any(form.fullmatch(name) for form in name_forms()):
        raise ValueError(f"task {name!r} is the suite's")
    time_limit = seconds(f"task {name}: time_limit", time_limit)
    timestep = seconds(f"task {name}: control_timestep", control_timestep, finite=True)
    file = running()
    source = model_source(name, mjcf)
    if file and file.keeps:
        kept = file.keeps(name, source)
        if kept is None:  # another task of the file
            return
        source = kept

    def made(reread: bool) -> Task:
        model = compiled(source)
        task = Task(
            domain="",
            name=name,
            observe=observe,
            reward=reward,
            terminate=terminate,
            randomised=tuple(randomised),
            load=lambda random: _Environment(
                DmPhysics.from_model(MjModel(copy.copy(model))),
                _Task(task, initialize, random),
                control_timestep=timestep,
                time_limit=time_limit,
            ),
            file=str(file.path) if file else "",
            reread=partial(made, False) if reread else None,
        )
        return task

    try:
        # A task file is run anew where its model was edited.
        task = made(reread=isinstance(source, Path) and not file)
        _try_out(task)
    except (ValueError, OSError, KeyError, AttributeError, TypeError, IndexError) as error:
        raise ValueError(f"task {name}: {' '.join(str(error).split())}") from error
    add(task, replace)


def _try_out(task: Task) -> None:
    """Starts an episode and calls all of the task's functions."""
    assert task.load
    env = task.load(0)
    for name in task.randomised:
        write_field(env.physics.model.ptr, name, field(env.physics.model.ptr, name))
    _try_functions(task, env)
    for _ in range(_TRIED_EPISODES):
        env.reset()
    model = env.physics.model
    if not model.nu:
        raise ValueError("the model has no actuators")
    if unlimited := [i for i in range(model.nu) if not model.actuator_ctrllimited[i]]:
        names = ", ".join(model.id2name(i, "actuator") or f"number {i}" for i in unlimited)
        logging.getLogger("fastsac").warning(
            "task %s: actuators without ctrlrange take actions of [-1, 1] as they are: %s",
            task.name,
            names,
        )


def _try_functions(task: Task, env: Any) -> None:
    """Runs what the engines compile, and finds out whether they have what it reads."""
    env.task.evaluate(lambda physics: outcome_of(task, physics), env.physics)
    batch = Batch(env.physics.model.ptr, 1, 1)
    for name in ("observe", "reward", "terminate"):
        data = RecordedFields(env.physics.data.ptr)
        rows = {k: np.array(field(env.physics.model.ptr, k)) for k in task.randomised}
        if function := getattr(task, name):
            jax.eval_shape(partial(function, Physics(env.physics.model.ptr, data, rows)))
        for read in sorted(data.names):
            try:
                batch.bind(read)
            except (ValueError, TypeError) as error:
                raise TypeError(f"{name} reads physics.{read}: {error}") from error


class _Environment(control.Environment):
    """Begins each episode with the compiled model, as the engines do."""

    def __init__(self, physics: Any, task: "_Task", **timing: float):
        super().__init__(physics, task, **timing)
        self._compiled = {k: field(physics.model.ptr, k).copy() for k in task.randomised}

    def reset(self) -> Any:
        for name, value in self._compiled.items():
            write_field(self.physics.model.ptr, name, value)
        return super().reset()


class _Task(base.Task):
    """Our functions as a dm_control task, evaluated in float64."""

    def __init__(self, task: Task, initialize: Callable[..., None] | None, random: Any):
        super().__init__(random)
        self._task, self._initialize = task, initialize
        self.randomised = task.randomised
        self._written: WrittenFields | None = None
        self._secret = set[str]()
        self._compiled: dict[Any, Any] = {}

    def initialize_episode(self, physics: Any) -> None:
        if self._initialize:
            self._initialize_and_look(physics, self._initialize)
        super().initialize_episode(physics)

    def _initialize_and_look(self, physics: Any, initialize: Callable[..., None]) -> None:
        """Calls initialize; whatever it writes into the model, the engines must know of.

        Raises:
            ValueError: it writes what randomised does not name.
        """
        if self._written is None:
            self._written = WrittenFields(physics.model.ptr)
        self._written.begin()
        initialize(physics, self.random)
        if physics.model.ptr is not self._written.model:
            raise ValueError("initialize replaces the model, which the engines keep")
        self._secret |= set(self._written.names()) - {*self.randomised}
        if self._secret:  # for good: the value stays in this model
            raise ValueError(f"initialize writes {min(self._secret)}: name it in randomised")

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
        rows = {name: np.array(field(model, name)) for name in self.randomised}
        use(ENVIRONMENTS)
        with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
            if function not in self._compiled:
                # To learn which fields it reads.
                jax.eval_shape(lambda: function(Physics(model, data, rows)))
                compiled = jax.jit(
                    lambda fields, rows: function(Physics(model, SimpleNamespace(**fields), rows))
                )
                self._compiled[function] = compiled, sorted(data.names)
            compiled, names = self._compiled[function]
            return jax.device_get(compiled({k: getattr(data, k) for k in names}, rows))
