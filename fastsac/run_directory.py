"""A run's directory: its configuration, metrics and checkpoint."""

import dataclasses
import datetime
import itertools
import json
import shutil
from pathlib import Path

from fastsac.config import TrainConfig
from fastsac.errors import RunError

CONFIG = "config.json"


def create(config: TrainConfig, needed_bytes: int) -> Path:
    """Makes the run's directory and writes the resolved configuration into it.

    Args:
        config: the run's.
        needed_bytes: of disk that the run's files will take.

    Raises:
        RunError: the directory holds another run or other files, cannot be made, or the disk has
            no room; nothing was written.
    """
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    path = Path(config.run_dir or f"runs/{short_name(config.task)}-{stamp}")
    if config.run_dir and path.is_dir() and any(path.iterdir()):
        what = "another run" if (path / CONFIG).exists() else "other files"
        raise RunError(f"{path} holds {what}; choose another --run-dir")
    existing = next(p for p in (path, *path.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if needed_bytes > free:
        raise RunError(
            f"the run's files need about {needed_bytes / 1e6:.1f} MB and {free / 1e6:.1f} MB of "
            f"disk are free at {existing}"
        )
    try:
        path = _make(path, numbered=config.run_dir is None)
        (path / CONFIG).write_text(to_json(config) + "\n")
    except OSError as error:
        raise RunError(f"cannot write to --run-dir {path}: {error.strerror}") from error
    return path


def short_name(task: str) -> str:
    """Returns a task's name; of one in a file, without the file's folder."""
    return Path(task.rpartition(":")[2]).stem


def _make(path: Path, numbered: bool) -> Path:
    """Makes the directory; where its name is ours and taken, PATH-2, PATH-3 and so on."""
    if not numbered:
        path.mkdir(parents=True, exist_ok=True)
        return path
    for count in itertools.count(1):
        candidate = path if count == 1 else path.with_name(f"{path.name}-{count}")
        try:
            candidate.mkdir(parents=True)
            return candidate
        except FileExistsError:
            continue
    raise AssertionError("unreachable")


def to_json(config: TrainConfig) -> str:
    """Returns the whole configuration as JSON."""
    return json.dumps(dataclasses.asdict(config), indent=2)


def recorded_task(path: Path) -> str | None:
    """Returns the task that a run directory says it is of, or None where it says nothing.

    Raises:
        RunError: config.json is damaged.
    """
    file = path / CONFIG
    if not file.is_file():
        return None
    try:
        return str(json.loads(file.read_text())["task"])
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{file} is damaged") from error
