"""Files that a reader sees old or new, never in part."""

import contextlib
import os
from pathlib import Path

from fastsac.errors import RunError


def require_place(output: Path) -> None:
    """Refuses an -o that can be no file, before there is work to lose.

    Raises:
        RunError: it is a directory, or its directory is not there.
    """
    directory = os.path.isdir(output)
    if directory or not os.path.isdir(output.parent):
        what = "it is a directory" if directory else f"there is no directory {output.parent}"
        raise RunError(f"cannot write -o {output}: {what}")


def write_atomically(path: Path, *parts: bytes | memoryview) -> None:
    """Writes a file whole or not at all, and waits until the disk has it.

    Args:
        path: the file to make or to replace.
        *parts: all of it, one behind the other.

    Raises:
        OSError: with the path; the disk is full or the directory is not writable. The old file is
            intact.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OSError(f"could not write {path}: {error.strerror}") from error
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems do not sync directories
            os.fsync(directory)
    finally:
        os.close(directory)
