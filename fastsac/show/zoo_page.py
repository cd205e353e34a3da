"""The zoo as a page: README.md beside its policies, written with them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastsac.runs.published import published_files, read_published
from fastsac.runs.statistics import interquartile_mean

NAME = "README.md"
_HEAD = """# Trained policies

{count} policies, written by `fastsac zoo --add`. Returns are sums of rewards over an episode, at
most 1,000 in the suite: mean and standard deviation over ten episodes of dm_control, which
`fastsac eval zoo:TASK` finds again. Each is one run's, the better of its best evaluated and its
last policy over these very episodes, so a lucky one by a little; steps and seconds are those until
it.
"Published" is the highest interquartile mean over seeds after no more steps than that, of
[those that `fastsac compare` knows](../published), with its steps. Look at the updates too: ours
are far fewer than the steps.

"""
_COLUMNS = ("task", "return", "steps", "updates", "seconds", "on", "published", "commit", "command")
_Baselines = dict[str, dict[float, float]]  # interquartile mean of returns, by name and step


def zoo_page(index: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the page, Markdown, of an index as ``zoo.read_index`` gives it."""
    baselines = _baselines_by_task()
    rows = [_COLUMNS, ("---",) * len(_COLUMNS)]
    rows += [_row(task, about, baselines.get(task, {})) for task, about in index.items()]
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return _HEAD.format(count=len(index)) + table


def _row(task: str, about: Mapping[str, Any], baselines: _Baselines) -> tuple[str, ...]:
    machine = about["machine"]
    cores = f"{machine['cores']} core{'s' if machine['cores'] != 1 else ''}"
    return (
        task,
        f"{about['return']:.1f} +- {about['std']:.1f}",
        f"{about['steps']:,}",
        f"{about['updates']:,}",
        f"{about['seconds']:,.0f}",
        machine["gpu"] or f"{machine['cpu']}, {cores}",
        _best(baselines, about["steps"]),
        str(about["commit"]),
        f"`{about['command']}`",
    )


def _baselines_by_task() -> dict[str, _Baselines]:
    found: dict[str, _Baselines] = {}
    for file in published_files():
        for task, of_steps in read_published(file)[0].items():
            found.setdefault(task, {})[file.stem] = {
                step: float(interquartile_mean(np.array(seeds))) for step, seeds in of_steps.items()
            }
    return found


def _best(baselines: _Baselines, steps: int) -> str:
    """Returns the highest return after no more steps than these, whose it is and after how many."""
    found = [
        (value, name, step)
        for name, of_steps in baselines.items()
        for step, value in of_steps.items()
        if step <= steps
    ]
    if not found:
        return ""
    value, name, step = max(found, key=lambda one: one[0])
    return f"{value:.1f}, {name}, {step:,.0f}"
