"""The rows that a training writes about itself, and what it warns of."""

import math
import time

import torch

from fastsac.runs.metrics import MetricsWriter
from fastsac.training.config import TrainConfig
from fastsac.training.state import TrainingState

_ROUNDING = 1e-5  # of rewards in float32
# Skipped updates in a row, as of a log interval, after which nothing will come of a run any more.
_MOST_SKIPPED = 100


class TrainingLog:
    """Writes a row every ``log_seconds``.

    Args:
        config: the run's.
        state: what it trains.
        metrics: where the rows go.
    """

    def __init__(self, config: TrainConfig, state: TrainingState, metrics: MetricsWriter):
        self._config, self._state, self._metrics = config, state, metrics
        self._losses: dict[str, torch.Tensor] = {}
        self._warned = False
        self._last = (state.steps, state.updates, time.monotonic())

    @property
    def due(self) -> bool:
        """Whether the last row is ``log_seconds`` old."""
        return time.monotonic() - self._last[2] >= self._config.log_seconds

    def keep(self, losses: dict[str, torch.Tensor]) -> None:
        """Takes the latest losses, scalars on the device, for the next row."""
        self._losses |= losses

    def write(self) -> int:
        """Writes a row about the time since the one before.

        Returns:
            How many updates in a row were skipped, if that is too many for anything to come of the
            run any more, else 0.

        Raises:
            Exception: whatever stopped the thread that draws initial states.
        """
        self._state.env.engine.check()
        steps, updates, then = self._last
        now, state = time.monotonic(), self._state
        row: dict[str, float] = {
            "step": state.steps,
            "updates": state.updates,
            "steps_per_second": (state.steps - steps) / (now - then),
            "updates_per_second": (state.updates - updates) / (now - then),
        }
        measured = {
            "train_return": state.episodes.take_mean(),
            "invalid_transitions": state.invalid,
            "lowest": state.episodes.lowest,
            "highest": state.episodes.highest,
            "in_a_row": state.agent.skipped_in_a_row,
            **self._losses,
        }
        # All at once: the one time in log_seconds that the device is waited for.
        values = torch.stack([x.double() for x in measured.values()]).tolist()
        row |= dict(zip(measured, values, strict=True))
        for count in ("invalid_transitions", "skipped_updates"):
            if count in row:
                row[count] = int(row[count])
        if math.isnan(row["train_return"]):  # no episode ended
            del row["train_return"]
        self._warn_of_rewards(row.pop("lowest"), row.pop("highest"))
        in_a_row = int(row.pop("in_a_row"))
        self._metrics.write(row)
        self._last = (state.steps, state.updates, now)
        return in_a_row if in_a_row >= _MOST_SKIPPED and state.updates > updates else 0

    def _warn_of_rewards(self, lowest: float, highest: float) -> None:
        """Says once that a reward is none that the atoms' default range is made for."""
        sac = self._config.sac
        assumed = sac.num_atoms is not None and sac.value_range is None
        if assumed and not self._warned and (lowest < -_ROUNDING or highest > 1 + _ROUNDING):
            self._warned = True
            self._metrics.say(
                f"warning: rewards from {lowest:.3g} to {highest:.3g} are beyond the [0, 1] that "
                "the atoms' range is made for: give --value-range, or --num-atoms None"
            )
