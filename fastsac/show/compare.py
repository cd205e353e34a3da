"""Returns of runs beside published ones, by the measures of Agarwal et al. 2021 (arXiv 2108.13264).

What these are of: `fastsac bench compare` is about speed.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastsac.errors import RunError
from fastsac.parser import Parser
from fastsac.runs.directory import short_name
from fastsac.runs.listing import read_config, read_metrics
from fastsac.runs.published import Published, find_published, read_published
from fastsac.runs.statistics import (
    Curve,
    interquartile_mean_of_tasks,
    probability_of_improvement,
    stratified_interval,
)

_LARGEST = 1000.0  # return of the suite's tasks, as which a score is 1

Json = dict[str, Any]


def main(args: list[str]) -> None:
    """Runs ``fastsac compare``."""
    parser = Parser(
        prog="fastsac compare", description="Returns beside published ones (speed: bench compare)."
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directory")
    help = "CSV of task, seed, step, return; or flashsac, mrq, pytorch_sac, simbav2, td-mpc2, xqc"
    parser.add_argument("--baseline", required=True, metavar="FILE", help=help)
    parser.add_argument("--final", action="store_true", help="last returns, whatever the steps")
    parser.add_argument("--json", action="store_true", help="one JSON object for programs")
    parsed = parser.parse_args(args)
    print_comparison(compare(parsed.runs, parsed.baseline, parsed.final), parsed.json)


def compare(runs: Sequence[Path], baseline: str, final: bool = False) -> Json:
    """Compares runs with published returns, task by task and over all tasks that both have.

    A task is compared after the most steps that the baseline has returns of and all its runs were
    evaluated before and after; a run's return there is linear between its evaluations.

    Args:
        runs: run directories.
        baseline: a CSV with task, seed, step and return, or the name of one that comes along.
        final: compare the last return of each instead, whatever the steps.

    Returns:
        "baseline" and "about" of the file, the "tasks" and "all" of them, with IQMs of return over
        1000 and probabilities that a run of ours is better, each with its 95% interval or None;
        "left_out" has a sentence a task.

    Raises:
        UserError: a run or the baseline is missing or damaged, or they have nothing in common.
    """
    file = find_published(baseline)
    published, about = read_published(file)
    curves: dict[str, list[Curve]] = {}
    for run in runs:
        curve, _ = read_metrics(run)
        if not len(curve["step"]):
            raise RunError(f"{run} has no evaluation yet")
        curves.setdefault(short_name(read_config(run)["task"]), []).append(curve)
    tasks, left_out = [], []
    for task, of_task in sorted(curves.items()):
        found = _compared(task, of_task, published, final)
        left_out.append(found) if isinstance(found, str) else tasks.append(found)
    if not tasks:
        raise RunError(f"nothing to compare with {file}: {'; '.join(left_out)}")
    scores = [[np.array(task[who]) / _LARGEST for task in tasks] for who in ("ours", "theirs")]
    return {
        "baseline": file.stem,
        "about": about,
        "final": final,
        "tasks": tasks,
        "all": _measured(*scores),
        "left_out": left_out,
    }


def _compared(task: str, curves: Sequence[Curve], published: Published, final: bool) -> Json | str:
    """Returns a task's returns and how they compare, or why they do not."""
    if task not in published:
        return f"{task} is not in the baseline"
    steps = published[task]
    if final:
        last = max(steps)
        ours = [float(curve["eval_return"][-1]) for curve in curves]
        ended = max(float(curve["step"][-1]) for curve in curves)
        return _task(task, (ended, last), ours, steps[last])
    first = max(curve["step"][0] for curve in curves)
    ended = min(curve["step"][-1] for curve in curves)
    if first > ended:
        return f"the runs of {task} have no steps in common (--final takes the last of each)"
    inside = [step for step in steps if first <= step <= ended]
    if not inside:
        return (
            f"{task} has evaluations from {first:,.0f} to {ended:,.0f} steps, the baseline from "
            f"{min(steps):,.0f} to {max(steps):,.0f} (--final takes the last of each)"
        )
    step = max(inside)
    ours = [float(np.interp(step, curve["step"], curve["eval_return"])) for curve in curves]
    return _task(task, (step, step), ours, steps[step])


def _task(
    task: str, steps: tuple[float, float], ours: Sequence[float], theirs: Sequence[float]
) -> Json:
    scores = [[np.array(values) / _LARGEST] for values in (ours, theirs)]
    about = {"task": task, "steps": int(steps[0]), "their_steps": int(steps[1])}
    return about | {"ours": list(ours), "theirs": list(theirs)} | _measured(*scores)


def _measured(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> Json:
    found: Json = {}
    for who, scores in (("ours", ours), ("theirs", theirs)):
        interval = stratified_interval(interquartile_mean_of_tasks, scores)
        found[f"iqm_{who}"] = float(interquartile_mean_of_tasks(scores))
        found[f"iqm_{who}_interval"] = interval
    found["better"] = float(probability_of_improvement(ours, theirs))
    found["better_interval"] = stratified_interval(probability_of_improvement, ours, theirs)
    return found


def print_comparison(found: Mapping[str, Any], as_json: bool = False) -> None:
    """Prints what ``compare`` found."""
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for line in found["about"]:
        print(line)
    how = "the last return of each, whatever the steps" if found["final"] else "at equal steps"
    print(f"IQM of return / 1000 and, in brackets, its 95% interval over runs; {how}\n")
    heads = ("task", "steps", "ours", "", "theirs", "", "a run of ours is better")
    every = [*found["tasks"], {"task": f"all {len(found['tasks'])}"} | found["all"]]
    table = [heads, *map(_cells, every)]
    widths = [max(len(line[i]) for line in table) for i in range(len(heads))]
    for line in table:
        pairs = zip(line, widths, strict=True)
        print("  ".join(cell.ljust(width) for cell, width in pairs).rstrip())
    for sentence in found["left_out"]:
        print(f"left out: {sentence}")


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    steps = ""
    if "steps" in row:
        pair = dict.fromkeys((row["steps"], row["their_steps"]))
        steps = " and ".join(f"{step:,}" for step in pair)
    runs = [f"{len(row[who])} run(s)" if who in row else "" for who in ("ours", "theirs")]
    iqms = [_with(row, f"iqm_{who}", ".3f") for who in ("ours", "theirs")]
    return (row["task"], steps, iqms[0], runs[0], iqms[1], runs[1], _with(row, "better", ".0%"))


def _with(row: Mapping[str, Any], name: str, form: str) -> str:
    """Returns a figure with its interval, if there is one."""
    interval = row[f"{name}_interval"]
    text = format(row[name], form)
    if interval is None:
        return text
    return f"{text} ({' .. '.join(format(end, form) for end in interval)})"
