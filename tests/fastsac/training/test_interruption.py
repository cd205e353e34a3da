"""Signals to real processes: a closed terminal, a second Ctrl-C, a stop and on again."""

import os
import signal
import subprocess
import sys
import time

import pytest

from fastsac.runs import checkpoint_file

FLAGS = ["--num-envs", "3", "--total-steps", "1000000", "--learning-starts", "60"]
FLAGS += ["--hidden-sizes", "8", "--checkpoint-every", "30", "--engine", "native"]
# SIGINT is ignored of a shell's children in the background, SIGHUP of nohup's; and a slow save.
CODE = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from fastsac.cli import main
from fastsac.training.run import TrainingRun
save = TrainingRun.save_last
def slow(run, received):
    if sys.argv[1] == "slow":
        print("saving", file=sys.stderr, flush=True)
        time.sleep(600)
    save(run, received)
TrainingRun.save_last = slow
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture
def training(tmp_path):
    """Starts a training that is past its first checkpoints; returns the process."""
    started = []

    def start(saves="as always"):
        command = [sys.executable, "-c", CODE, saves, "train", "cartpole_balance", *FLAGS]
        command += ["--run-dir", str(tmp_path / "run")]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        started.append(process)
        while len(checkpoint_file.files_of(tmp_path / "run")) < 2:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def steps(run):
    return checkpoint_file.load(run)["counters"]["steps"]


@pytest.mark.timeout(600)
def test_a_stop_costs_the_time_and_a_closed_terminal_nothing(training, tmp_path):
    process = training()
    os.kill(process.pid, signal.SIGSTOP)  # as SIGTSTP does, which a test's own group would get
    time.sleep(1)
    before = steps(tmp_path / "run")
    time.sleep(2)
    assert steps(tmp_path / "run") == before
    os.kill(process.pid, signal.SIGCONT)
    while steps(tmp_path / "run") == before:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGHUP)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGHUP and "Traceback" not in said
    assert f"SIGHUP at step {steps(tmp_path / 'run'):,}, checkpoint" in said


@pytest.mark.timeout(600)
def test_a_second_ctrl_c_ends_it_at_once(training, tmp_path):
    process = training("slow")
    process.send_signal(signal.SIGINT)
    while "saving" not in process.stderr.readline():
        assert process.poll() is None
    before = steps(tmp_path / "run")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130 and said.endswith("fastsac: interrupted\n"), said
    assert steps(tmp_path / "run") == before and "Traceback" not in said
