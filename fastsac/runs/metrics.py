"""What a run reports: metrics.csv, TensorBoard, and one live line in the terminal."""

import contextlib
import csv
import io
import math
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastsac.runs.atomic_write import write_atomically
from fastsac.runs.tensorboard_file import TensorBoardFile
from fastsac.runs.wandb_run import start_wandb

if TYPE_CHECKING:
    import wandb

COLUMNS = (
    "step",
    "updates",
    "seconds",
    "cpu_seconds",  # of the process, all its threads: what a busy machine changes least
    "steps_per_second",
    "updates_per_second",
    "train_return",
    "eval_return",
    "eval_return_std",
    "alpha",
    "entropy",
    "q",
    "critic_loss",
    "actor_loss",
    "alpha_loss",
    "invalid_transitions",
    "bad_observations",
    "bad_rewards",
    "skipped_updates",
)
# A pipe gets a line this often, a terminal one line that is rewritten.
_PLAIN_SECONDS = 30.0


class MetricsWriter:
    """Writes rows to metrics.csv and TensorBoard and shows the latest in the terminal.

    Args:
        directory: the run's.
        total_steps: for the estimate of the time that is left.
        started: time.monotonic() when the run began.
        max_seconds: when it ends at the latest.
        before: state_dict's of the run that goes on, and its "step"; later rows are cut off.
        wandb_config: the run's configuration, for Weights & Biases; None leaves that out.
        hear: is told each row once it is written; None is nobody.

    Raises:
        OSError: the files cannot be written.
    """

    def __init__(
        self,
        directory: Path,
        total_steps: int,
        started: float,
        max_seconds: float | None = None,
        before: dict[str, Any] | None = None,
        wandb_config: dict[str, Any] | None = None,
        hear: Callable[[dict[str, float]], None] | None = None,
    ):
        self._hear = hear
        self._total_steps = total_steps
        self._ends = math.inf if max_seconds is None else started + max_seconds
        self._started, self._cpu_started = started, time.process_time()
        if before:
            self._started -= before["seconds"]
            self._cpu_started -= before["cpu_seconds"]
        self._shown_at = -_PLAIN_SECONDS
        self._last_eval = "-"
        self._live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        path = directory / "metrics.csv"
        goes_on = before is not None and self._cut(path, before["bytes"])
        self._file = path.open("a", newline="")
        self._csv = csv.DictWriter(self._file, COLUMNS)
        if not goes_on:
            self._csv.writeheader()
            self._file.flush()
        self._board = TensorBoardFile(directory / "tensorboard", before["step"] if before else None)
        self._wandb: wandb.Run | None = None
        if wandb_config is not None:
            self._wandb = self._tried(lambda: start_wandb(directory, wandb_config))

    def times(self) -> dict[str, float]:
        """Returns seconds since the run began, and the CPU's for all threads since its set-up."""
        seconds = time.monotonic() - self._started
        cpu_seconds = time.process_time() - self._cpu_started
        return {"seconds": round(seconds, 2), "cpu_seconds": round(cpu_seconds, 2)}

    def state_dict(self) -> dict[str, float]:
        """Returns the times so far and how many bytes of metrics.csv are written.

        Raises:
            OSError: the disk is full.
        """
        try:
            size = self._file.tell()  # which writes what a full disk has kept back
        except OSError as error:
            raise OSError(f"could not write {self._file.name}: {error.strerror}") from error
        return {"bytes": size, **self.times()}

    def write(self, row: dict[str, float]) -> None:
        """Appends a row; columns that it lacks stay empty, the times are now's.

        Raises:
            Exception: whatever stopped who hears it.
        """
        row = self.times() | row
        try:
            self._csv.writerow(row)
            self._file.flush()
            self._board.write(row)
        except OSError as error:  # a full disk costs the row, not the run
            self.say(f"warning: metrics of step {row['step']} are lost: {error.strerror}")
        if run := self._wandb:
            self._tried(lambda: run.log(row))
        if "eval_return" in row:
            self._last_eval = f"{row['eval_return']:.0f}"
        self._show(row)
        if self._hear:
            self._hear(row)

    def say(self, sentence: str) -> None:
        """Prints a sentence on a line of its own."""
        self._print(sentence + "\n")

    def close(self) -> None:
        """Flushes and closes the files."""
        self._print("")
        for output in (self._file, self._board):
            try:
                output.close()
            except OSError as error:
                self.say(f"warning: the last metrics are lost: {error.strerror}")
        if run := self._wandb:
            self._tried(run.finish)

    def _tried(self, action: Callable[[], Any]) -> Any:
        """Does something with Weights & Biases; where it fails the run goes on without."""
        try:
            return action()
        except Exception as error:
            self._wandb = None
            self.say(f"warning: Weights & Biases gets no more of this run: {error}")

    def _cut(self, path: Path, size: int) -> bool:
        """Cuts metrics.csv to a size; a damaged one is put aside, and False returned.

        One of a version that had fewer columns is written anew with all of them. It stays as
        metrics.csv.old, to which the sizes in that version's checkpoints belong.
        """
        old = path.with_name(path.name + ".old")
        try:
            # All that a later checkpoint has written is longer.
            source = old if old.is_file() and size <= old.stat().st_size else path
            with source.open("r+b") as file:
                content = file.read(size)
                whole = len(content) == size and content.endswith(b"\n")
                header = content.partition(b"\r\n")[0].decode(errors="replace").split(",")
                if whole and tuple(header) == COLUMNS:
                    file.truncate(size)
                    return True
            if whole and "step" in header and set(header) < set(COLUMNS):
                write_atomically(old, content)
                text = io.StringIO(newline="")
                writer = csv.DictWriter(text, COLUMNS)
                writer.writeheader()
                writer.writerows(csv.DictReader(io.StringIO(content.decode(), newline="")))
                write_atomically(path, text.getvalue().encode())
                return True
            path.replace(path.with_name(path.name + ".damaged"))
            self.say(f"warning: {path} is damaged: renamed to .damaged, and begun anew")
        except FileNotFoundError:
            self.say(f"warning: {path} is gone: begun anew")
        return False

    def _print(self, text: str) -> None:
        """Writes over the live line; a terminal, pipe or log that is gone costs the text."""
        with contextlib.suppress(OSError, ValueError):
            print(("\r\x1b[K" if self._live else "") + text, end="", file=sys.stderr, flush=True)

    def _show(self, row: dict[str, float]) -> None:
        now = time.monotonic()
        if "steps_per_second" not in row or (
            not self._live and now - self._shown_at < _PLAIN_SECONDS
        ):
            return
        self._shown_at = now
        rate = row["steps_per_second"]
        left = (self._total_steps - row["step"]) / rate if rate else 0.0
        left = min(left, max(0.0, self._ends - now))
        parts = [
            f"step {row['step']:,}/{self._total_steps:,}",
            f"{rate:,.0f} steps/s",
            f"{row['updates_per_second']:,.0f} updates/s",
            f"return {_number(row, 'train_return')}",
            f"eval {self._last_eval}",
            f"alpha {_number(row, 'alpha', '.3g')}",
            f"ETA {_clock(left)}",
        ]
        line = " | ".join(parts)
        if self._live:  # a line that wraps cannot be rewritten
            line = line[: shutil.get_terminal_size().columns - 1]
        self._print(line if self._live else line + "\n")


def _number(row: dict[str, float], name: str, form: str = ".0f") -> str:
    return format(row[name], form) if name in row else "-"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
