"""A run's replay buffer on disk: files of rows that several checkpoints share.

A checkpoint writes the transitions that came since the one before, so that its cost is theirs and
not the buffer's. A file's name says which: those numbered from its first number on, below its
second.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from fastsac.errors import CheckpointError
from fastsac.learner.replay import ReplayBuffer
from fastsac.runs import checkpoint_file

_FOLDER = "replay"


class ReplayFiles:
    """Writes and reads the rows of a replay buffer.

    Args:
        run_dir: the run's directory.
        replay: the buffer, or None to save no rows.
        names: the files that the buffer was read from, the oldest rows first.
    """

    def __init__(self, run_dir: Path, replay: ReplayBuffer | None, names: Sequence[str] = ()):
        self._folder, self._replay, self._names = run_dir / _FOLDER, replay, list(names)

    def save(self) -> list[str]:
        """Writes the rows that no file has yet.

        Returns:
            The names of all files that the buffer needs, the oldest rows first.

        Raises:
            OSError: the disk is full; the next call tries again.
        """
        if self._replay is None:
            return []
        added = self._replay.added
        oldest = added - len(self._replay)
        written = _numbers(self._names[-1])[1] if self._names else 0
        start = max(written, oldest)
        names = [name for name in self._names if _numbers(name)[1] > oldest]
        if start < added:
            name = f"{start:012d}-{added:012d}.pt"
            self._folder.mkdir(exist_ok=True)
            checkpoint_file.save(self._folder / name, {"rows": self._replay.rows_from(start)})
            names.append(name)
        self._names = names
        return list(names)

    def keep_only(self, names: set[str]) -> None:
        """Deletes all other files."""
        for file in self._folder.glob("*"):
            if file.name not in names:
                file.unlink(missing_ok=True)


def read_rows(run_dir: Path, names: Iterable[str]) -> Iterator[tuple[int, torch.Tensor]]:
    """Yields the rows (N, width) of these files, one after another, with the first's number.

    Raises:
        CheckpointError: one is missing or damaged, or the rows of one are not those of its name.
    """
    for name in names:
        file = run_dir / _FOLDER / name
        rows = checkpoint_file.load_tensors(file).get("rows")
        start, end = _numbers(name)
        if not isinstance(rows, torch.Tensor) or len(rows) != end - start:
            raise CheckpointError(f"{file} does not hold the transitions that its name says")
        yield start, rows


def is_name(name: Any) -> bool:
    """Whether it is the name of such a file."""
    return isinstance(name, str) and re.fullmatch(r"\d{12,}-\d{12,}\.pt", name) is not None


def _numbers(name: str) -> tuple[int, int]:
    start, _, end = name.removesuffix(".pt").partition("-")
    return int(start), int(end)
