"""A run's checkpoints: the newest few and the best policy, and the replay's files behind them."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from fastsac.errors import CheckpointError, DamagedError, RunError
from fastsac.learner.policy import Policy
from fastsac.learner.replay import ReplayBuffer
from fastsac.runs import checkpoint_file
from fastsac.runs.replay_files import ReplayFiles, is_name, read_rows

State = dict[str, Any]


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
        names = list(self._used.values())[-1] if self._used else []
        self._replay = ReplayFiles(run_dir, replay, names)

    def save(self, state: State) -> Path:
        """Writes a checkpoint, then deletes those that are not kept.

        Args:
            state: of the run, with its agent and its counters.

        Raises:
            OSError: the disk is full or not writable; the checkpoints before are intact.
        """
        name = checkpoint_file.name_of(state["counters"]["steps"])
        file = self._run_dir / checkpoint_file.FOLDER / name
        file.parent.mkdir(exist_ok=True)
        names = self._replay.save()
        checkpoint_file.save(file, self._about | state | {"replay_files": names})
        self._used.pop(file, None)
        self._used[file] = names
        for old in list(self._used)[: -self._keep]:
            old.unlink(missing_ok=True)
            del self._used[old]
        self._replay.keep_only({name for names in self._used.values() for name in names})
        return file

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
            self.used[file] = read[file]["replay_files"]
        try:
            for folder in (run_dir, run_dir / checkpoint_file.FOLDER):
                for partial in folder.glob("*.partial"):
                    partial.unlink()
            for file in damaged:
                file.replace(file.with_name(file.name + ".damaged"))
        except OSError as error:
            raise RunError(f"cannot write to the run {run_dir}: {error.strerror}") from error

    def rows(self) -> Iterator[tuple[int, torch.Tensor]] | None:
        """Returns the replay's rows, each part with its first number, or None if not saved."""
        names = self.state["replay_files"]
        return read_rows(self._run_dir, names) if names else None

    def _read(self, file: Path) -> State:
        state = checkpoint_file.load(file)
        if str(state["task"]) != self._task:
            raise CheckpointError(
                f"{file} is of {state['task']}, but {self._run_dir} is a run of {self._task}"
            )
        names = state.get("replay_files")
        if "env" not in state or not isinstance(names, list) or not all(map(is_name, names)):
            raise CheckpointError(f"{file} holds a policy alone, nothing to go on from")
        written = state.get("metrics")
        kinds = {"bytes": int, "seconds": float, "cpu_seconds": float}
        if not isinstance(written, dict) or {k: type(v) for k, v in written.items()} != kinds:
            raise CheckpointError(f"{file} does not say how far metrics.csv is its own")
        if not all(0 <= number < math.inf for number in written.values()):
            raise CheckpointError(f"{file} has times out of range")
        for _ in read_rows(self._run_dir, names):
            pass  # each is whole
        return state
