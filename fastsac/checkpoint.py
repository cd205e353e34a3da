"""Checkpoints: one file of tensors and plain values, written atomically."""

import io
import zipfile
from pathlib import Path
from typing import Any

import torch

from fastsac.atomic_write import write_atomically
from fastsac.errors import CheckpointError

FORMAT = 3
NAME = "checkpoint.pt"
_REQUIRED = ("format", "task", "obs_dim", "action_dim", "config", "agent", "counters", "rng")


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint so that a reader sees the old file or the new one, never a part.

    Args:
        path: the file to replace.
        state: tensors, numbers, strings and dicts of them.

    Raises:
        OSError: the disk is full or the directory is not writable; the old file is intact.
    """
    # Through memory, since torch.save reports a full disk without its reason.
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    write_atomically(path, buffer.getbuffer())


def load(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU; nothing in the file is executed.

    Args:
        path: the file, or the run directory that holds it.

    Raises:
        CheckpointError: missing, truncated or not a checkpoint of this version.
    """
    path = Path(path)
    file = path / NAME if path.is_dir() else path
    if not file.is_file():
        where = f"{path} holds no {NAME}" if path.is_dir() else f"there is no checkpoint {path}"
        raise CheckpointError(where)
    try:
        # torch does not look at the archive's checksums: a flipped bit would be another policy.
        with zipfile.ZipFile(file) as archive:
            if (damaged := archive.testzip()) is not None:
                raise zipfile.BadZipFile(damaged)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{file} is truncated or not a fastsac checkpoint") from error
    if not isinstance(state, dict) or any(key not in state for key in _REQUIRED):
        raise CheckpointError(f"{file} is not a fastsac checkpoint")
    if state["format"] != FORMAT:
        raise CheckpointError(
            f"{file} has checkpoint format {state['format']}, this version reads {FORMAT}"
        )
    return state
