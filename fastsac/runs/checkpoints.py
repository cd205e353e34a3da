"""A run's checkpoints: the newest few and the best policy, and the replay's files behind them."""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fastsac.errors import CheckpointError, DamagedError, RunError
from fastsac.learner.policy import Policy
from fastsac.learner.replay import ReplayBuffer
from fastsac.runs import checkpoint_file
from fastsac.runs.atomic_write import write_atomically
from fastsac.runs.directory import CONFIG
from fastsac.runs.replay_files import ReplayFiles, SentRows, is_name, keep_only, rank_of, read_rows

State = dict[str, Any]


class RankPart(NamedTuple):
    """What another rank adds to a checkpoint: its state, and its replay's rows or None."""

    state: State
    rows: SentRows | None


class RunCheckpoints:
    """Writes a run's checkpoints and deletes those that are no longer kept.

    Args:
        run_dir: the run's directory.
        about: what a policy needs besides its weights: "task", "obs_dim", "action_dim", and the
            run's whole "config" as JSON.
        keep: how many of the newest stay on disk.
        replay: the buffer whose rows are saved with them, or None.
        used: the replay's files that each checkpoint on disk needs, the resumed one's last.
    """

    def __init__(
        self,
        run_dir: Path,
        about: State,
        keep: int,
        replay: ReplayBuffer | None,
        used: dict[Path, list[str]] | None = None,
    ):
        self._run_dir, self._about, self._keep = run_dir, about, keep
        self._used = used or {}
        self._replay = replay
        self._files: dict[int, ReplayFiles] = {}  # of each rank

    def save(self, state: State, parts: Iterable[RankPart] = ()) -> Path:
        """Writes a checkpoint, then deletes those that are not kept.

        Args:
            state: of the run, with its agent and its counters.
            parts: of the ranks 1, 2 and so on, where there are several; one is held at a time.

        Raises:
            OSError: the disk is full or not writable; the checkpoints before are intact.
        """
        if not self._run_dir.is_dir():
            raise OSError(f"{self._run_dir} is gone, moved or deleted")
        name = checkpoint_file.name_of(state["counters"]["steps"])
        file = self._run_dir / checkpoint_file.FOLDER / name
        file.parent.mkdir(exist_ok=True)
        content = self._about | state | self._with_rows(0, self._replay)
        names = list(content["replay_files"])
        ranks = []
        for rank, part in enumerate(parts, 1):
            ranks.append(part.state | self._with_rows(rank, part.rows))
            names += ranks[-1]["replay_files"]
        checkpoint_file.save(file, content | ({"ranks": ranks} if ranks else {}))
        self._used.pop(file, None)
        self._used[file] = names
        for old in list(self._used)[: -self._keep]:
            old.unlink(missing_ok=True)
            del self._used[old]
        keep_only(self._run_dir, {name for names in self._used.values() for name in names})
        return file

    def made_anew(self) -> bool:
        """Makes the run's directory where it is gone, for a whole checkpoint; whether it was.

        Raises:
            OSError: it cannot be made.
        """
        if self._run_dir.is_dir():
            return False
        self._run_dir.mkdir(parents=True)
        write_atomically(self._run_dir / CONFIG, self._about["config"].encode())
        self._files.clear()
        self._used.clear()
        return True

    def _with_rows(self, rank: int, replay: ReplayBuffer | SentRows | None) -> State:
        """Writes a rank's rows and returns the names of all its files."""
        if rank not in self._files:
            resumed = list(self._used.values())[-1] if self._used else []
            names = [name for name in resumed if rank_of(name) == rank]
            self._files[rank] = ReplayFiles(self._run_dir, names, rank)
        return {"replay_files": self._files[rank].save(replay)}

    def save_best(self, policy: Policy, counters: dict[str, float]) -> None:
        """Writes best.pt: a policy to evaluate or to export, not to go on from.

        Raises:
            OSError: as ``save``.
        """
        content = self._about | {"agent": policy.state_dict(), "counters": dict(counters)}
        checkpoint_file.save(self._run_dir / checkpoint_file.BEST, content)

    def best_until(self, steps: int) -> float:
        """Returns the return of best.pt, or -inf if that is of later than so many steps."""
        try:
            counters = checkpoint_file.load(self._run_dir / checkpoint_file.BEST)["counters"]
            return float(counters["eval_return"]) if counters["step"] <= steps else -math.inf
        except (CheckpointError, KeyError, TypeError):
            return -math.inf


class Resumed:
    """What a run goes on from: its newest checkpoint that is whole, its replay's files included.

    Args:
        run_dir: the run's directory, locked.
        task: the run's.

    Attributes:
        state: the checkpoint's.
        used: the replay's files that each checkpoint needs, this one's last.
        left_out: a sentence for each checkpoint that cannot be read; those that are damaged are
            now named NAME.damaged.

    Raises:
        CheckpointError: there is none, or it is of another task.
        RunError: the directory cannot be written.
    """

    def __init__(self, run_dir: Path, task: str):
        self.used: dict[Path, list[str]] = {}
        self.left_out: list[str] = []
        self._run_dir, self._task = run_dir, task
        read: dict[Path, State] = {}
        damaged = []
        for file in checkpoint_file.files_of(run_dir):
            try:
                read[file] = self._read(file)
            except CheckpointError as error:
                self.left_out.append(str(error))
                damaged += [file] if isinstance(error, DamagedError) else []
        if not read:
            reasons = "; ".join(self.left_out) or "there is none"
            raise CheckpointError(f"no checkpoint of {run_dir} can be gone on from: {reasons}")
        self.state = next(iter(read.values()))
        for file in reversed(read):
            self.used[file] = [name for names in self._names(read[file]) for name in names]
        try:
            for folder in (run_dir, run_dir / checkpoint_file.FOLDER):
                for partial in folder.glob("*.partial"):
                    partial.unlink()
            for file in damaged:
                file.replace(file.with_name(file.name + ".damaged"))
        except OSError as error:
            raise RunError(f"cannot write to the run {run_dir}: {error.strerror}") from error

    @property
    def size(self) -> int:
        """How many ranks trained together."""
        return len(self._names(self.state))

    def part(self, rank: int) -> State:
        """Returns the state of a rank; that of rank 0 is the run's."""
        if rank == 0:
            return self.state
        part = self.state["ranks"][rank - 1]
        return part | {"agent": self.state["agent"] | part["agent"]}

    def rows(self, rank: int = 0) -> Iterator[tuple[int, torch.Tensor]] | None:
        """Returns a replay's rows, each part with its first number, or None if not saved."""
        names = self._names(self.state)[rank]
        return read_rows(self._run_dir, names) if names else None

    @staticmethod
    def _names(state: State) -> list[list[str]]:
        """The files of each rank's replay."""
        return [part["replay_files"] for part in (state, *state.get("ranks", ()))]

    def _read(self, file: Path) -> State:
        state = checkpoint_file.load(file)
        if str(state["task"]) != self._task:
            raise CheckpointError(
                f"{file} is of {state['task']}, but {self._run_dir} is a run of {self._task}"
            )
        others = state.get("ranks", [])
        parts = [state, *others] if isinstance(others, list) else [None]
        if not all(isinstance(part, dict) and _can_go_on(part) for part in parts):
            raise CheckpointError(f"{file} holds a policy alone, nothing to go on from")
        written = state.get("metrics")
        kinds = {"bytes": int, "seconds": float, "cpu_seconds": float}
        if not isinstance(written, dict) or {k: type(v) for k, v in written.items()} != kinds:
            raise CheckpointError(f"{file} does not say how far metrics.csv is its own")
        if not all(0 <= number < math.inf for number in written.values()):
            raise CheckpointError(f"{file} has times out of range")
        for names in self._names(state):
            for _ in read_rows(self._run_dir, names):
                pass  # each is whole
        return state


def _can_go_on(part: State) -> bool:
    names = part.get("replay_files")
    return "env" in part and isinstance(names, list) and all(map(is_name, names))
