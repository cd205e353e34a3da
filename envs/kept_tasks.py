"""A task of one's own as a run keeps it: its file, all that it read, and the compiled model.

A folder holds ``task.json``, ``model.mjb``, and under ``files/`` what the task's file read, each
where it lay from the others' view.
"""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from fastsac.envs.registry import Task, UnknownTask, files_of, task_of_kept
from fastsac.envs.task_files import content_of, digest

FORMAT = 1
_ABOUT, _MODEL, _FILES = "task.json", "model.mjb", "files"
# Bytes of files, as much as a replay may take without being asked for.
_MOST = 2_000_000_000


def keep(task: Task, folder: Path) -> None:
    """Writes what a task that a file registers needs in order to be again; of others nothing.

    Args:
        task: found just now.
        folder: to make; one that is there stays as it is.

    Raises:
        OSError: the disk is full, or one of the large files was edited meanwhile.
    """
    files = files_of(task)
    if not files or folder.exists():
        return
    assert task.load
    model = task.load(0).physics.model.ptr
    size = sum(file.stat().st_size for file in files) + mujoco.mj_sizeModel(model)
    if size > _MOST:
        logging.getLogger("fastsac").warning(
            "warning: the files of %s take %.1f GB, more than a run keeps: to evaluate it or to "
            "go on takes %s as it is now",
            task.full_name,
            size / 1e9,
            task.file,
        )
        return
    root = Path(os.path.commonpath([file.parent for file in files]))
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for file, was in files.items():
        copy = partial / _FILES / file.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        content = content_of(was)
        copy.write_bytes(file.read_bytes() if content is None else content)
        if digest(copy) != was:
            raise OSError(f"{file} was edited while the run began")
    binary = np.empty(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, binary)
    (partial / _MODEL).write_bytes(binary.tobytes())
    about = {
        "format": FORMAT,
        "name": task.full_name,
        "root": str(root),
        "file": str(Path(task.file).relative_to(root)),
        "mujoco": mujoco.__version__,
        "model": digest(partial / _MODEL),
        "files": {str(file.relative_to(root)): was for file, was in files.items()},
    }
    (partial / _ABOUT).write_text(json.dumps(about, indent=2) + "\n")
    partial.rename(folder)


def kept(folder: Path) -> Task | None:
    """Returns the task that a run keeps, or None where it keeps none.

    Says so where the files that it began with are here and were edited since.

    Raises:
        UnknownTask: what is kept is damaged.
    """
    about_file = folder / _ABOUT
    if not about_file.is_file():
        return None
    try:
        about = json.loads(about_file.read_text())
        version, name, root = about["format"], about["name"], Path(about["root"])
        mujoco_was, model_was = about["mujoco"], about["model"]
        files = {Path(file): was for file, was in about["files"].items()}
        whole = {folder / _FILES / file: was for file, was in files.items()}
        whole[folder / _MODEL] = model_was
        path = folder / _FILES / about["file"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnknownTask(f"{about_file} is damaged: {error}") from error
    if version != FORMAT:
        raise UnknownTask(f"{folder} is of another version: format {version}")
    for file, was in whole.items():
        if digest(file) != was:
            raise UnknownTask(f"{file} is damaged, or not as the run began with it")
    now = {file: digest(root / file) for file in files}
    if edited := [file for file, was in files.items() if now[file] not in ("", was)]:
        logging.getLogger("fastsac").warning(
            "warning: %s was edited since the run began, which keeps to what it has in %s",
            root / edited[0],
            folder,
        )

    def keeps(asked: str, source: Any) -> Any:
        """The kept model; of another version of MuJoCo's what the file now gives, or its copy."""
        if asked != name:
            return None
        if mujoco_was == mujoco.__version__:
            return mujoco.MjModel.from_binary_path(str(folder / _MODEL))
        logging.getLogger("fastsac").warning(
            "warning: %s was compiled by MuJoCo %s and is compiled anew by %s",
            name,
            mujoco_was,
            mujoco.__version__,
        )
        copied = isinstance(source, Path) and not source.is_file() and source.is_relative_to(root)
        return folder / _FILES / source.relative_to(root) if copied else source

    return task_of_kept(path.resolve(), name, keeps)
