"""Published returns: small CSVs with their source, those of results/published by their names."""

import csv
import math
import os
from pathlib import Path

from fastsac.errors import ConfigError, RunError
from fastsac.runs.shipped import shipped

COLUMNS = ["task", "seed", "step", "return"]

Published = dict[str, dict[float, list[float]]]  # returns by task and step, one a seed


def find_published(name: str) -> Path:
    """Returns the file of a path, or of a name such as flashsac.

    Raises:
        ConfigError: there is neither.
    """
    file = shipped("published") / f"{name}.csv"
    if os.path.isfile(name):
        return Path(name)
    if "/" not in name and "\0" not in name and os.path.isfile(file):
        return file
    known = ", ".join(file.stem for file in published_files())
    raise ConfigError(f"there is no --baseline {name}: it takes a file, or one of {known}")


def published_files() -> list[Path]:
    """Returns the files that come with fastsac, by name."""
    return sorted(shipped("published").glob("*.csv"))


def read_published(file: Path) -> tuple[Published, list[str]]:
    """Reads a file of returns.

    Returns:
        The returns, and the lines about their source that the file begins with, each after a #.

    Raises:
        RunError: the file cannot be read or is damaged, with the line.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"cannot read {file}: {error}") from error
    about: list[str] = []
    while lines[len(about) : len(about) + 1] and lines[len(about)].startswith("#"):
        about.append(lines[len(about)].lstrip("# "))
    head, *rows = list(csv.reader(lines[len(about) :])) or [[]]
    if head != COLUMNS:
        raise RunError(f"{file}, line {len(about) + 1}: the columns must be {','.join(COLUMNS)}")
    found: Published = {}
    for number, row in enumerate(rows, len(about) + 2):
        try:
            task, _, step, value = row
            numbers = float(step), float(value)
        except ValueError:
            numbers = math.nan, math.nan
        if not all(map(math.isfinite, numbers)):
            raise RunError(f"{file}, line {number}: must be a task, a seed and two numbers")
        found.setdefault(task, {}).setdefault(numbers[0], []).append(numbers[1])
    if not found:
        raise RunError(f"{file} has no returns")
    return found, about
