"""The ``fastsac bench`` command: runs levels and prints and keeps their rows."""

import json
import math
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from fastsac.bench import adapters, compare, envs, kernels, learner, learning, page, train
from fastsac.bench.harness import NOT_BEGUN, Case, run
from fastsac.bench.offline import command as offline
from fastsac.errors import ConfigError, RunError
from fastsac.parser import Parser

_LEVELS = {
    "learner": learner.cases,
    "kernels": kernels.cases,
    "train": train.cases,
    "envs": envs.cases,
    "adapters": adapters.cases,
}
# The other commands, with flags of their own: fastsac bench NAME --help.
_COMMANDS = {
    "learning": learning.main,
    "compare": compare.main,
    "page": page.main,
    "offline": offline.main,
}
_REPETITIONS, _QUICK_REPETITIONS = 9, 5
_QUICK_SECONDS = 210.0  # with the case under way and the training, five minutes on two cores
# Level 4 of --quick: a training of half a minute, which shows that it runs, not what it can reach.
_SHORT_TRAINING = "cartpole_balance"
_SHORT_FLAGS = ("--preset", "cpu", "--total-steps", "20000", "--eval-every", "5000")


def main(args: list[str]) -> None:
    """Runs ``fastsac bench``."""
    if args and args[0] in _COMMANDS:
        _COMMANDS[args[0]](args[1:])
        return
    parsed = _parsed(args)
    levels = parsed.levels or list(_LEVELS)
    cases = {level: _cases(level, parsed.quick, parsed.only) for level in levels}
    if not any(cases.values()):
        raise ConfigError(f"no case of {', '.join(levels)} has the label {parsed.only!r}")
    for level, row in _rows(cases, parsed.quick, parsed.max_seconds):
        print(_line(level, row), flush=True)
        _keep(parsed.json, level, row)
    if parsed.quick and not (parsed.levels or parsed.only or torch.cuda.is_available()):
        _train_shortly(parsed.json)


def _rows(
    cases: dict[str, list[Case]], quick: bool, max_seconds: float
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields levels and rows; each level has its share of the seconds that are left."""
    end = time.monotonic() + max_seconds
    for i, level in enumerate(cases):
        now = time.monotonic()
        deadline = now + (end - now) / (len(cases) - i)
        repetitions = _QUICK_REPETITIONS if quick else _REPETITIONS
        for row in run(cases[level], repetitions, deadline):
            yield level, row


def _keep(path: Path | None, level: str, row: dict[str, Any]) -> None:
    """Appends what was found out."""
    if path and row.get("unavailable") != NOT_BEGUN:
        try:
            with path.open("a") as file:
                file.write(json.dumps({"level": level, **row}) + "\n")
        except OSError as error:
            raise ConfigError(f"cannot write --json {path}: {error.strerror}") from error


def _train_shortly(path: Path | None) -> None:
    with tempfile.TemporaryDirectory() as directory:
        training = learning.Run(Path(directory), _SHORT_TRAINING, "cpu", _SHORT_FLAGS, seed=0)
        if learning.train_all([training], jobs=1, threads=0):
            raise RunError("the short training failed")
        for row in learning.recorded(Path(directory)):
            _keep(path, "learning", row)


def _parsed(args: list[str]) -> Any:
    parser = Parser(
        prog="fastsac bench",
        description="Measures this machine, beside the peers that are installed.",
    )
    parser.add_argument(
        "levels",
        nargs="*",
        metavar="LEVEL",
        help=f"of {', '.join(_LEVELS)} (all); or one of the commands {', '.join(_COMMANDS)} with "
        "flags of their own",
    )
    parser.add_argument("--only", metavar="LABEL", help="cases with this among their labels")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="fewer cases and repetitions, and on a CPU a short training: 5 minutes on 2 cores",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="append a JSON row a case")
    parser.add_argument(
        "--max-seconds",
        type=float,
        help=f"set up no case after them (no limit; with --quick {_QUICK_SECONDS:g}); each level "
        "has its share, so name one to see all of it",
    )
    parsed = parser.parse_args(args)
    if parsed.json:
        # Before it is measured for minutes.
        target = parsed.json if os.path.exists(parsed.json) else parsed.json.parent
        if os.path.isdir(parsed.json) or not os.access(target, os.W_OK):
            raise ConfigError(f"cannot write --json {parsed.json}")
    if unknown := set(parsed.levels) - set(_LEVELS):
        known = f"{', '.join(_LEVELS)}, and alone {', '.join(_COMMANDS)}"
        raise ConfigError(f"unknown level {sorted(unknown)[0]!r}; there are {known}")
    if parsed.max_seconds is None:
        parsed.max_seconds = _QUICK_SECONDS if parsed.quick else math.inf
    if not parsed.max_seconds > 0:
        raise ConfigError(f"--max-seconds must be above 0, got {parsed.max_seconds}")
    return parsed


def _cases(level: str, quick: bool, only: str | None) -> list[Case]:
    return [c for c in _LEVELS[level](quick) if only in (None, *map(str, c.labels.values()))]


def _line(level: str, row: dict[str, Any]) -> str:
    labels = [str(v) for v in list(row.values())[: list(row).index("unit")]]
    start = f"{level:8} {' '.join(f'{label:>18}' for label in labels)} "
    if "unavailable" in row:
        return f"{start}unavailable: {row['unavailable']}"
    low, high = row["quartiles"]
    ratio = f" {row['ratio']:.2f}x" if "ratio" in row else ""
    roofline = f" {row['roofline']:.1%} of the roofline" if "roofline" in row else ""
    return (
        f"{start}{row['median']:>12,.0f} {row['unit']} (quartiles {low:,.0f} - {high:,.0f})"
        f"{ratio}{roofline}"
    )
