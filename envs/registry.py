"""The table of tasks: what a domain file registers and everything else looks up."""

import dataclasses
import difflib
import os
import re
import runpy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import jax

from fastsac.envs.physics import Physics


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
_FILES: dict[
    str, tuple[bytes, dict[str, Task]]
] = {}  # what each held when it was run, and registered
_FAMILIES: dict[str, tuple[re.Pattern[str], Callable[..., Task]]] = {}
_held: list[dict[str, Task]] = []  # one for all who hold, once each


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
    if (name := f"fastsac/{task.full_name}-v0") not in gymnasium.registry:
        gymnasium.register(
            name,
            "fastsac.envs.gymnasium_envs:GymnasiumEnv",
            vector_entry_point="fastsac.envs.gymnasium_envs:GymnasiumVectorEnv",
            kwargs={"task": task.full_name},
        )
    return task


@contextmanager
def held() -> Iterator[None]:
    """Within it a name stays the task that it was at its first use, and that its model.

    So a run is evaluated on what it trains on, whatever is edited or registered meanwhile.
    """
    _held.append(_held[0] if _held else {})
    try:
        yield
    finally:
        _held.pop()


def holding() -> object | None:
    """What is held now, the same object as long as it is; None where nothing is."""
    return _held[0] if _held else None


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
    task = _held[0].get(name)
    return task or _held[0].setdefault(name, _find(name))


def _find(name: str) -> Task:
    if name in _TASKS:
        task = _TASKS[name]
        file = next((file for file, (_, own) in _FILES.items() if own.get(name) is task), None)
        return _find_in_file(file, name) if file and os.path.isfile(file) else task
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
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        missing = not os.path.isfile(file)
        what = f"there is no file {path!r}" if missing else f"cannot read {path}: {error.strerror}"
        raise UnknownTask(what) from error
    was, found = _FILES.get(file, (None, {}))
    if content != was:
        found = _registered_by(file, path, found)
        _FILES[file] = content, found
    if name is None and len(found) == 1:
        (name,) = found
    if name in found:
        return found[name]
    what = (
        f"registers {', '.join(found)}: name one as {path}:NAME" if found else "registers no task"
    )
    raise UnknownTask(f"{path} {what}")


def _registered_by(file: str, path: str, before: Mapping[str, Task]) -> dict[str, Task]:
    """Runs a file and returns its tasks by name, which take the place of those before."""
    kept = dict(_TASKS)
    for name, task in before.items():
        if _TASKS.get(name) is task:
            del _TASKS[name]
    others = dict(_TASKS)
    try:
        runpy.run_path(file, run_name="fastsac_task")
    except BaseException as error:
        _TASKS.clear()
        _TASKS.update(kept)
        if isinstance(error, KeyboardInterrupt):
            raise
        raise UnknownTask(f"{path}: {type(error).__name__}: {error}") from error
    return {name: task for name, task in sorted(_TASKS.items()) if task is not others.get(name)}
