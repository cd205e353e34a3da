"""The zoo as a page: README.md beside its policies, written with them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastsac.runs.published import find_published, names, read_published
from fastsac.runs.statistics import interquartile_mean

NAME = "README.md"
_HEAD = """# Trained policies

{count} policies, written by `fastsac zoo --add`. Returns are sums of rewards over an episode, at
most 1,000 in the suite: mean and standard deviation over ten episodes of dm_control, which
`fastsac eval zoo:TASK` finds again. "Published" is the highest interquartile mean over seeds that a
project publishes after no more steps than ours, with those steps ([figures and
sources](../published)); they do an update a step, ours one in several.

"""
_Published = dict[str, dict[str, dict[float, float]]]  # return by task, project and step
_COLUMNS = ("task", "return", "steps", "updates", "seconds", "on", "published", "commit", "command")


def zoo_page(index: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the page, Markdown, of an index as ``zoo.read_index`` gives it."""
    published = _published()
    rows = [_COLUMNS, ("---",) * len(_COLUMNS)]
    rows += [_row(task, about, published) for task, about in index.items()]
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return _HEAD.format(count=len(index)) + table


def _row(task: str, about: Mapping[str, Any], published: _Published) -> tuple[str, ...]:
    machine = about["machine"]
    return (
        task,
        f"{about['return']:.1f} +- {about['std']:.1f}",
        f"{about['steps']:,}",
        f"{about['updates']:,}",
        f"{about['seconds']:,.0f}",
        machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores",
        _best(published.get(task, {}), about["steps"]),
        str(about["commit"]),
        f"`{about['command']}`",
    )


def _published() -> _Published:
    found: _Published = {}
    for name in names():
        returns, about = read_published(find_published(name))
        project = about[0].split(",")[0].split(" (")[0]
        for task, of_steps in returns.items():
            found.setdefault(task, {})[project] = {
                step: float(interquartile_mean(np.array(seeds))) for step, seeds in of_steps.items()
            }
    return found


def _best(published: Mapping[str, Mapping[float, float]], steps: int) -> str:
    """Returns the highest return of those after a project's most steps that are not above ours."""
    found = [
        (of_steps[last], last, project)
        for project, of_steps in published.items()
        if (last := max((step for step in of_steps if step <= steps), default=None)) is not None
    ]
    if not found:
        return ""
    value, last, project = max(found)
    return f"{value:.0f}, {project}, {last:,.0f}"
