"""Timing that can be compared: interleaved repetitions, medians, and rows that say where."""

import dataclasses
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fastsac.cli import Parser
from fastsac.errors import ConfigError
from fastsac.machine import machine

RESULTS = Path(__file__).parent / "results"
_LIMITS = ("bytes", "flops")  # the units of cases that measure what the machine can do


@dataclasses.dataclass(frozen=True)
class Case:
    """One thing to time.

    Attributes:
        labels: what the case is, the columns of its row.
        unit: what ``work`` counts; with the unit "bytes" or "flops" a case measures the most that
            the machine moves or computes, the limit of its group's other cases.
        open: a context that sets the case up and yields ``work``: a call of it does one
            repetition, waits for the device, and returns how many units it did.
        group: cases of one group are timed side by side, groups one after another.
        baseline: the group's other cases are also given as multiples of this one.
        bytes: that a unit must move at least; None is not counted.
        flops: that a unit computes, held against the limit with the same "precision" label.
    """

    labels: dict[str, Any]
    unit: str
    open: Callable[[], Any]
    group: str = ""
    baseline: bool = False
    bytes: int | None = None
    flops: int | None = None


def run(cases: list[Case], repetitions: int) -> Iterator[dict[str, Any]]:
    """Times the cases of each group side by side (A B A B ...), after one untimed round.

    Yields:
        A row a case: its labels, the median rate with quartiles, where its group has a baseline
        the median of the rounds' ratios to it, where it counts bytes or flops the fraction of the
        roofline, and the machine.
    """
    where = machine()
    for _, group in itertools.groupby(cases, key=lambda case: case.group):
        yield from ({**row, **where} for row in _run_group(list(group), repetitions))


def _run_group(cases: list[Case], repetitions: int) -> Iterator[dict[str, Any]]:
    rates = _rates(cases, repetitions)
    baseline = [sample for case, sample in zip(cases, rates, strict=True) if case.baseline]
    for case, sample in zip(cases, rates, strict=True):
        low, median, high = np.quantile(sample, [0.25, 0.5, 0.75])
        comparable = bool(baseline) and case.unit not in _LIMITS
        ratio = round(float(np.median(sample / baseline[0])), 3) if comparable else None
        extra = {
            "ratio": ratio,
            "bytes": case.bytes,
            "flops": case.flops,
            "roofline": _roofline(case, sample, cases, rates),
        }
        yield {
            **case.labels,
            "unit": f"{case.unit}/s",
            "median": round(float(median), 1),
            "quartiles": [round(float(low), 1), round(float(high), 1)],
            "repetitions": repetitions,
            **{name: value for name, value in extra.items() if value is not None},
        }


def _rates(cases: list[Case], repetitions: int) -> np.ndarray:
    """Times the cases in turn; units per second (case, repetition)."""
    rates = np.empty((len(cases), repetitions))
    with ExitStack() as stack:
        works = [stack.enter_context(case.open()) for case in cases]
        for work in works:
            work()
        for repetition in range(repetitions):
            for i, work in enumerate(works):
                start = time.perf_counter()
                count = work()
                rates[i, repetition] = count / (time.perf_counter() - start)
    return rates


def _roofline(case: Case, sample: np.ndarray, cases: list[Case], rates: np.ndarray) -> float | None:
    """The least time a unit needs by its group's limits, as a fraction of the time it takes.

    The median over the rounds; None where nothing is counted or a limit was not timed.
    """
    counted = {"bytes": case.bytes, "flops": case.flops}
    least = []
    for unit, count in counted.items():
        if count is None:
            continue
        limits = [
            rate
            for other, rate in zip(cases, rates, strict=True)
            if other.unit == unit and other.labels.get("precision") == case.labels.get("precision")
        ]
        if not limits:
            return None
        least.append(count / limits[0])
    return round(float(np.median(np.max(least, axis=0) * sample)), 3) if least else None


def main(args: list[str]) -> None:
    """Runs ``fastsac bench``."""
    from fastsac.bench import envpool, envs, kernels, learner, learning, sbx

    if args[:1] == ["learning"]:  # trains, so it has flags of its own
        learning.main(args[1:])
        return
    levels = {
        "envs": envs.cases,
        "learner": learner.cases,
        "envpool": envpool.cases,
        "kernels": kernels.cases,
        "sbx": sbx.cases,
    }
    usual = ("envs", "learner", "kernels")  # the others need somebody else's package
    parser = Parser(prog="fastsac bench", description="Measures this machine.")
    parser.add_argument(
        "levels",
        nargs="*",
        metavar="LEVEL",
        help=f"of {', '.join(levels)} (by default {', '.join(usual)}); or learning, "
        "alone: fastsac bench learning --help",
    )
    parser.add_argument("--only", metavar="LABEL", help="cases with this among their labels")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append a JSON row a case")
    parsed = parser.parse_args(args)
    if parsed.json and not os.path.isdir(parsed.json.parent):  # before it is measured for minutes
        raise ConfigError(f"cannot write --json {parsed.json}: its directory is not there")
    if unknown := set(parsed.levels) - set(levels):
        known = f"{', '.join(levels)}, and learning alone"
        raise ConfigError(f"unknown level {sorted(unknown)[0]!r}; there are {known}")
    for level in parsed.levels or usual:
        cases = [c for c in levels[level]() if parsed.only in (None, *map(str, c.labels.values()))]
        if not cases:
            raise ConfigError(f"no case of {level} has the label {parsed.only!r}")
        for row in run(cases, repetitions=3 if parsed.quick else 15):
            print(_line(level, row), flush=True)
            if parsed.json:
                with parsed.json.open("a") as file:
                    file.write(json.dumps({"level": level, **row}) + "\n")


@contextmanager
def closing(work: Callable[[], int], close: Callable[[], None]) -> Iterator[Callable[[], int]]:
    """Yields work and calls close at the end."""
    try:
        yield work
    finally:
        close()


def _line(level: str, row: dict[str, Any]) -> str:
    labels = [str(v) for v in list(row.values())[: list(row).index("unit")]]
    low, high = row["quartiles"]
    ratio = f" {row['ratio']:.2f}x" if "ratio" in row else ""
    roofline = f" {row['roofline']:.1%} of the roofline" if "roofline" in row else ""
    return (
        f"{level:8} {' '.join(f'{label:>18}' for label in labels)} "
        f"{row['median']:>12,.0f} {row['unit']} (quartiles {low:,.0f} - {high:,.0f})"
        f"{ratio}{roofline}"
    )
