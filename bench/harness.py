"""Timing that can be compared: interleaved repetitions, medians, and rows that say where."""

import dataclasses
import datetime
import functools
import importlib.metadata
import itertools
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fastsac.bench.footprint import Footprint, footprint
from fastsac.errors import UserError, says_out_of_memory
from fastsac.machine import machine

RESULTS = Path(__file__).parent / "results"
_LIMITS = ("bytes", "flops")  # the units of cases that measure what the machine can do
# What peers are made of; rows have the versions of those that are installed.
_PEERS = (
    *("envpool", "shimmy", "gymnasium", "stable-baselines3", "sbx-rl", "torchrl", "tensordict"),
    *("brax", "playground", "warp-lang", "mujoco-warp"),
)


NOT_BEGUN = "not begun: its share of --max-seconds was over"


class Unavailable(UserError):
    """A case cannot be timed on this machine; its row gives the reason."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One thing to time.

    Attributes:
        labels: what the case is, the columns of its row.
        unit: what ``work`` counts; with the unit "bytes" or "flops" a case is a copy or a matmul,
            what its group's other cases are held against.
        open: a context that sets the case up and yields ``work``: a call of it does one
            repetition, waits for the device, and returns how many units it did. Both may raise
            Unavailable.
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


@dataclasses.dataclass
class _Timed:
    """A case with what was found out about it.

    Attributes:
        work: what its open yielded.
        rates: units a second, one a repetition.
        footprint: what its setting up cost.
        unavailable: why it is not timed.
    """

    case: Case
    work: Callable[[], int] = lambda: 0
    rates: list[float] = dataclasses.field(default_factory=list)
    footprint: Footprint = dataclasses.field(default_factory=Footprint)
    unavailable: str | None = None

    @contextmanager
    def unavailable_if_so_raised(self) -> Iterator[None]:
        """Takes an Unavailable raised within for the reason, or that memory ran out."""
        try:
            yield
        except Unavailable as error:
            self.unavailable = str(error)
        except (MemoryError, RuntimeError) as error:
            if not says_out_of_memory(error):
                raise
            self.unavailable = " ".join(str(error).split())[:200] or "out of memory"

    def is_limit(self, unit: str, precision: str | None) -> bool:
        """Whether it measures the most of a unit that the machine does in a precision."""
        case = self.case
        return (
            not self.unavailable and case.unit == unit and case.labels.get("precision") == precision
        )


def run(
    cases: list[Case], repetitions: int, deadline: float = math.inf
) -> Iterator[dict[str, Any]]:
    """Times the cases of each group side by side (A B A B ...), after one untimed round.

    Args:
        cases: those of a group one after another.
        repetitions: rounds.
        deadline: after this time.monotonic() no other case is set up.

    Yields:
        A row a case: its labels, the median rate with quartiles and all samples (the n-th samples
        of a group are of one round), where its group has a baseline the median of the rounds'
        ratios to it, where it counts bytes or flops the fraction of the roofline, what its setting
        up cost, the machine and the "run", which rows of one process share; or its labels, why it
        is "unavailable", machine and run.
    """
    where = _where()
    for _, group in itertools.groupby(cases, key=lambda case: case.group):
        timed = [_Timed(case) for case in group]
        _time(timed, repetitions, deadline)
        yield from ({**_row(one, timed), **where} for one in timed)


@functools.cache  # later, the rows of this process would count as changes to the commit
def _where() -> dict[str, Any]:
    now = datetime.datetime.now(datetime.UTC)
    run = f"{now:%Y-%m-%dT%H:%M:%S}-{os.getpid()}"
    return machine() | {"peers": _peers(), "run": run}


def _peers() -> dict[str, str]:
    found = {}
    for name in _PEERS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _time(group: list[_Timed], repetitions: int, deadline: float) -> None:
    """Sets the cases up and times them in turn; a case that fails with Unavailable says so."""
    with ExitStack() as stack:
        for one in group:
            if time.monotonic() > deadline:
                one.unavailable = NOT_BEGUN
                continue
            with one.unavailable_if_so_raised(), footprint(one.footprint):
                one.work = stack.enter_context(one.case.open())
                one.work()
        for _ in range(repetitions):
            for one in group:
                if not one.unavailable:
                    with one.unavailable_if_so_raised():
                        start = time.perf_counter()
                        count = one.work()
                        one.rates.append(count / (time.perf_counter() - start))


def _row(one: _Timed, group: list[_Timed]) -> dict[str, Any]:
    case = one.case
    row = {**case.labels, "unit": f"{case.unit}/s", "group": case.group}
    if one.unavailable:
        return row | {"unavailable": one.unavailable}
    sample = np.array(one.rates)
    low, median, high = np.quantile(sample, [0.25, 0.5, 0.75])
    baselines = [np.array(other.rates) for other in group if _is_baseline(other)]
    comparable = bool(baselines) and case.unit not in _LIMITS
    extra = {
        "ratio": round(float(np.median(sample / baselines[0])), 3) if comparable else None,
        "bytes": case.bytes,
        "flops": case.flops,
        "roofline": _roofline(one, group),
    }
    return {
        **row,
        "median": _rounded(median),
        "quartiles": [_rounded(low), _rounded(high)],
        "samples": [_rounded(rate) for rate in sample],
        **{name: value for name, value in extra.items() if value is not None},
        **one.footprint.row(),
    }


def _rounded(rate: float) -> float:
    return float(f"{rate:.5g}")


def _is_baseline(one: _Timed) -> bool:
    return one.case.baseline and not one.unavailable


def _roofline(one: _Timed, group: list[_Timed]) -> float | None:
    """The least time a unit needs by its group's limits, as a fraction of the time it takes.

    The median over the rounds; None where nothing is counted or a limit was not timed.
    """
    counted = {"bytes": one.case.bytes, "flops": one.case.flops}
    precision = one.case.labels.get("precision")
    least = []
    for unit, count in counted.items():
        if count is None:
            continue
        limits = [other.rates for other in group if other.is_limit(unit, precision)]
        if not limits:
            return None
        least.append(count / np.array(limits[0]))
    return round(float(np.median(np.max(least, axis=0) * one.rates)), 3) if least else None


@contextmanager
def closing(work: Callable[[], int], close: Callable[[], None]) -> Iterator[Callable[[], int]]:
    """Yields work and calls close at the end."""
    try:
        yield work
    finally:
        close()
