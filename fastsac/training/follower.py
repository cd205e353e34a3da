"""A rank's part of a training run that rank 0 writes."""

from typing import Self

from fastsac.errors import NotFiniteError
from fastsac.training.config import TrainConfig
from fastsac.training.interruption import StopSignals
from fastsac.training.log import TrainingLog
from fastsac.training.ranks import Ranks
from fastsac.training.resuming import load_part
from fastsac.training.run import TrainResult
from fastsac.training.saving import RankSaving
from fastsac.training.state import TrainingState


class Follower:
    """What TrainingRun is on rank 0, without a directory: what all ranks do together, it does too.

    Args:
        config: the run's.
        ranks: that train together, this one not the first.
        signals: that end the run.

    Attributes:
        state: what it trains.
        finished: whether the run's steps or its time are used up.

    Raises:
        UserError: the run cannot be run here, or rank 0 has ended.
    """

    def __init__(self, config: TrainConfig, ranks: Ranks, signals: StopSignals):
        self.config, self._ranks, self._signals = config, ranks, signals
        self.state = TrainingState(config, ranks)
        try:
            self.state.require_alike()
            goes_on = ranks.from_first(None)
            if goes_on:
                load_part(self.state)
            else:
                self.state.take_policy()
                self.state.start()
            self._log = TrainingLog(config, self.state, None)
            self._saving = RankSaving(config, self.state)
            if not goes_on:
                self._saving.save()
        except BaseException:
            self.state.close()
            raise
        self.finished = self.state.steps >= config.total_steps

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.state.close()

    def learn(self) -> None:
        """Does a vector step's updates."""
        state, updates = self.state, self.config.updates_per_vector_step
        self._log.keep(state.agent.learn(state.replay, self.config.batch_size, updates))
        state.updates += updates

    def after_step(self) -> None:
        """Does what rank 0's does with all ranks.

        Raises:
            NotFiniteError: nothing will come of the run any more.
        """
        late, due = self._ranks.agree(self._signals, False, False)
        self.finished = late or self.state.steps >= self.config.total_steps
        if (self.finished or due) and (reason := self._log.write(self.finished)):
            self._saving.save()
            raise NotFiniteError(reason)
        if not self.finished and self.state.crossed(self.config.checkpoint_every):
            self._saving.save()

    def save_last(self) -> None:
        """Saves its part of a run whose loop has ended."""
        self._saving.save()

    def finish(self) -> TrainResult:
        """Waits for rank 0's evaluation and returns its result."""
        self._saving.save()
        return self._ranks.publish(None)
