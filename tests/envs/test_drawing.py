"""Initial states that processes draw: the same rows, and no process that stays or is missed."""

import logging
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from fastsac.envs.drawing import Drawer
from fastsac.envs.initial_states import InitialStates
from fastsac.envs.registry import find
from fastsac.envs.suite import load_suite

MANY = 1e9  # rows a control step: whatever one costs, that is too much for threads


@pytest.fixture
def source():
    made = []

    def build(task="reacher_hard", seed=7, rows_a_step=MANY):
        suite = load_suite(find(task))
        made.append(InitialStates(suite, seed, threads=2, rows_a_step=rows_a_step))
        return made[-1]

    yield build
    for one in made:
        one.close()


def pids(source):
    return [drawer._process.pid for drawer in source._drawers]


def is_there(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        np.testing.assert_array_equal(ours[name], values)


def test_processes_draw_what_threads_draw(source):
    drawn, threads = source(), source(rows_a_step=0.0)
    equal(drawn.take(200), threads.take(200))
    assert pids(drawn) and not pids(threads)
    # Of another seed, with the processes that there are.
    before = pids(drawn)
    for one in (drawn, threads):
        one.begin(3, 50)
    equal(drawn.take(64), threads.take(64))
    assert pids(drawn)[: len(before)] == before
    drawn.close()
    assert not any(map(is_there, before))


def test_cheap_rows_are_left_to_threads(source):
    drawn = source(rows_a_step=0.1)
    drawn.take(200)
    assert not pids(drawn)


def test_tasks_that_another_process_does_not_know_are_left_to_threads(source):
    drawn = source("lqr_lqr_3_1")  # built for its numbers
    drawn.take(200)
    assert not pids(drawn)


@pytest.mark.slow
def test_a_process_that_ends_is_made_up_for(source, caplog):
    drawn, threads = source(), source(rows_a_step=0.0)
    equal(drawn.take(160), threads.take(160))
    for pid in pids(drawn):
        os.kill(pid, signal.SIGKILL)
    with caplog.at_level(logging.WARNING, "fastsac"):
        equal(drawn.take(160), threads.take(160))
    assert "drawn in threads from here on" in caplog.text


BROKEN = """
from fastsac.envs.drawing import answer
class Unsendable(Exception):
    def __init__(self, two, arguments):
        super().__init__(f"{two} {arguments}")
def rows(seed, job):
    print("not an answer")
    if seed:
        raise Unsendable("bad", "draw")
    raise FloatingPointError("bad draw")
def serve(task):
    answer(rows)
"""


def test_a_failure_in_the_process_reaches_the_caller(monkeypatch, tmp_path):
    (tmp_path / "broken_rows.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    drawer = Drawer("broken_rows", "any")
    with pytest.raises(FloatingPointError, match="bad draw"):
        drawer.rows(0, range(3))
    with pytest.raises(RuntimeError, match="Unsendable: bad draw"):
        drawer.rows(1, range(3))
    drawer.close()
    with pytest.raises((OSError, ValueError)):
        drawer.rows(0, range(3))


@pytest.mark.slow
def test_they_end_with_a_process_that_is_killed(tmp_path):
    code = """
import sys, time
from fastsac.envs.initial_states import InitialStates
from fastsac.envs.registry import find
from fastsac.envs.suite import load_suite
source = InitialStates(load_suite(find("reacher_hard")), 0, threads=2, rows_a_step=1e9)
source.take(160)
print(*[drawer._process.pid for drawer in source._drawers], flush=True)
time.sleep(100)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as parent:
        started = [*map(int, parent.stdout.readline().split())]
        assert started and all(map(is_there, started))
        parent.kill()
    ends = time.monotonic() + 30
    while any(map(is_there, started)):
        assert time.monotonic() < ends
        time.sleep(0.05)
