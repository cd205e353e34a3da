"""The harness: rounds in turn, paired ratios, reasons, footprints; then the command itself."""

import json
import math
import time
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastsac.bench import command, harness
from fastsac.bench.footprint import Footprint, footprint
from fastsac.bench.harness import Case, Unavailable, closing, run
from fastsac.cli import main


class Clock:
    """Time that passes only when somebody works."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        for name in ("perf_counter", "monotonic"):
            monkeypatch.setattr(harness.time, name, lambda: self.now)


def case(name, clock, seconds, units=10, log=None, **fields):
    """Work that takes the given seconds, a number a call, the first of them the warm-up."""
    times = iter(seconds)

    def work():
        if log is not None:
            log.append(name)
        taken = next(times)
        if taken is None:
            raise Unavailable(f"{name} broke")
        clock.now += taken
        return units

    fields = {"unit": "steps", "group": "g"} | fields
    return Case(labels={"variant": name}, open=lambda: closing(work, lambda: None), **fields)


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(harness, "footprint", lambda counted: closing(None, lambda: None))
    return Clock(monkeypatch)


def test_rounds_in_turn_medians_and_paired_ratios(clock):
    log = []
    cases = [
        case("a", clock, [9, 1, 2, 4], log=log, baseline=True),
        case("b", clock, [9, 2, 2, 2], log=log),
    ]
    a, b = run(cases, 3)
    assert log == ["a", "b", "a", "b", "a", "b", "a", "b"]  # the first two warm up
    assert a["samples"] == [10, 5, 2.5] and a["median"] == 5 and a["quartiles"] == [3.75, 7.5]
    # Of the rounds 5 / 10, 5 / 5, 5 / 2.5: 1 in the median.
    assert b["samples"] == [5, 5, 5] and b["ratio"] == 1 and a["ratio"] == 1
    assert a["unit"] == "steps/s" and a["group"] == "g" and a["variant"] == "a"
    assert {"cpu", "cores", "gpu", "versions", "commit", "date", "peers"} <= a.keys()


def test_a_case_that_cannot_run_says_why_and_the_others_go_on(clock):
    @contextmanager
    def missing():
        raise Unavailable("no such package")
        yield

    log = []
    rows = list(
        run(
            [
                Case({"variant": "missing"}, "steps", missing, "g", baseline=True),
                case("broken", clock, [1, 1, None, 1], log=log),
                case("cold", clock, [None], log=log),
                case("good", clock, [1, 1, 1, 1], log=log),
            ],
            3,
        )
    )
    reasons = [row.get("unavailable") for row in rows]
    assert reasons == ["no such package", "broken broke", "cold broke", None]
    assert rows[3]["median"] == 10 and "ratio" not in rows[3], "the baseline is missing"
    assert all("median" not in row for row in rows[:3])
    assert log == ["broken", "cold", "good", "broken", "good", "broken", "good", "good"]


def test_an_error_of_ours_is_no_reason(clock):
    def fail():
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        list(run([Case({}, "steps", lambda: closing(fail, lambda: None))], 1))


def test_nothing_is_set_up_after_the_deadline(clock):
    cases = [
        case("first", clock, [30, 1]),
        case("late", clock, [1, 1]),
        case("later", clock, [1, 1], group="h"),
    ]
    first, late, later = run(cases, 1, deadline=120.0)
    assert first["median"] == 10
    assert "--max-seconds" in late["unavailable"] and "--max-seconds" in later["unavailable"]


def test_contexts_are_closed_where_a_case_fails(clock):
    closed = []

    def fail():
        raise Unavailable("no")

    cases = [Case({}, "steps", lambda: closing(fail, lambda: closed.append(1)))]
    list(run(cases, 1))
    assert closed == [1]


def test_roofline_by_hand(clock):
    label = {"unit": "flops", "group": "g"}
    cases = [
        case("limit", clock, [1, 1, 2], units=100, **label),  # 100 and 50 flops a second
        case("ours", clock, [1, 1, 1], units=10, flops=4),  # 10 a second, 40 flops
    ]
    limit, ours = run(cases, 2)
    assert ours["roofline"] == 0.6  # the median of 40 / 100 and 40 / 50
    assert "ratio" not in limit and limit["unit"] == "flops/s"


def test_a_footprint_counts_compiling_and_memory():
    counted = Footprint()
    with footprint(counted):
        held = np.ones(50_000_000, np.uint8)
        jax.jit(lambda x: jnp.sin(x) + 41)(jnp.ones(3)).block_until_ready()
        time.sleep(0.2)
    row = counted.row()
    assert held.nbytes / 1e6 <= row["memory_mb"] < 500
    assert 0 < row["compile_s"] < row["setup_s"] and row["setup_s"] >= 0.2
    quiet = Footprint()
    with footprint(quiet):
        pass
    assert quiet.row()["memory_mb"] < 20 and "compile_s" not in quiet.row()


@pytest.mark.timeout(120)
def test_the_command_prints_and_keeps_rows(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"kept": true}\n')
    argv = ["bench", "kernels", "--quick", "--only", "eager", "--json", str(path)]
    assert main(argv) == 0
    kept, *rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert kept == {"kept": True} and len(rows) == 3
    assert all(row["level"] == "kernels" and row["variant"] == "eager" for row in rows)
    assert all(len(row["samples"]) == 5 and min(row["samples"]) > 0 for row in rows)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all("calls/s (quartiles" in line for line in lines)


def test_each_level_has_its_share_of_the_time(monkeypatch):
    monkeypatch.setattr(command.time, "monotonic", lambda: 1000.0)
    deadlines = []

    def recorded(cases, repetitions, deadline):
        deadlines.append(deadline)
        return iter(())

    monkeypatch.setattr(command, "run", recorded)
    list(command._rows({"a": [], "b": [], "c": []}, True, 30.0))
    assert deadlines == [1010.0, 1015.0, 1030.0]  # nothing was used, so later levels get more
    deadlines.clear()
    list(command._rows({"a": []}, False, math.inf))
    assert deadlines == [math.inf]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["envs", "--only", "walker_rum"], "no case of envs has the label 'walker_rum'"),
        (["--json", "nowhere/x.jsonl"], "cannot write --json nowhere/x.jsonl"),
        (["--max-seconds", "0"], "--max-seconds must be above 0"),
        (["--max-seconds", "nan"], "--max-seconds must be above 0"),
    ],
)
def test_bad_input_is_one_sentence(flags, words, capsys):
    assert main(["bench", *flags]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("fastsac: ") and words in lines[0], lines
