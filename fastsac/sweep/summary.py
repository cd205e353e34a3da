"""What a sweep ends with: returns a setting, curves, the best policies."""

import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastsac.errors import RunError
from fastsac.runs.checkpoint_file import BEST
from fastsac.runs.directory import RESULT, short_name
from fastsac.runs.listing import read_progress
from fastsac.runs.statistics import Curve, bootstrap_interval, interquartile_mean
from fastsac.show.plot import draw_groups
from fastsac.sweep.spec import Flags

# Lines of a picture that are told apart.
_MOST_LINES = 12
_TABLE = """
Interquartile mean, over seeds, of the last evaluations, with its 95% bootstrap interval; of a
setting of which no run finished, in brackets, that of where its runs were stopped.

| task | setting | runs | finished | return | steps |
|---|---|---|---|---|---|
"""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Attributes:
        run: its directory.
        task: its name.
        seed: the run's.
        setting: the values of what the sweep tries.
        failure: why it failed, or None.
        ended: whether Tune has no more to do with it.
    """

    run: Path
    task: str
    seed: int
    setting: Flags
    failure: str | None
    ended: bool

    @property
    def state(self) -> str:
        """What it is: failed, finished, stopped (by ASHA) or unfinished."""
        if self.failure is not None:
            return "failed"
        if (self.run / RESULT).exists():
            return "finished"
        return "stopped" if self.ended else "unfinished"

    @functools.cached_property
    def curve(self) -> Curve:
        """Its evaluations, none where its files are damaged."""
        try:
            return read_progress(self.run)[0]
        except RunError as error:
            print(f"warning: {error}", file=sys.stderr)
            return {"step": np.empty(0), "eval_return": np.empty(0)}

    @property
    def label(self) -> str:
        """Its setting in words."""
        return (
            ", ".join(
                f"{name.replace('_', '-')} {value:.4g}"
                if isinstance(value, float)
                else f"{name.replace('_', '-')} {value}"
                for name, value in self.setting.items()
            )
            or "as given"
        )


class _Setting:
    """Runs of one task and setting; those that finished count, or else those that were stopped."""

    def __init__(self, runs: Sequence[Outcome]):
        self.runs = runs
        self.finished = [one for one in runs if one.state == "finished" and len(one.curve["step"])]
        self.counted = self.finished or [one for one in runs if len(one.curve["step"])]
        self.finals = np.array([one.curve["eval_return"][-1] for one in self.counted])

    @property
    def mean(self) -> float:
        return float(interquartile_mean(self.finals)) if len(self.finals) else -np.inf

    @property
    def rank(self) -> tuple[bool, float]:
        """Higher is better; a run that was stopped comes behind all that finished."""
        return bool(self.finished), self.mean

    def row(self) -> str:
        one = self.runs[0]
        text = steps = "-"
        if self.counted:
            interval = bootstrap_interval(self.finals)
            text = f"{self.mean:.1f}" + (" [{:.1f}, {:.1f}]".format(*interval) if interval else "")
            text = text if self.finished else f"({text})"
            steps = f"{max(run.curve['step'][-1] for run in self.counted):,.0f}"
        cells = one.task, one.label, len(self.runs), len(self.finished), text, steps
        return f"| {' | '.join(map(str, cells))} |\n"


def report(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Prints a sweep's table and writes it to README.md, with a picture of curves a task.

    Args:
        path: the sweep's directory.
        outcomes: of its runs.

    Raises:
        RunError: the directory cannot be written.
    """
    ranked = _ranked(outcomes)
    text = _TABLE + "".join(one.row() for settings in ranked.values() for one in settings)
    for task in ranked:
        there = [one for one in outcomes if one.task == task and (one.run / BEST).exists()]
        if best := max(there, key=_best_return, default=None):
            text += f"\nbest policy of {task}: {best.run / BEST} ({_best_return(best):.1f})\n"
    print(text, flush=True)
    for one in outcomes:
        if one.failure is not None:
            print(f"{one.run.name} failed: {one.failure} ({one.run}.log)", file=sys.stderr)
    try:
        pictures = _draw(path, ranked)
    except RunError as error:  # no matplotlib
        pictures = []
        print(f"no curves: {error}", file=sys.stderr)
    lines = "".join(f"\n![{name}]({name})\n" for name in pictures)
    try:
        (path / "README.md").write_text(f"# Sweep\n{text}{lines}")
    except OSError as error:
        raise RunError(f"cannot write to {path}: {error.strerror}") from error


def _ranked(outcomes: Sequence[Outcome]) -> dict[str, list[_Setting]]:
    """The settings of each task, the best first."""
    groups: dict[str, dict[str, list[Outcome]]] = {}
    for one in outcomes:
        groups.setdefault(one.task, {}).setdefault(one.label, []).append(one)
    return {
        task: sorted(map(_Setting, group.values()), key=lambda one: one.rank, reverse=True)
        for task, group in groups.items()
    }


def _best_return(one: Outcome) -> float:
    """The highest evaluation, whose policy best.pt is."""
    return float(max(one.curve["eval_return"], default=-np.inf))


def _draw(path: Path, ranked: dict[str, list[_Setting]]) -> list[str]:
    names = []
    for task, settings in ranked.items():
        groups = {
            one.runs[0].label: [run.curve for run in one.counted]
            for one in settings[:_MOST_LINES]
            if one.counted and _overlap([run.curve["step"] for run in one.counted])
        }
        if groups:
            names.append(f"{short_name(task)}.png")
            figure = draw_groups(groups)
            figure.savefig(path / names[-1], dpi=120, bbox_inches="tight")
    return names


def _overlap(steps: Sequence[np.ndarray]) -> bool:
    return max(one[0] for one in steps) <= min(one[-1] for one in steps)
