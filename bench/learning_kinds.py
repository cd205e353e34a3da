"""What learning comes to over the whole suite: a panel a kind of task, its median and IQM."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastsac import tasks
from fastsac.envs.registry import find
from fastsac.runs.statistics import interquartile_mean
from fastsac.show.plot import INK, LEGEND, panels_of_returns

# Domains by what a step of them costs, and so by what a training of them is given.
KINDS = {
    "small models": (
        *("acrobot", "ball_in_cup", "cartpole", "finger", "lqr", "pendulum", "point_mass"),
        "reacher",
    ),
    "larger models": ("cheetah", "fish", "hopper", "manipulator", "stacker", "swimmer", "walker"),
    "whole bodies": ("dog", "humanoid", "humanoid_CMU", "quadruped"),
}


def best_by_kind(finals: Mapping[str, float]) -> dict[str, dict[str, float | None]]:
    """Returns of each kind its tasks of the suite, and their returns or None, best ones first.

    Args:
        finals: a task's name -> its return, NaN as good as none.
    """
    found = {k: v for k, v in finals.items() if v == v}
    return {
        kind: {
            task: found.get(task)
            for task in sorted(tasks(), key=lambda name: -found.get(name, -np.inf))
            if find(task).domain in domains
        }
        for kind, domains in KINDS.items()
    }


def median_and_iqm(returns: Mapping[str, float | None]) -> tuple[float, float]:
    """Returns the median and the interquartile mean over the tasks that have a return."""
    values = np.array([value for value in returns.values() if value is not None])
    return float(np.median(values)), float(interquartile_mean(values))


def table_of_kinds(kinds: Mapping[str, Mapping[str, float | None]]) -> str:
    """Returns the kinds' medians and interquartile means in Markdown."""
    text = "\n| kind | tasks with a run | median | IQM |\n|---|---|---|---|\n"
    for kind, returns in kinds.items():
        count = sum(value is not None for value in returns.values())
        if count:
            median, iqm = median_and_iqm(returns)
            text += f"| {kind} | {count} of {len(returns)} | {median:.1f} | {iqm:.1f} |\n"
    return text


def draw_kinds(kinds: Mapping[str, Mapping[str, float | None]]) -> Any:
    """Returns a figure of each kind's tasks, those without a run at the bottom with a cross."""
    shown = {kind: of for kind, of in kinds.items() if {*of.values()} != {None}}
    figure, panels = panels_of_returns(dict.fromkeys(shown, "return in dm_control"), sharey=False)
    rows = max(map(len, shown.values()))
    figure.set_size_inches(5 * len(shown), 1.2 + 0.26 * rows)
    for kind, panel in panels.items():
        returns = shown[kind]
        names = [*returns][::-1]
        values = [returns[name] for name in names]
        least = min(0.0, *(value for value in values if value is not None))
        panel.set(title=kind, xlim=(least, 1000), ylim=(-0.7, rows - 0.3))
        panel.set_yticks(range(len(names)), names, color=INK)
        at = [(v, i) for i, v in enumerate(values) if v is not None]
        panel.barh([i for _, i in at], [v for v, _ in at], height=0.6, alpha=0.6)
        lacking = [i for i, v in enumerate(values) if v is None]
        if lacking:
            panel.plot([8] * len(lacking), lacking, "x", color=INK, markersize=4, label="no run")
        median, iqm = median_and_iqm(returns)
        panel.axvline(median, color=INK, linestyle="-", label=f"median {median:.0f}")
        panel.axvline(iqm, color=INK, linestyle="--", label=f"IQM {iqm:.0f}")
        panel.legend(loc="lower right", **LEGEND)
    return figure
