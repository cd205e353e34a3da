"""One self-contained page about all tasks that have runs: a wall of films and curves."""

import datetime
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import fastsac
from fastsac.errors import RunError
from fastsac.runs import zoo
from fastsac.runs.directory import short_name
from fastsac.runs.listing import Json, describe, find_runs, read_machine, read_progress
from fastsac.show import report

# What the page can be sorted by, the first at first.
_ORDERS = {"name": "by name", "return": "by return", "steps": "by steps", "seconds": "by time"}


def write_suite(places: Sequence[str], output: Path, video: bool = True) -> None:
    """Writes a page that needs no other file and no network, a card a task.

    Args:
        places: run directories, directories with runs somewhere below, or "zoo:" for the policies
            that come with fastsac, of which a task's stands only where it has no run.
        output: the .html to write; it appears whole or not at all.
        video: show films, as ``report.write_report`` does.

    Raises:
        RunError: there are no runs, or none that is not damaged (of others the page gives the
            reasons), there is nowhere to write, or a library is missing.
    """
    template = report.page_template("suite.html")
    report.require_page(output)
    found = {
        run.resolve(): run
        for place in places
        if not zoo.is_name(place)
        for run in find_runs(Path(place))
    }
    if not found and not any(map(zoo.is_name, places)):
        raise RunError(f"there are no runs in {', '.join(places)}")
    of_zoo = {name: about for place in places for name, about in zoo.named(place).items()}
    of_task: dict[str, list[Json]] = {}
    damaged = []
    for run in found.values():
        row = describe(run)
        if row["state"] == "damaged":
            damaged.append(row["reason"])
        else:
            of_task.setdefault(short_name(row["task"]), []).append(row)
    if damaged and not of_task:
        raise RunError(damaged[0])
    tasks = []
    for name, rows in of_task.items():
        best = max(rows, key=lambda row: _sortable(row["eval_return"]))
        tasks.append(_card(name, best, len(rows) - 1, video))
    tasks += [_zoo_card(*one, video) for one in of_zoo.items() if one[0] not in of_task]
    tasks.sort(key=lambda task: task["name"])
    _rank(tasks)
    page = template.render(
        tasks=tasks,
        damaged=damaged,
        orders=_ORDERS,
        version=fastsac.__version__,
        date=datetime.date.today().isoformat(),
    )
    report.write_page(output, page)


def _sortable(value: float | None) -> float:
    return -math.inf if value is None or math.isnan(value) else value


def _card(name: str, row: Json, others: int, video: bool) -> Json:
    """Returns what the page says of a task."""
    run = Path(row["run"])
    result, machine = report.result_of(run), read_machine(run)
    curve, steps = read_progress(run)
    std = result.get("std")
    picture = report.pictures_of({"": curve}, ("step",))[0] if len(curve["step"]) else None
    return {
        "name": name,
        "return": row["eval_return"],
        "std": std if std is not None and math.isfinite(std) else None,
        "film": report.film_of(run) if video else {},
        "picture": picture,
        "steps": steps,
        "seconds": result["seconds"],
        "machine": machine.get("gpu") or machine.get("cpu"),
        "run": run.name,
        "others": others,
    }


def _zoo_card(name: str, about: Json, video: bool) -> Json:
    """Returns what the page says of a policy of the zoo."""
    curve = {column: np.array(values) for column, values in about["curve"].items()}
    return {
        "name": name,
        "return": about["return"],
        "std": about["std"],
        "film": report.film_of_policy(f"zoo:{name}") if video else {},
        "picture": report.pictures_of({"": curve}, ("step",))[0] if len(curve["step"]) else None,
        "steps": about["steps"],
        "seconds": about["seconds"],
        "machine": about["machine"]["gpu"] or about["machine"]["cpu"],
        "run": f"zoo:{name}",
        "others": 0,
    }


def _rank(tasks: Sequence[Json]) -> None:
    """Gives each task its place in each order: names and times from the first on."""
    keys: dict[str, Callable[[Json], Any]] = {
        "name": lambda task: task["name"],
        "return": lambda task: -_sortable(task["return"]),
        "steps": lambda task: task["steps"],
        "seconds": lambda task: math.inf if task["seconds"] is None else task["seconds"],
    }
    for name in _ORDERS:
        for place, task in enumerate(sorted(tasks, key=keys[name])):
            task.setdefault("ranks", {})[name] = place
