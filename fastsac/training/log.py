"""The rows that a training writes about itself, and what it warns of."""

import math
import statistics
import time
from collections.abc import Callable

import torch

from fastsac.runs.metrics import MetricsWriter
from fastsac.training.config import TrainConfig
from fastsac.training.faults import KINDS
from fastsac.training.state import TrainingState

_ROUNDING = 1e-5  # of rewards in float32
# What is one of several ranks' figures; of others it is the mean.
_ACROSS_RANKS: dict[str, Callable[[list[float]], float]] = {
    "invalid_transitions": sum,
    **{f"bad_{kind}": sum for kind in KINDS},
    **{f"first_{kind}": min for kind in KINDS},
    "episodes": sum,
    "lowest": min,
    "highest": max,
}
# Skipped updates or bad rewards in a row, as of a log interval, after which nothing will come of a
# run any more.
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
        self._faults = dict(zip(KINDS, state.faults.counts.tolist(), strict=True))
        self._last = (state.steps, state.updates, time.monotonic())

    @property
    def due(self) -> bool:
        """Whether the last row is ``log_seconds`` old."""
        return time.monotonic() - self._last[2] >= self._config.log_seconds

    def keep(self, losses: dict[str, torch.Tensor]) -> None:
        """Takes the latest losses, scalars on the device, for the next row."""
        self._losses |= losses

    def write(self, last: bool = False) -> str | None:
        """Writes a row about the time since the one before; with several ranks all call it.

        Args:
            last: whether the training ends with it.

        Returns:
            Why nothing will come of the run any more, or None.

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
            **{f"bad_{k}": x for k, x in zip(KINDS, state.faults.counts, strict=True)},
            **{f"first_{k}": x for k, x in zip(KINDS, state.faults.first, strict=True)},
            **self._losses,
        }
        # All at once: the one time in log_seconds that the device is waited for.
        values = torch.stack([x.double() for x in measured.values()]).tolist()
        row |= _across_ranks(
            [dict(zip(measured, one, strict=True)) for one in state.ranks.gather(values)]
        )
        del row["episodes"]
        for count in ("invalid_transitions", "skipped_updates", *(f"bad_{k}" for k in KINDS)):
            if count in row:
                row[count] = int(row[count])
        if math.isnan(row["train_return"]):  # no episode ended
            del row["train_return"]
        self._warn_of_rewards(row.pop("lowest"), row.pop("highest"))
        in_a_row = int(row.pop("in_a_row"))
        reason = self._judge_faults(row, state.steps - steps, last)
        if self._metrics:
            self._metrics.write(row)
        self._last = (state.steps, state.updates, now)
        if in_a_row < _MOST_SKIPPED or state.updates == updates:
            return reason
        return reason or (
            f"the last {in_a_row} updates had losses or gradients that are no finite numbers and "
            "were skipped"
        )

    def _judge_faults(self, row: dict[str, float], steps: int, last: bool) -> str | None:
        """Says where the first of a kind came; returns a sentence where all steps are such."""
        task, worlds = self._config.task, self._state.worlds
        for kind in KINDS:
            first, count = int(row.pop(f"first_{kind}")), int(row[f"bad_{kind}"])
            before, self._faults[kind] = self._faults[kind], count
            if count and not before and self._metrics:
                self._metrics.say(
                    f"warning: {task}: {kind[:-1]} of world {first % worlds} at step "
                    f"{first - first % worlds + worlds:,} is no finite number; such "
                    f"transitions teach nothing, bad_{kind} counts them"
                )
            if before < count == before + steps and (last or count >= _MOST_SKIPPED):
                return f"{task}: the last {count - before:,} {kind} are no finite numbers"
        return None

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
