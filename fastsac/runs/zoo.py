"""The trained policies that come with fastsac, each named zoo:TASK.

They lie in results/policies. index.json says of each what it returns, how it was trained, and its
file's SHA-256.
"""

import difflib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastsac.errors import CheckpointError, ConfigError, DamagedError
from fastsac.runs.shipped import shipped

INDEX = "index.json"
_PREFIX = "zoo:"


def folder() -> Path:
    """Returns where the policies are."""
    return shipped("policies")


def is_name(path: str | Path) -> bool:
    """Whether a path is none, but the name of a policy of the zoo."""
    return str(path).startswith(_PREFIX)


def read_index() -> dict[str, dict[str, Any]]:
    """Returns what is known of each policy, by its task.

    Raises:
        CheckpointError: the index is missing or damaged.
    """
    file = folder() / INDEX
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"the zoo is not installed here: cannot read {file}") from error
    except ValueError as error:
        raise DamagedError(f"{file} is not JSON") from error
    return dict(index)


def named(name: str) -> dict[str, dict[str, Any]]:
    """Returns what is known of zoo:TASK, or by zoo: of every policy, by task; else nothing.

    Raises:
        ConfigError: there is no such policy.
        CheckpointError: the index is missing or damaged.
    """
    if not is_name(name):
        return {}
    task, index = name.removeprefix(_PREFIX), read_index()
    if not task:
        return index
    _require(task, index)
    return {task: index[task]}


def file_of(name: str) -> Path:
    """Returns the file of zoo:TASK, whose checksum is the index's.

    Raises:
        ConfigError: there is no such policy.
        CheckpointError: its file is missing, or damaged.
    """
    task, index = name.removeprefix(_PREFIX), read_index()
    _require(task, index)
    file = folder() / str(index[task]["file"])
    try:
        content = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {name}, {file}: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != index[task]["sha256"]:
        raise DamagedError(f"{name} is damaged: the checksum of {file} is not the index's")
    return file


def _require(task: str, index: Mapping[str, Any]) -> None:
    if task in index:
        return
    near = difflib.get_close_matches(task, index, n=3, cutoff=0.4)
    known = " or ".join(f"zoo:{one}" for one in near)
    hint = f"did you mean {known}?" if near else "`fastsac zoo` lists them"
    raise ConfigError(f"there is no policy zoo:{task}; {hint}")
