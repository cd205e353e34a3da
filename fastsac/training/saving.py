"""Checkpoints of a run under way: how much they take, and when the disk takes none."""

import time
from pathlib import Path
from typing import Any

from fastsac.errors import CheckpointError
from fastsac.learner.replay import ReplayBuffer, row_bytes
from fastsac.learner.sac import SAC
from fastsac.runs.checkpoints import RankPart, RunCheckpoints
from fastsac.runs.metrics import MetricsWriter
from fastsac.runs.replay_files import SentRows
from fastsac.training.config import TrainConfig, to_json
from fastsac.training.state import TrainingState

# Larger buffers are not saved unless asked for.
_LARGEST_REPLAY = 2_000_000_000


def disk_bytes(config: TrainConfig, agent: SAC, replay: ReplayBuffer, ranks: int = 1) -> int:
    """Returns about how many bytes a run's checkpoints will take."""
    weights = sum(p.numel() * 4 for p in (agent.actor_flat, agent.critics_flat))
    # Weights, targets and Adam's moments, in each file and in the one being written.
    needed = 4 * weights * (config.keep_checkpoints + 1)
    a_row = row_bytes(replay.obs_dim, replay.action_dim)
    if saves_replay(config, replay):
        # The ring's oldest rows share a file with some that are gone, in each checkpoint kept.
        rows = config.replay_capacity * ranks + config.keep_checkpoints * config.checkpoint_every
        needed += min(rows, config.total_steps) * a_row
    return needed


def saves_replay(config: TrainConfig, replay: ReplayBuffer) -> bool:
    """Whether a run's checkpoints hold its replay."""
    if config.checkpoint_replay is not None:
        return config.checkpoint_replay
    return config.replay_capacity * row_bytes(replay.obs_dim, replay.action_dim) < _LARGEST_REPLAY


def checkpoints_of(
    config: TrainConfig, run_dir: Path, replay: ReplayBuffer, used: dict[Path, list[str]] | None
) -> RunCheckpoints:
    """Returns what writes a run's checkpoints; ``used`` is Resumed's of a run that goes on."""
    about = {
        "task": config.task,
        "obs_dim": replay.obs_dim,
        "action_dim": replay.action_dim,
        "config": to_json(config),
    }
    saved = replay if saves_replay(config, replay) else None
    return RunCheckpoints(run_dir, about, config.keep_checkpoints, saved, used)


class RunSaving:
    """Saves a run between two vector steps, with the parts of the other ranks, if there are any.

    Args:
        state: what it trains.
        metrics: how far they are written is saved, and they hear of a disk that is full.
        checkpoints: where it is saved.
        newest: the checkpoint that a resumed run goes on from.

    Attributes:
        newest: the newest checkpoint.
        seconds: how long the last one took.
    """

    def __init__(
        self,
        state: TrainingState,
        metrics: MetricsWriter,
        checkpoints: RunCheckpoints,
        newest: Path | None,
    ):
        self._state, self._metrics, self._checkpoints = state, metrics, checkpoints
        self.newest, self.seconds = newest, 0.0

    def save(
        self, evaluations: dict[str, Any], required: bool = False, last: bool = False
    ) -> Path | None:
        """Saves a checkpoint; where the disk takes none, says so and returns None.

        Args:
            evaluations: state of the run's evaluations.
            required: whether the run is to fail where it cannot be saved.
            last: whether to make the run's directory anew where somebody moved or deleted it.

        Raises:
            CheckpointError: the disk takes none, and it is required.
        """
        started = time.monotonic()
        ranks = self._state.ranks
        parts = (RankPart(*ranks.receive(rank)) for rank in range(1, ranks.size))
        try:
            state = self._state.state_dict() | evaluations | {"metrics": self._metrics.state_dict()}
            if last and self._checkpoints.made_anew():
                self._metrics.say("warning: the run's directory is gone: made anew")
            self.newest = self._checkpoints.save(state, parts)
            ranks.from_first(True)
        except OSError as error:
            for _ in parts:  # the others wait to be rid of theirs
                pass
            ranks.from_first(False)
            if required:
                raise CheckpointError(str(error)) from error
            self._metrics.say(f"warning: {error}; the newest checkpoint is {self.newest}")
            return None
        self.seconds = time.monotonic() - started
        return self.newest


class RankSaving:
    """Saves the part of a rank other than 0, with which rank 0 does it.

    Args:
        config: the run's.
        state: what it trains.
    """

    def __init__(self, config: TrainConfig, state: TrainingState):
        self._state, self._saves_replay = state, saves_replay(config, state.replay)
        self._saved = state.replay.added  # a run that goes on has them on disk

    def save(self) -> None:
        """Hands rank 0 this rank's state, and the transitions that no checkpoint has yet."""
        replay, ranks = self._state.replay, self._state.ranks
        rows = None
        if self._saves_replay:
            newest = replay.rows_from(max(self._saved, replay.added - len(replay)))
            rows = SentRows(replay.added, len(replay), newest)
        ranks.send((self._state.part_dict(), rows), 0)
        if ranks.from_first(None):
            self._saved = replay.added
