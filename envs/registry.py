"""The table of tasks: what a domain file registers and everything else looks up."""

import dataclasses
import difflib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gymnasium
import jax
import mujoco

from fastsac.envs.physics import Physics
from fastsac.envs.task_files import run as run_task_file
from fastsac.envs.task_files import running, unchanged


class UnknownTask(ValueError):
    """A task name that is not in the table."""


@dataclasses.dataclass(frozen=True)
class Solver:
    """A constraint solver's budget, as in MuJoCo's options of the same names."""

    iterations: int
    ls_iterations: int
    tolerance: float

    def __str__(self) -> str:
        return (
            f"iterations {self.iterations}, ls_iterations {self.ls_iterations}, "
            f"tolerance {self.tolerance:g}"
        )


# dm_control's 100 iterations at tolerance 1e-8 are made for float64. In float32 Newton stops by
# itself after 2 to 4 iterations (9 at most, humanoid), and a longer line search changes nothing.
FAITHFUL = Solver(iterations=20, ls_iterations=8, tolerance=1e-6)
FAST = Solver(iterations=4, ls_iterations=4, tolerance=1e-6)


# What MJX needs of a model before it takes it; deviations that more than one domain has.
ENERGY_OFF = "energy computation off (MJX has none; nothing reads it)"
GEOMS_DO_NOT_COLLIDE = "geoms out of collision (the model disables contacts anyway: no loss)"


@dataclasses.dataclass(frozen=True)
class Task:
    """A task as data and pure functions of one world.

    Attributes:
        domain: dm_control's domain name; empty for a task that is not of the suite.
        name: dm_control's task name within the domain.
        observe: Physics -> dict of arrays in dm_control's order.
        reward: Physics -> scalar, read after the control step.
        terminate: Physics -> bool scalar, or None if only the time limit ends an episode.
        load: random state (numpy RandomState or int) -> the dm_control environment; None takes
            the suite's by name.
        model_is_drawn: whether dm_control draws the model itself when it loads the environment;
            every episode then has a model of its own.
        randomised: the model fields that dm_control draws anew; they are per world.
        solver: MJX's budget in float32 with ``solver="faithful"``: the error against C MuJoCo is
            no larger than what float32 causes by itself.
        fast_solver: its budget with ``solver="fast"``.
        deviations: what the MJX engine does otherwise than dm_control besides, a sentence each.
        mjx_refusal: why MJX cannot hold the model, or empty.
        warp_refusal: why MuJoCo Warp cannot, or empty.
        file: the task file that registers it, or empty.
        reread: returns the same with its model's file as it is now; None where it has none, or
            none of its own.
    """

    domain: str
    name: str
    observe: Callable[[Physics], Mapping[str, jax.Array]]
    reward: Callable[[Physics], jax.Array]
    terminate: Callable[[Physics], jax.Array] | None = None
    load: Callable[[Any], Any] | None = None
    model_is_drawn: bool = False
    randomised: tuple[str, ...] = ()
    solver: Solver = FAITHFUL
    fast_solver: Solver = FAST
    deviations: tuple[str, ...] = ()
    mjx_refusal: str = ""
    warp_refusal: str = ""
    file: str = ""
    reread: Callable[[], "Task"] | None = None

    @property
    def refusals(self) -> dict[str, str]:
        """Why a GPU's engine cannot hold the model, by its name; empty where it can.

        They come in the order in which ``auto`` prefers them: Warp steps only the worlds whose
        solver has work left, and a control step is one launch (4096 worlds of humanoid_walk on an
        H200: 8 ms, MJX 70 ms).
        """
        return {"warp": self.warp_refusal, "mjx": self.mjx_refusal}

    @property
    def gpu_engines(self) -> list[str]:
        """The engines that can hold the model on a GPU, the one to prefer first."""
        return [engine for engine, refusal in self.refusals.items() if not refusal]

    @property
    def mjx_deviations(self) -> tuple[str, ...]:
        """All deviations, the float32 solver budget first."""
        return (f"float32 solver budget: {self.solver}", *self.deviations)

    @property
    def full_name(self) -> str:
        """The name users type: domain_task."""
        return f"{self.domain}_{self.name}" if self.domain else self.name


_TASKS: dict[str, Task] = {}
# What each file read when it was run, with digests, and what it registered.
_FILES: dict[str, tuple[dict[Path, str], dict[str, Task]]] = {}
_FAMILIES: dict[str, tuple[re.Pattern[str], Callable[..., Task]]] = {}
_held: list[dict[str, Task]] = []  # by all who hold; one for those within another


def add(task: Task, replace: bool = False) -> Task:
    """Adds a task to the table, and to gymnasium's as fastsac/NAME-v0, and returns it.

    Args:
        task: a new one.
        replace: whether it may take the place of another that is not the suite's.

    Raises:
        ValueError: the name is taken.
    """
    taken = _TASKS.get(task.full_name)
    if taken and (taken.domain or not replace):
        hint = "the suite has it" if taken.domain else "replace=True puts this one in its place"
        raise ValueError(f"task {task.full_name!r} is registered already: {hint}")
    _TASKS[task.full_name] = task
    file, name = running(), f"fastsac/{task.full_name}-v0"
    if name not in gymnasium.registry and not (file and file.keeps):
        gymnasium.register(
            name,
            "fastsac.envs.gymnasium_envs:GymnasiumEnv",
            vector_entry_point="fastsac.envs.gymnasium_envs:GymnasiumVectorEnv",
            kwargs={"task": task.full_name},
        )
    return task


@contextmanager
def held(tasks: Mapping[str, Task] = MappingProxyType({})) -> Iterator[None]:
    """Within it a name stays the task that it was at its first use, and that its model.

    So a run is evaluated on what it trains on, whatever is edited or registered meanwhile.

    Args:
        tasks: what names stand for, before all others.
    """
    outer = _held[-1] if _held else {}
    own = {**outer, **tasks} if tasks or not _held else outer
    _held.append(own)
    try:
        yield
    finally:
        _held.pop(max(i for i, other in enumerate(_held) if other is own))


def add_family(form: str, build: Callable[..., Task]) -> None:
    """Adds the tasks that dm_control builds by number.

    Args:
        form: their name with a place for each number, such as ``swimmer_swimmer<n>``.
        build: takes the numbers and returns the task; raises ValueError for one out of range.
    """
    _FAMILIES[form] = re.compile(re.sub(r"<\w+>", r"(\\d{1,3})", form)), build


def tasks() -> list[str]:
    """Returns the names of all tasks, sorted."""
    return sorted(_TASKS)


def name_forms() -> list[re.Pattern[str]]:
    """Returns what the names with numbers in them match."""
    return [pattern for pattern, _ in _FAMILIES.values()]


def families() -> list[str]:
    """Returns the forms of the names with numbers in them, sorted."""
    return sorted(_FAMILIES)


def find(name: str) -> Task:
    """Returns the task of that name, of a file as it is now.

    Raises:
        UnknownTask: no such task; the message has the nearest names.
    """
    if not _held:
        return _find(name)
    task = _held[-1].get(name)
    return task or _held[-1].setdefault(name, _find(name))


def files_of(task: Task) -> dict[Path, str]:
    """Returns what the file that registers a task read for it, with digests; else nothing."""
    return _FILES.get(task.file, ({}, {}))[0]


def task_of_kept(file: Path, name: str, keeps: Callable[[str, Any], mujoco.MjModel | None]) -> Task:
    """Runs the task file that a run keeps and returns its task, which nobody else finds by name.

    Args:
        file: the kept one.
        name: the task's.
        keeps: see task_files.Running.

    Raises:
        UnknownTask: the file fails, or does not register it.
    """
    before, own = dict(_TASKS), {k: v for k, v in _TASKS.items() if v.domain}
    try:
        _TASKS.clear()
        _TASKS.update(own)
        run_task_file(file, keeps)
        return _TASKS[name]
    except KeyError:
        raise UnknownTask(f"{file} registers no task {name}") from None
    except Exception as error:
        raise UnknownTask(f"{file}: {type(error).__name__}: {error}") from error
    finally:
        _TASKS.clear()
        _TASKS.update(before)


def _find(name: str) -> Task:
    if name in _TASKS:
        task = _TASKS[name]
        if task.file and os.path.isfile(task.file):
            return _find_in_file(task.file, name)
        return task.reread() if task.reread else task
    if match := re.fullmatch(r"(.+\.py)(?::(.+))?", name):
        return _find_in_file(*match.groups())
    for pattern, build in _FAMILIES.values():
        if match := pattern.fullmatch(name):
            try:
                return build(*map(int, match.groups()))
            except ValueError as error:
                raise UnknownTask(f"no task {name!r}: {error}") from error
    near = difflib.get_close_matches(name, _TASKS, n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}?" if near else "`fastsac tasks` lists them"
    raise UnknownTask(f"unknown task {name!r}; {hint}")


def _find_in_file(path: str, name: str | None) -> Task:
    """Runs a Python file that registers tasks, where it is another than it was; returns one."""
    file = os.path.realpath(path)
    if not os.path.isfile(file):
        raise UnknownTask(f"there is no file {path!r}")
    was, found = _FILES.get(file, ({}, {}))
    if not unchanged(was):
        was, found = _registered_by(file, path, found)
        _FILES[file] = was, found
    if name is None and len(found) == 1:
        (name,) = found
    if name in found:
        return found[name]
    what = (
        f"registers {', '.join(found)}: name one as {path}:NAME" if found else "registers no task"
    )
    raise UnknownTask(f"{path} {what}")


def _registered_by(
    file: str, path: str, before: Mapping[str, Task]
) -> tuple[dict[Path, str], dict[str, Task]]:
    """Runs a file; returns what it read, and its tasks, which take the place of those before."""
    kept = dict(_TASKS)
    for name, task in before.items():
        if _TASKS.get(name) is task:
            del _TASKS[name]
    others = dict(_TASKS)
    try:
        read = run_task_file(Path(file))
    except BaseException as error:
        _TASKS.clear()
        _TASKS.update(kept)
        if isinstance(error, KeyboardInterrupt):
            raise
        if isinstance(error, OSError) and error.filename == file:
            raise UnknownTask(f"cannot read {path}: {error.strerror}") from error
        raise UnknownTask(f"{path}: {type(error).__name__}: {error}") from error
    own = {name: task for name, task in sorted(_TASKS.items()) if task is not others.get(name)}
    return read, own
