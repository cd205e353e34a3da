"""A run's checkpoints: the newest few and the best policy, and the replay's files behind them."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from fastsac import checkpoint, run_directory
from fastsac.config import TrainConfig
from fastsac.errors import CheckpointError, DamagedError, RunError
from fastsac.learner.policy import Policy
from fastsac.learner.replay import ReplayBuffer, row_bytes
from fastsac.learner.sac import SAC
from fastsac.replay_files import ReplayFiles, is_name, read_rows

# Larger buffers are not saved unless asked for.
_LARGEST_REPLAY = 2_000_000_000

State = dict[str, Any]


class RunCheckpoints:
    """Writes a run's checkpoints and deletes those that are no longer kept.

    Args:
        run_dir: the run's directory.
        config: the run's.
        replay: its buffer.
        used: the replay's files that each checkpoint on disk needs, the resumed one's last.
    """

    def __init__(
        self,
        run_dir: Path,
        config: TrainConfig,
        replay: ReplayBuffer,
        used: dict[Path, list[str]] | None = None,
    ):
        self._run_dir, self._config = run_dir, config
        self._used = used or {}
        self._saves_replay = saves_replay(config, row_bytes(replay.obs_dim, replay.action_dim))
        names = list(self._used.values())[-1] if self._used else []
        self._replay = ReplayFiles(run_dir, replay, names)
        self._about: State = {
            "task": config.task,
            "obs_dim": replay.obs_dim,
            "action_dim": replay.action_dim,
            "config": run_directory.to_json(config),
        }

    def save(self, state: State) -> Path:
        """Writes a checkpoint, then deletes those beyond --keep-checkpoints.

        Args:
            state: of the run, with its agent and its counters.

        Raises:
            OSError: the disk is full or not writable; the checkpoints before are intact.
        """
        file = self._run_dir / checkpoint.FOLDER / checkpoint.name_of(state["counters"]["steps"])
        file.parent.mkdir(exist_ok=True)
        names = self._replay.save() if self._saves_replay else []
        checkpoint.save(file, self._about | state | {"replay_files": names})
        self._used.pop(file, None)
        self._used[file] = names
        for old in list(self._used)[: -self._config.keep_checkpoints]:
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
        checkpoint.save(self._run_dir / checkpoint.BEST, content)

    def best_until(self, steps: int) -> float:
        """Returns the return of best.pt, or -inf if that is of later than so many steps."""
        try:
            counters = checkpoint.load(self._run_dir / checkpoint.BEST)["counters"]
            return float(counters["eval_return"]) if counters["step"] <= steps else -math.inf
        except (CheckpointError, KeyError, TypeError):
            return -math.inf


def disk_bytes(config: TrainConfig, agent: SAC, replay: ReplayBuffer) -> int:
    """Returns about how many bytes a run's checkpoints will take."""
    weights = sum(p.numel() * 4 for p in (agent.actor_flat, agent.critics_flat))
    # Weights, targets and Adam's moments, in each file and in the one being written.
    needed = 4 * weights * (config.keep_checkpoints + 1)
    a_row = row_bytes(replay.obs_dim, replay.action_dim)
    if saves_replay(config, a_row):
        # The ring's oldest rows share a file with some that are gone, in each checkpoint kept.
        rows = config.replay_capacity + config.keep_checkpoints * config.checkpoint_every
        needed += min(rows, config.total_steps) * a_row
    return needed


def saves_replay(config: TrainConfig, bytes_a_row: int) -> bool:
    """Whether a run's checkpoints hold its replay."""
    if config.checkpoint_replay is not None:
        return config.checkpoint_replay
    return config.replay_capacity * bytes_a_row < _LARGEST_REPLAY


class Resumed:
    """What a run goes on from: its newest checkpoint that is whole, its replay's files included.

    Args:
        run_dir: the run's directory, locked.
        config: the run's.

    Attributes:
        state: the checkpoint's.
        used: the replay's files that each checkpoint needs, this one's last.
        left_out: a sentence for each checkpoint that cannot be read; those that are damaged are
            now named NAME.damaged.

    Raises:
        CheckpointError: there is none, or it is of another task.
        RunError: the directory cannot be written.
    """

    def __init__(self, run_dir: Path, config: TrainConfig):
        self.used: dict[Path, list[str]] = {}
        self.left_out: list[str] = []
        self._run_dir, self._config = run_dir, config
        read: dict[Path, State] = {}
        damaged = []
        for file in checkpoint.files_of(run_dir):
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
            for folder in (run_dir, run_dir / checkpoint.FOLDER):
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
        state = checkpoint.load(file)
        if str(state["task"]) != self._config.task:
            raise CheckpointError(
                f"{file} is of {state['task']}, but {self._run_dir} is a run of {self._config.task}"
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
