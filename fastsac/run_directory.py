"""A run's directory: its configuration, metrics and checkpoint."""

import dataclasses
import datetime
import json
from pathlib import Path

from fastsac.config import TrainConfig
from fastsac.errors import RunError

CONFIG = "config.json"


def create(config: TrainConfig) -> Path:
    """Makes the run's directory and writes the resolved configuration into it.

    Raises:
        RunError: the directory holds another run or other files, or cannot be made.
    """
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    path = Path(config.run_dir or f"runs/{config.task}-{stamp}")
    if path.is_dir() and any(path.iterdir()):
        what = "another run" if (path / CONFIG).exists() else "other files"
        raise RunError(f"{path} holds {what}; choose another --run-dir")
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / CONFIG).write_text(to_json(config) + "\n")
    except OSError as error:
        raise RunError(f"cannot write to --run-dir {path}: {error.strerror}") from error
    return path


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
