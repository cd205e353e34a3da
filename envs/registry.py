"""The table of tasks: what a domain file registers and everything else looks up."""

import dataclasses
import difflib
from collections.abc import Callable, Mapping

import jax

from fastsac.envs.physics import Physics

# The solver budget that float32 MJX runs with; dm_control's 100 iterations at tolerance 1e-8 are
# made for float64. Newton stops by itself after 2 to 4 iterations (9 at most, humanoid).
FLOAT32_SOLVER = "float32 solver budget: iterations 20, ls_iterations 8, tolerance 1e-6"


class UnknownTask(ValueError):
    """A task name that is not in the table."""


@dataclasses.dataclass(frozen=True)
class Task:
    """A task of the suite as data and pure functions of one world.

    Attributes:
        domain: dm_control's domain name.
        name: dm_control's task name within the domain.
        observe: Physics -> dict of arrays in dm_control's order.
        reward: Physics -> scalar, read after the control step, in [0, 1].
        terminate: Physics -> bool scalar, or None if only the time limit ends an episode.
        randomised: the model fields that dm_control draws anew for each episode; they are per
            world in both engines.
        deviations: what the MJX engine does otherwise than dm_control, a sentence each.
    """

    domain: str
    name: str
    observe: Callable[[Physics], Mapping[str, jax.Array]]
    reward: Callable[[Physics], jax.Array]
    terminate: Callable[[Physics], jax.Array] | None = None
    randomised: tuple[str, ...] = ()
    deviations: tuple[str, ...] = (FLOAT32_SOLVER,)

    @property
    def full_name(self) -> str:
        """The name users type: domain_task."""
        return f"{self.domain}_{self.name}"


_TASKS: dict[str, Task] = {}


def register(task: Task) -> None:
    """Adds a task to the table.

    Raises:
        ValueError: the name is taken.
    """
    if task.full_name in _TASKS:
        raise ValueError(f"task {task.full_name!r} is registered already")
    _TASKS[task.full_name] = task


def tasks() -> list[str]:
    """Returns the names of all tasks, sorted."""
    return sorted(_TASKS)


def find(name: str) -> Task:
    """Returns the task of that name.

    Raises:
        UnknownTask: no such task; the message has the nearest names.
    """
    if name in _TASKS:
        return _TASKS[name]
    near = difflib.get_close_matches(name, _TASKS, n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}?" if near else "`fastsac tasks` lists them"
    raise UnknownTask(f"unknown task {name!r}; {hint}")
