"""The task that a run is of: the one that it keeps, whatever became of its file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastsac.envs.kept_tasks import keep, kept
from fastsac.envs.registry import find, held
from fastsac.errors import RunError
from fastsac.runs.directory import TASK


@contextmanager
def task_of(run_dir: Path | None, task: str) -> Iterator[None]:
    """Within it a task's name stands for what a run keeps of it, and stays what it is.

    Args:
        run_dir: the run's directory; None where there is none yet.
        task: the name in its configuration.

    Raises:
        UnknownTask: what it keeps is damaged.
    """
    found = kept(run_dir / TASK) if run_dir else None
    with held({task: found} if found else {}):
        yield


def keep_task(run_dir: Path, task: str) -> None:
    """Writes a task of one's own into a run's directory, unless it is there.

    Raises:
        RunError: the disk is full, or its file is being edited.
    """
    try:
        keep(find(task), run_dir / TASK)
    except OSError as error:
        raise RunError(f"the run {run_dir} cannot keep its task: {error}") from error
