"""A run's replay buffer on disk: files of rows that several checkpoints share.

A checkpoint writes the transitions that came since the one before, so that its cost is theirs and
not the buffer's. A file's name says which: those numbered from its first number on, below its
second; before them stands the rank whose buffer it is, where there are several.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from fastsac.errors import CheckpointError
from fastsac.learner.replay import ReplayBuffer
from fastsac.runs import checkpoint_file

_FOLDER = "replay"


@dataclasses.dataclass(frozen=True)
class SentRows:
    """The newest rows of a buffer in another process, for ``ReplayFiles.save``.

    Attributes:
        added: transitions that the buffer was given so far.
        size: transitions that it holds.
        newest: (N, width) the last of them, at least those that no file has.
    """

    added: int
    size: int
    newest: torch.Tensor

    def __len__(self) -> int:
        return self.size

    def rows_from(self, start: int) -> torch.Tensor:
        """Returns the rows (added - start, width) of the transitions from number start on."""
        return self.newest[len(self.newest) - (self.added - start) :]


class ReplayFiles:
    """Writes and reads the rows of a replay buffer.

    Args:
        run_dir: the run's directory.
        names: the files that the buffer was read from, the oldest rows first.
        rank: whose buffer it is.
    """

    def __init__(self, run_dir: Path, names: Sequence[str] = (), rank: int = 0):
        self._folder, self._names = run_dir / _FOLDER, list(names)
        self._prefix = f"r{rank}-" if rank else ""

    def save(self, replay: ReplayBuffer | SentRows | None) -> list[str]:
        """Writes the rows that no file has yet.

        Args:
            replay: the buffer, or None to save no rows.

        Returns:
            The names of all files that the buffer needs, the oldest rows first.

        Raises:
            OSError: the disk is full; the next call tries again.
        """
        if replay is None:
            return []
        added = replay.added
        oldest = added - len(replay)
        written = _numbers(self._names[-1])[1] if self._names else 0
        start = max(written, oldest)
        names = [name for name in self._names if _numbers(name)[1] > oldest]
        if start < added:
            name = f"{self._prefix}{start:012d}-{added:012d}.pt"
            self._folder.mkdir(exist_ok=True)
            checkpoint_file.save(self._folder / name, {"rows": replay.rows_from(start)})
            names.append(name)
        self._names = names
        return list(names)


def keep_only(run_dir: Path, names: set[str]) -> None:
    """Deletes all other files, of all ranks."""
    for file in (run_dir / _FOLDER).glob("*"):
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
    return isinstance(name, str) and re.fullmatch(r"(r\d+-)?\d{12,}-\d{12,}\.pt", name) is not None


def rank_of(name: str) -> int:
    """Returns whose buffer's rows a file of that name holds."""
    return int(name[1:].partition("-")[0]) if name.startswith("r") else 0


def _numbers(name: str) -> tuple[int, int]:
    start, end = name.removesuffix(".pt").split("-")[-2:]
    return int(start), int(end)
