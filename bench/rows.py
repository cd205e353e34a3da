"""Rows of ``fastsac bench``: reading them, telling cases apart, and ratios of two rows."""

import json
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from fastsac.errors import ConfigError

Row = dict[str, Any]

# What tells a level's cases apart. The rows of "learning" are trainings, and have no rate.
LABELS = {
    "envs": ("task", "engine", "num_envs", "variant"),
    "learner": (
        *("device", "batch_size", "hidden_sizes", "variant"),
        *("precision", "updates_per_call"),
    ),
    "kernels": ("kernel", "device", "size", "variant"),
    "train": ("task", "preset", "num_envs", "updates_per_step", "variant"),
    "learning": ("task", "setting", "seed"),
}
MACHINE = ("cpu", "cores", "gpu", "python", "versions")
_OPTIONAL = ("precision", "updates_per_call")  # cases that measure a limit lack them


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e30


def _is_number(value: Any) -> bool:
    return _is_finite(value) and value >= 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_number, value))


def _are_versions(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(v, str | None) for v in value.values())


_KINDS: dict[Callable[[Any], bool], tuple[str, ...]] = {
    _is_text: (
        *("level", "task", "engine", "variant", "device", "hidden_sizes", "kernel", "size"),
        *("preset", "setting", "precision", "unit", "group", "unavailable", "commit", "date"),
        "run",
    ),
    _is_number: (
        *("num_envs", "batch_size", "updates_per_call", "updates_per_step", "seed", "median"),
        *("steps", "seconds", "cpu_seconds", "updates", "roofline", "setup_s", "compile_s"),
        *("memory_mb", "device_memory_mb", "cores", "jobs", "threads"),
    ),
    _is_finite: ("final_return",),
    _are_numbers: ("samples",),
    lambda value: _are_numbers(value) and len(value) == 2: ("quartiles",),
    _are_versions: ("versions", "peers"),
    lambda value: isinstance(value, str | None): ("cpu", "gpu", "python"),
    lambda value: isinstance(value, list) and all(map(_is_text, value)): ("flags",),
}


def read(paths: Iterable[Path]) -> list[Row]:
    """Returns the rows of files, in their order.

    Each also has its "file". Rows from before the harness named runs are left out, which a note on
    stderr says.

    Raises:
        ConfigError: a file is missing or damaged, or holds something else.
    """
    rows: list[Row] = []
    for path in paths:
        found = list(_objects(path))
        kept = [row for row in found if not _is_old(row)]
        rows += [{**row, "file": str(path)} for row in kept]
        if old := len(found) - len(kept):
            print(f"{path}: rows of an older bench, without a run, skipped: {old}", file=sys.stderr)
    return rows


def _is_old(row: Row) -> bool:
    return row["level"] != "learning" and not {"group", "run"} <= row.keys()


def _objects(path: Path) -> Iterator[Row]:
    """Yields a file's lines as rows, each with its level."""
    for number, row in parsed_lines(path):
        if isinstance(row, dict) and "level" not in row and "setting" in row:
            row = {"level": "learning", **row}
        if fault := _fault(row):
            raise ConfigError(f"{path}, line {number}, is no row of fastsac bench: {fault}")
        yield row


def parsed_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yields the values of a file of JSON lines with their lines' numbers; empty lines are none.

    Raises:
        ConfigError: the file is missing or damaged.
    """
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is no text file") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path}, line {number}, is damaged: {error}") from error


def _fault(row: Any) -> str | None:
    """Returns why something is no row, None where it is one."""
    if not isinstance(row, dict) or "level" not in row:
        return "it has no level"
    if _is_old(row):
        return None
    if str(row["level"]) not in LABELS:
        return f"unknown level {row['level']!r:.60}"
    needed = [name for name in LABELS[row["level"]] if name not in _OPTIONAL]
    if row["level"] == "learning":
        needed += ["steps", "seconds", "final_return"]
    else:
        needed += ["unit", *([] if "unavailable" in row else ["median", "quartiles"])]
    for name in needed:
        if name not in row:
            return f"it has no {name}"
    for is_right, names in _KINDS.items():
        for name in names:
            if name in row and not is_right(row[name]):
                return f"its {name} is {row[name]!r:.60}"
    return None


def key(row: Row) -> tuple[Any, ...]:
    """Returns what identifies a row's case."""
    return row["level"], *(row.get(name) for name in LABELS[row["level"]]), row.get("unit")


def machine(row: Row) -> str:
    """Returns what identifies the machine that a row was measured on, peers' packages apart."""
    found = {name: row.get(name) for name in MACHINE}
    # Which trainings up to 2026-11-25 have there.
    found["versions"] = {k: v for k, v in row.get("versions", {}).items() if k != "sbx-rl"}
    return json.dumps(found, sort_keys=True)


def newest(rows: Iterable[Row], identity: Callable[[Row], Any] = key) -> list[Row]:
    """Returns of the rows with one identity that of the last run, whose name begins with its time.

    A training has a date alone.
    """
    by_time = sorted(rows, key=lambda row: row.get("run") or row.get("date", ""))
    return list({identity(row): row for row in by_time}.values())


def ratio(row: Row, other: Row) -> float | None:
    """Returns how many times as fast as another row of its group one is, the rounds' median.

    None where they were not timed side by side, or either has no rate.
    """
    ours, theirs = row.get("samples", []), other.get("samples", [])
    together = all(row.get(name) == other.get(name) for name in ("run", "level", "group"))
    if not together or len(ours) != len(theirs) or not ours or not all(theirs):
        return None
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def rate_text(rate: float) -> str:
    """Returns a rate in two digits or more."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}" if rate >= 1 else f"{rate:.2g}"
