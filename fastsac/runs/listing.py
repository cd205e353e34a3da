"""What runs left in their directories: read back, checked, and listed."""

import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np

from fastsac.errors import RunError, printable
from fastsac.runs.directory import CONFIG, MACHINE, RESULT, is_running, short_name
from fastsac.runs.statistics import Curve

METRICS = "metrics.csv"
_COLUMNS = ("step", "seconds", "eval_return", "eval_return_std")
_NO_RETURNS = ("nan", "inf", "-inf")
# What each must be, since everything else depends on it.
_CONFIG_TYPES = {"task": str, "preset": str, "seed": int, "total_steps": int}
_RESULT_TYPES = {"mean": (int, float, NoneType), "std": (int, float, NoneType)}

Json = dict[str, Any]


def read_config(run: Path) -> Json:
    """Returns a run's configuration; RunError where it is missing or damaged."""
    return _checked(run / CONFIG, _CONFIG_TYPES)


def read_result(run: Path) -> Json | None:
    """Returns what a run ended with, None where it did not; RunError where that is damaged.

    Of a return that is no finite number mean and std are NaN, for which JSON has null.
    """
    if not (run / RESULT).exists():
        return None
    result = _checked(run / RESULT, _RESULT_TYPES)
    return result | {k: math.nan for k in _RESULT_TYPES if result[k] is None}


def read_machine(run: Path) -> Json:
    """Returns what is known of the machine a run was on; RunError where that is damaged."""
    return _checked(run / MACHINE, {}) if (run / MACHINE).exists() else {}


def _checked(file: Path, types: dict[str, Any]) -> Json:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"cannot read {file}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise RunError(f"{file}, line {error.lineno}: {error.msg}, so it is not JSON") from error
    except (ValueError, RecursionError) as error:
        raise RunError(f"{file} is not JSON") from error
    if not isinstance(value, dict):
        raise RunError(f"{file}, line 1: not a JSON object")
    for name, kind in types.items():
        if name not in value:
            raise RunError(f"{file} has no {name!r}")
        one = value[name]
        if not isinstance(one, kind) or isinstance(one, float) and not math.isfinite(one):
            raise RunError(f"{file}: {name!r} cannot be {one!r}")
    return value


def read_metrics(run: Path) -> tuple[Curve, int]:
    """Reads a run's metrics.csv, but for a last line that was cut off.

    Returns:
        Columns step, seconds, eval_return and eval_return_std, float64, a value an evaluation (and
        only the later ones of steps that a resumed run did again, and none whose return is no
        finite number), and the steps done so far.

    Raises:
        RunError: it is missing or damaged, with the line.
    """
    file = run / METRICS
    try:
        # A line with bytes that are no text fails as one without numbers.
        text = file.read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        raise RunError(f"cannot read {file}: {error.strerror}") from error
    head, *lines = text.split("\n")[:-1] or [""]
    names = head.rstrip("\r").split(",")
    if names == [""]:
        raise RunError(f"{file}, line 1: there are no columns, the file is empty or cut off")
    if missing := [column for column in _COLUMNS if column not in names]:
        raise RunError(f"{file}, line 1: there is no column {missing[0]}")
    rows: list[list[float]] = []
    steps = 0.0
    for number, line in enumerate(lines, 2):
        cells = line.rstrip("\r").split(",")
        if cells == [""]:
            continue
        if len(cells) != len(names):
            raise RunError(f"{file}, line {number}: {len(cells)} columns instead of {len(names)}")
        row = dict(zip(names, cells, strict=True))
        asked = _COLUMNS if row["eval_return"] else _COLUMNS[:2]
        values = [
            math.nan
            if row[c] in _NO_RETURNS and c in _COLUMNS[2:]
            else _number(row[c], f"{file}, line {number}: {c}")
            for c in asked
        ]
        steps = max(steps, values[0])
        if row["eval_return"]:
            while rows and rows[-1][0] >= values[0]:
                rows.pop()
            if all(map(math.isfinite, values)):
                rows.append(values)
    columns = np.array(rows, np.float64).reshape(-1, len(_COLUMNS)).T
    return dict(zip(_COLUMNS, columns, strict=True)), int(steps)


def read_progress(run: Path) -> tuple[Curve, int]:
    """Returns what read_metrics does, and no steps of a run that has not come to its first row."""
    file = run / METRICS
    if not (run / RESULT).exists() and not (file.exists() and file.stat().st_size):
        return {column: np.empty(0) for column in _COLUMNS}, 0
    return read_metrics(run)


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise RunError(f"{where} is {text[:40]!r}, not a number")
    return value


def describe(run: Path) -> Json:
    """Returns a run's line of the listing, with numbers as numbers.

    Keys: run, task, preset, seed, steps, total_steps, eval_return (the latest), state (running,
    finished, stopped or damaged), age_seconds (since its start), and reason if it is damaged. None
    is what is not known.
    """
    row: Json = dict.fromkeys(("task", "preset", "seed", "steps", "total_steps", "eval_return"))
    row = {"run": str(run)} | row | {"state": "damaged", "age_seconds": None}
    try:
        started = run / MACHINE  # written once, first
        started = started if started.exists() else run
        row["age_seconds"] = max(0.0, round(time.time() - started.stat().st_mtime, 1))
        config = read_config(run)
        row |= {key: config[key] for key in _CONFIG_TYPES}
        running, result = is_running(run), read_result(run)
        curve, row["steps"] = read_progress(run)
        if result is not None:
            row["eval_return"] = result["mean"]
        elif len(curve["step"]):
            row["eval_return"] = curve["eval_return"][-1].item()
        row["state"] = "running" if running else "stopped" if result is None else "finished"
    except RunError as error:
        row["reason"] = str(error)
    except OSError as error:
        row["reason"] = f"cannot read {error.filename or run}: {error.strerror}"
    return row


def find_runs(directory: Path) -> list[Path]:
    """Returns the run directories at and below a directory, hidden ones aside, in any order.

    Raises:
        RunError: there is no such directory.
    """
    if not os.path.isdir(directory):
        raise RunError(f"there is no directory {directory}")

    def walk() -> Iterator[Path]:
        for folder, below, files in os.walk(directory):
            if CONFIG in files or METRICS in files:
                yield Path(folder)
                below.clear()
            below[:] = [name for name in below if not name.startswith(".")]

    return list(walk())


def print_runs(directory: Path, as_json: bool = False) -> None:
    """Prints the runs at and below a directory, the newest first.

    Raises:
        RunError: there is no such directory.
    """
    rows = [describe(run) for run in find_runs(directory)]
    rows.sort(key=lambda row: (row["age_seconds"] is None, row["age_seconds"], row["run"]))
    if as_json:
        for row in rows:
            if row["eval_return"] is not None and math.isnan(row["eval_return"]):
                row["eval_return"] = None
        print(json.dumps(rows, indent=2))
        return
    if not rows:
        print(f"there are no runs in {directory}")
        return
    heads = ("run", "task", "preset", "seed", "steps", "return", "state", "age")
    table = [heads, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(heads))]
    for line, row in zip(table, [{}, *rows], strict=True):
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print(f"{text}  {printable(row['reason'])}" if "reason" in row else text.rstrip())


def _cells(row: Json) -> tuple[str, ...]:
    steps = "-" if row["steps"] is None else f"{row['steps']:,}"
    total = "-" if row["total_steps"] is None else f"{row['total_steps']:,}"
    value, task = row["eval_return"], row["task"]
    cells = (
        row["run"],
        "-" if task is None else short_name(task),
        row["preset"] or "-",
        "-" if row["seed"] is None else str(row["seed"]),
        "-" if steps == total == "-" else f"{steps} of {total}",
        "-" if value is None else f"{value:.1f}",
        row["state"],
        "-" if row["age_seconds"] is None else duration(row["age_seconds"]),
    )
    return tuple(map(printable, cells))


def duration(seconds: float) -> str:
    """Returns seconds in words, with the largest unit and the one below: "7 min 49 s"."""
    left, parts = round(seconds), list[str]()
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
        elif parts:
            break
        if len(parts) == 2:
            break
    return " ".join(parts)
