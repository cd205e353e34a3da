"""A run's checkpoints: the newest few and the best policy, and the replay's files behind them."""

from pathlib import Path
from typing import Any

import torch

from fastsac import checkpoint, run_directory
from fastsac.config import TrainConfig
from fastsac.errors import CheckpointError
from fastsac.policy import Policy
from fastsac.replay import ReplayBuffer, row_bytes
from fastsac.replay_files import ReplayFiles, read_rows

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
        self._replay: ReplayFiles | None = None
        if saves_replay(config, row_bytes(replay.obs_dim, replay.action_dim)):
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
        names = self._replay.save() if self._replay else []
        checkpoint.save(file, self._about | state | {"replay_files": names})
        self._used.pop(file, None)
        self._used[file] = names
        for old in list(self._used)[: -self._config.keep_checkpoints]:
            old.unlink(missing_ok=True)
            del self._used[old]
        if self._replay:
            self._replay.keep_only({name for names in self._used.values() for name in names})
        return file

    def save_best(self, policy: Policy, counters: dict[str, float]) -> None:
        """Writes best.pt: a policy to evaluate or to export, not to go on from.

        Raises:
            OSError: as ``save``.
        """
        content = self._about | {"agent": policy.state_dict(), "counters": dict(counters)}
        checkpoint.save(self._run_dir / checkpoint.BEST, content)


def saves_replay(config: TrainConfig, bytes_a_row: int) -> bool:
    """Whether a run's checkpoints hold its replay."""
    if config.checkpoint_replay is not None:
        return config.checkpoint_replay
    return config.replay_capacity * bytes_a_row < _LARGEST_REPLAY


class Resumed:
    """What a run goes on from: its newest checkpoint that is whole, its replay's rows included.

    Args:
        run_dir: the run's directory, locked.
        config: the run's.

    Attributes:
        state: the checkpoint's.
        rows: the replay's (N, width), or None where they were not saved.
        used: the replay's files that each checkpoint needs, this one's last.
        damaged: a sentence for each newer checkpoint, now renamed to NAME.damaged.

    Raises:
        CheckpointError: there is none, or it is of another task.
    """

    def __init__(self, run_dir: Path, config: TrainConfig):
        self.used: dict[Path, list[str]] = {}
        self.damaged: list[str] = []
        self._run_dir, self._config = run_dir, config
        for partial in (run_dir / checkpoint.FOLDER).glob("*.partial"):
            partial.unlink()
        files = checkpoint.files_of(run_dir)
        if not files:
            raise CheckpointError(f"{run_dir} holds no checkpoint to go on from")
        broken = []
        for number, file in enumerate(files):
            try:
                self.state, self.rows = self._read(file)
            except CheckpointError as error:
                broken.append(file)
                self.damaged.append(str(error))
                continue
            for older in reversed(files[number + 1 :]):
                self._keep(older)
            self.used[file] = self.state["replay_files"]
            break
        else:
            reasons = "; ".join(self.damaged)
            raise CheckpointError(f"no checkpoint of {run_dir} can be read: {reasons}")
        for file in broken:
            file.replace(file.with_name(file.name + ".damaged"))

    def _read(self, file: Path) -> tuple[State, torch.Tensor | None]:
        state = checkpoint.load(file)
        if state["task"] != self._config.task:
            raise CheckpointError(
                f"{file} is of {state['task']}, but {self._run_dir} is a run of {self._config.task}"
            )
        names = state.get("replay_files")
        if "env" not in state or "metrics" not in state or not isinstance(names, list):
            raise CheckpointError(f"{file} holds a policy alone, nothing to go on from")
        return state, read_rows(self._run_dir, names) if names else None

    def _keep(self, file: Path) -> None:
        """Notes what an older checkpoint needs; one that cannot be read needs nothing."""
        try:
            self.used[file] = checkpoint.load(file)["replay_files"]
        except (CheckpointError, KeyError):
            file.unlink()
