"""Checkpoints: a file of tensors and plain values each, with a checksum, written atomically.

A run keeps its newest ones in RUN/checkpoints and the best evaluated policy in RUN/best.pt. A file
is a line of text, which names the format and the SHA-256 of the rest, and what torch.save writes.
"""

import hashlib
import io
import logging
import os
from pathlib import Path
from typing import Any

import torch

from fastsac.errors import CheckpointError, DamagedError
from fastsac.runs.atomic_write import write_atomically

FORMAT = 5  # which counts bad rewards
OLDEST = 4  # that is read; from here on at least the two before FORMAT
FOLDER = "checkpoints"
BEST = "best.pt"
# What using content of other types and shapes can raise.
MISFITS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_MAGIC = b"fastsac checkpoint"
_LONGEST_HEADER = 200
_POLICY = ("task", "obs_dim", "action_dim", "config", "agent", "counters")


def name_of(steps: int) -> str:
    """Returns the file name of a checkpoint after so many environment steps; names sort by them."""
    return f"{steps:012d}.pt"


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes a file so that a reader sees the old one or the new one, never a part.

    Args:
        path: the file to replace.
        state: tensors, numbers, strings, None, and dicts, lists and tuples of them.

    Raises:
        OSError: the disk is full or the directory is not writable; the old file is intact.
    """
    # Through memory, since torch.save reports a full disk without its reason.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    digest = hashlib.sha256(content).hexdigest()
    write_atomically(path, b"%s %d %s\n" % (_MAGIC, FORMAT, digest.encode()), content)


def load(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU; nothing in the file is executed.

    Args:
        path: the file, or a run's directory, of which the newest good checkpoint is taken; those
            that are damaged are named in the log.

    Raises:
        CheckpointError: missing, damaged, or not a checkpoint of this version.
    """
    path = Path(path)
    if os.path.isdir(path):  # False too where its name is too long
        return _newest(path)
    state = load_tensors(path)
    if any(key not in state for key in _POLICY):
        raise CheckpointError(f"{path} is not a fastsac checkpoint")
    return state


def _newest(run_dir: Path) -> dict[str, Any]:
    files = files_of(run_dir)
    for file in files:
        try:
            return load(file)
        except CheckpointError as error:
            if len(files) == 1:
                raise
            logging.getLogger("fastsac").warning("%s; trying the one before", error)
    if files:
        raise CheckpointError(f"none of the {len(files)} checkpoints of {run_dir} can be read")
    raise CheckpointError(f"{run_dir} holds no checkpoint")


def files_of(run_dir: Path) -> list[Path]:
    """Returns a run's checkpoints, the newest first, damaged or not."""
    return sorted((run_dir / FOLDER).glob("[0-9]*.pt"), reverse=True)


def load_tensors(file: Path) -> dict[str, Any]:
    """Reads what ``save`` wrote.

    Raises:
        DamagedError: cut off, or with other bits.
        CheckpointError: missing, not readable, or of another format.
        MemoryError: it does not fit in.
    """
    if not os.path.isfile(file):
        raise CheckpointError(f"there is no checkpoint {file}")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror}") from error
    header = content[:_LONGEST_HEADER].partition(b"\n")[0]
    words = header.removeprefix(_MAGIC).split()
    if len(words) != 2 or header != b" ".join((_MAGIC, *words)):
        raise DamagedError(f"{file} is truncated or not a fastsac checkpoint")
    if words[0] not in [b"%d" % number for number in range(OLDEST, FORMAT + 1)]:
        found = words[0].decode(errors="replace")
        raise CheckpointError(
            f"{file} has checkpoint format {found}, this version reads {OLDEST} to {FORMAT}"
        )
    body = memoryview(content)[len(header) + 1 :]
    if hashlib.sha256(body).hexdigest().encode() != words[1]:
        raise DamagedError(f"{file} is truncated or damaged: its checksum differs")
    try:
        state = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # whoever wrote it knew our checksum
        if "allocate memory" in str(error):
            raise MemoryError(str(error)) from error
        raise CheckpointError(f"{file} is not a fastsac checkpoint") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{file} is not a fastsac checkpoint")
    return state
