"""The rows that a training writes about itself, and what it warns of."""

import math
import statistics
import time
from collections.abc import Callable

import torch

from fastsac.runs.metrics import MetricsWriter
from fastsac.training.config import TrainConfig
from fastsac.training.state import TrainingState

_ROUNDING = 1e-5  # of rewards in float32
# What is one of several ranks' figures; of others it is the mean.
_ACROSS_RANKS: dict[str, Callable[[list[float]], float]] = {
    "invalid_transitions": sum,
    "episodes": sum,
    "lowest": min,
    "highest": max,
}
# Skipped updates in a row, as of a log interval, after which nothing will come of a run any more.
_MOST_SKIPPED = 100


class TrainingLog:
    """Writes a row every ``log_seconds``.

    Args:
        config: the run's.
        state: what it trains.
        metrics: where the rows go; None on a rank that writes none.
    """

    def __init__(self, config: TrainConfig, state: TrainingState, metrics: MetricsWriter | None):
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
        """Writes a row about the time since the one before; with several ranks all call it.

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
            "episodes": state.episodes.ended,
            "train_return": state.episodes.take_mean(),
            "invalid_transitions": state.invalid,
            "lowest": state.episodes.lowest,
            "highest": state.episodes.highest,
            "in_a_row": state.agent.skipped_in_a_row,
            **self._losses,
        }
        # All at once: the one time in log_seconds that the device is waited for.
        values = torch.stack([x.double() for x in measured.values()]).tolist()
        row |= _across_ranks(
            [dict(zip(measured, one, strict=True)) for one in state.ranks.gather(values)]
        )
        del row["episodes"]
        for count in ("invalid_transitions", "skipped_updates"):
            if count in row:
                row[count] = int(row[count])
        if math.isnan(row["train_return"]):  # no episode ended
            del row["train_return"]
        self._warn_of_rewards(row.pop("lowest"), row.pop("highest"))
        in_a_row = int(row.pop("in_a_row"))
        if self._metrics:
            self._metrics.write(row)
        self._last = (state.steps, state.updates, now)
        return in_a_row if in_a_row >= _MOST_SKIPPED and state.updates > updates else 0

    def _warn_of_rewards(self, lowest: float, highest: float) -> None:
        """Says once that a reward is none that the atoms' default range is made for."""
        sac = self._config.sac
        assumed = sac.num_atoms is not None and sac.value_range is None
        if not (assumed and self._metrics) or self._warned:
            return
        if lowest < -_ROUNDING or highest > 1 + _ROUNDING:
            self._warned = True
            self._metrics.say(
                f"warning: rewards from {lowest:.3g} to {highest:.3g} are beyond the [0, 1] that "
                "the atoms' range is made for: give --value-range, or --num-atoms None"
            )


def _across_ranks(rows: list[dict[str, float]]) -> dict[str, float]:
    """Returns one row of all ranks' rows; returns count by their episodes."""
    if len(rows) == 1:
        return rows[0]
    row = {
        name: _ACROSS_RANKS.get(name, statistics.fmean)([r[name] for r in rows]) for name in rows[0]
    }
    total = sum(r["train_return"] * r["episodes"] for r in rows if r["episodes"])
    return row | {"train_return": total / row["episodes"] if row["episodes"] else math.nan}
