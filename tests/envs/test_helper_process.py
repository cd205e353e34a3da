"""Initial states that processes draw: the same rows, and no process that stays or is missed."""

import gc
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import fastsac
from fastsac.envs import initial_states
from fastsac.envs.helper_process import HelperProcess
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
    """Whether it runs; a process 1 that fetches no orphans leaves zombies."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


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


@pytest.mark.slow
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
from fastsac.envs.helper_process import answer
class Unsendable(Exception):
    def __init__(self, two, arguments):
        super().__init__(f"{two} {arguments}")
def rows(seed, job):
    print("not an answer")
    if seed:
        raise Unsendable("bad", "draw")
    raise FloatingPointError("bad draw")
def begin(task):
    if task != "any":
        raise LookupError(task)
    return rows
def serve():
    answer(begin)
"""


def test_a_failure_in_the_process_reaches_the_caller(monkeypatch, tmp_path):
    (tmp_path / "broken_rows.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    helper = HelperProcess("broken_rows")
    for request in [("any",), (0, range(3)), (1, range(3))]:
        helper.send(*request)
    assert helper.receive() is None  # to the first
    with pytest.raises(FloatingPointError, match="bad draw"):
        helper.receive()
    with pytest.raises(RuntimeError, match="Unsendable: bad draw"):
        helper.receive()
    helper.close()
    with pytest.raises((OSError, ValueError)):
        helper.send(0, range(3))
    unborn = HelperProcess("broken_rows")
    unborn.send("another")
    with pytest.raises(LookupError, match="another"):
        unborn.receive()
    with pytest.raises(EOFError):
        unborn.receive()
    unborn.close()


HALF = """
import os, pickle
def serve():
    os.read(0, 1)
    os.write(1, pickle.dumps(list(range(10_000)))[:8_000])
"""


def test_half_an_answer_is_none(monkeypatch, tmp_path):
    (tmp_path / "half_rows.py").write_text(HALF)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "path", [*map(Path, sys.path)])  # which may hold any object
    helper = HelperProcess("half_rows")
    helper.send("any")
    with pytest.raises(EOFError, match="middle of an answer"):
        helper.receive()
    helper.close()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["mjx", "warp"])
def test_a_gpus_engine_keeps_them_over_a_reset_and_ends_them(engine, monkeypatch):
    monkeypatch.setattr(initial_states, "_MOST_IN_THREADS", 0.0)
    env = fastsac.make("reacher_hard", num_envs=64, engine=engine)
    env.reset(seed=0)
    env.reset(seed=1)
    source = env.engine._pool._source if engine == "warp" else env.engine._source
    before = pids(source)
    assert before and all(map(is_there, before))
    env.reset(seed=2)
    assert pids(source)[: len(before)] == before
    env.close()
    assert not any(map(is_there, before))


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


def test_it_ends_with_the_env_that_nobody_holds():
    env = fastsac.make("pendulum_swingup", 2, pixels=(8, 8))
    pids = [helper._process.pid for helper in env.engine._cameras._helpers]
    assert pids and all(map(is_there, pids))
    del env
    gc.collect()
    assert not any(map(is_there, pids))
