"""What becomes of a run of several ranks when one dies, when it is stopped, and when it goes on."""

import json
import math
import os
import signal
import sys
import time

import pytest
import torch

import fastsac
from fastsac.errors import CheckpointError, ConfigError
from fastsac.runs import checkpoint_file
from fastsac.runs.replay_files import read_rows
from fastsac.training.config import recorded_config
from fastsac.training.log import _across_ranks
from tests.fastsac.training.test_resume import rows_of, tensors
from tests.fastsac.training.torchrun import Torchrun

FLAGS = {
    "num-envs": 3,
    "updates-per-step": 2,
    "total-steps": 1200,
    "learning-starts": 150,
    "batch-size": 32,
    "n-step": 3,
    "replay-capacity": 170,  # of each rank; it wraps, and is no multiple of num-envs
    "eval-every": 300,
    "eval-episodes": 1,
    "final-eval-episodes": 1,
    "checkpoint-every": 60,
    "log-seconds": 0.2,
    "hidden-sizes": "16",
}


def train(run_dir, ranks, log, *flags, torchrun=(), **changed):
    """A torchrun of `fastsac train`; an empty run_dir resumes."""
    given = {k.replace("_", "-"): v for k, v in changed.items()}
    pairs = [x for k, v in (FLAGS | given).items() for x in (f"--{k}", v)]
    arguments = ["-m", "fastsac", "train", "cartpole_balance", *pairs, "--normalize-obs"]
    return Torchrun(ranks, log, *arguments, "--run-dir", run_dir, *flags, flags=torchrun)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    with train(folder / "run", 2, folder / "log") as run:
        assert run.wait() == 0, run.text
    assert "3 worlds on native in each of 2 ranks" in run.text
    return folder / "run"


def newest(run_dir):
    return (checkpoint_file.files_of(run_dir) or [None])[0]


def step_of(run_dir):
    file = newest(run_dir)
    return int(file.stem) if file else -1


def assert_same_end(run_dir, expected_dir):
    """Checkpoints, with every rank's part and rows, and evaluations, bit for bit."""
    found, expected = (checkpoint_file.load(path) for path in (run_dir, expected_dir))
    for state in (found, expected):
        del state["metrics"], state["skipped"]  # which hold times
    assert tensors(expected).keys() == tensors(found).keys() and len(tensors(found)) > 70
    for name, value in tensors(expected).items():
        assert torch.equal(value, tensors(found)[name]), name
    for rank in range(2):
        rows = []
        for path, state in ((run_dir, found), (expected_dir, expected)):
            part = (state, *state["ranks"])[rank]
            parts = read_rows(path, part["replay_files"])
            rows.append(torch.cat([x for _, x in parts])[-FLAGS["replay-capacity"] :])
        assert len(rows[0]) == FLAGS["replay-capacity"] and torch.equal(*rows)
    results = [json.loads((d / "result.json").read_text()) for d in (run_dir, expected_dir)]
    assert results[0]["returns"] == results[1]["returns"]
    evaluations = [
        [(r["step"], r["eval_return"]) for r in rows_of(d) if r["eval_return"]]
        for d in (run_dir, expected_dir)
    ]
    assert evaluations[0] == evaluations[1] and len(evaluations[0]) >= 3


def test_a_run_counts_the_steps_of_all_ranks(uninterrupted):
    state = checkpoint_file.load(uninterrupted)
    assert state["counters"]["steps"] == 1200 and recorded_config(uninterrupted).num_envs == 3
    # 25 vector steps of 6 worlds are random; updates run beside each later one.
    assert state["counters"]["updates"] == (200 - 25) * 2
    (part,) = state["ranks"]
    # Each rank has episodes, actions and transitions of its own.
    assert part["counters"] == state["counters"]
    for mine, other in ((state["obs"], part["obs"]), (state["actions"], part["actions"])):
        assert mine.shape == other.shape and not torch.equal(mine, other)
    rows = [next(read_rows(uninterrupted, p["replay_files"]))[1] for p in (state, part)]
    assert rows[0].shape == rows[1].shape and not torch.isin(rows[0][:, 0], rows[1][:, 0]).any()
    logged = [r for r in rows_of(uninterrupted) if r["steps_per_second"]]
    assert int(logged[-1]["step"]) == 1200 and logged[-1]["invalid_transitions"] == "0"
    assert {p.name for p in uninterrupted.parent.iterdir()} == {"run", "log"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kill_9_restart_sigterm_and_resume_lose_nothing(uninterrupted, tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    with train(run, 2, log, torchrun=("--max-restarts", "1")) as first:
        first.wait_until(lambda: step_of(run) >= 240)
        killed = first.pids()
        os.kill(killed[1], signal.SIGKILL)
        first.wait_until(lambda: "going on at step" in first.text)
        assert "fastsac: rank 1 has ended (silent: killed" in first.text
        resumed_at = step_of(run)
        first.wait_until(lambda: step_of(run) > resumed_at)
        assert not set(first.pids().values()) & set(killed.values())
        first.process.send_signal(signal.SIGTERM)
        assert first.wait() != 0
    assert "SIGTERM at step" in first.text and f"fastsac train --resume {run}" in first.text
    stopped_at = step_of(run)
    assert stopped_at < 1200, "it was too fast to be stopped"
    with pytest.raises(CheckpointError, match="trained by 2 ranks.*cannot be gone on with by 1"):
        fastsac.resume(run)
    with Torchrun(2, log, "-m", "fastsac", "train", "--resume", run) as second:
        assert second.wait() == 0, second.text
    assert f"going on at step {stopped_at:,}" in second.text
    assert_same_end(run, uninterrupted)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kill_9_at_five_moments_loses_nothing(uninterrupted, tmp_path):
    run = tmp_path / "run"
    with train(run, 2, tmp_path / "log", torchrun=("--max-restarts", "5")) as torchrun:
        for number, moment in enumerate((0, 180, 420, 660, 900)):
            torchrun.wait_until(lambda moment=moment: step_of(run) >= moment)
            os.kill(torchrun.pids()[number % 2], signal.SIGKILL)
            resumed = lambda number=number: torchrun.text.count("going on at step") > number  # noqa: E731
            torchrun.wait_until(resumed)
        assert torchrun.wait() == 0, torchrun.text
    assert_same_end(run, uninterrupted)


KILLED = [pytest.param(1, 0, marks=pytest.mark.slow), (0, 1)]  # 1 is killed above too


@pytest.mark.parametrize("killed, other", KILLED)
def test_a_rank_that_dies_ends_the_run_by_its_name(killed, other, tmp_path):
    run = tmp_path / "run"
    with train(run, 2, tmp_path / "log", total_steps=10**6) as torchrun:
        torchrun.wait_until(lambda: step_of(run) >= 240)
        os.kill(torchrun.pids()[killed], signal.SIGKILL)
        started = time.monotonic()
        assert torchrun.wait(60) != 0 and time.monotonic() - started < 60
    assert f"fastsac: rank {killed} has ended (silent: killed" in torchrun.text
    assert f"fastsac: rank {other} has ended" not in torchrun.text
    assert checkpoint_file.load(run)["counters"]["steps"] >= 240


@pytest.mark.slow
def test_a_rank_that_hangs_ends_the_run_within_a_minute(tmp_path):
    """As on a GPU, where nothing but the heartbeat tells of it; and it does nothing more itself."""
    run = tmp_path / "run"
    with train(run, 2, tmp_path / "log", total_steps=10**6) as torchrun:
        torchrun.wait_until(lambda: step_of(run) >= 240)
        pids = torchrun.pids()
        os.kill(pids[1], signal.SIGSTOP)
        torchrun.wait_until(lambda: "fastsac: rank 1 has ended" in torchrun.text, seconds=60)
        torchrun.wait(60)
    assert "rank 0 has ended" not in torchrun.text


@pytest.mark.slow
def test_ranks_without_their_torchrun_save_and_end(tmp_path):
    run = tmp_path / "run"
    with train(run, 2, tmp_path / "log", total_steps=10**6) as torchrun:
        torchrun.wait_until(lambda: step_of(run) >= 240)
        pids = torchrun.pids()
        torchrun.process.kill()
        ends = time.monotonic() + 60
        while any(alive(pid) for pid in pids.values()) and time.monotonic() < ends:
            time.sleep(0.1)
        assert not any(alive(pid) for pid in pids.values()), torchrun.text
    assert "SIGTERM at step" in torchrun.text


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_ranks_with_different_flags_are_refused(tmp_path):
    command = f"exec {sys.executable} -m fastsac train cartpole_balance --seed $RANK"
    command += f" --run-dir {tmp_path / 'run'}"
    shell = ("sh", "-c", command)
    with Torchrun(2, tmp_path / "log", *shell, flags=("--no-python",)) as torchrun:
        assert torchrun.wait() != 0
    assert "all ranks need the same --seed: rank 0 has 0, rank 1 1" in torchrun.text
    assert not (tmp_path / "run").exists()


def test_steps_of_all_ranks_must_reach_an_update():
    config = fastsac.TrainConfig("cartpole_balance", num_envs=3, learning_starts=6, total_steps=10)
    config.require_updates(ranks=2)
    with pytest.raises(ConfigError, match="after 12 steps .*3 in each of 4 ranks.*-steps 10"):
        config.require_updates(ranks=4)


def test_a_row_is_of_all_ranks():
    nan = float("nan")
    common = {"lowest": 0.0, "q": 1.0, "invalid_transitions": 2.0}
    rows = [
        common | {"episodes": 3.0, "train_return": 100.0, "highest": 0.5},
        common | {"episodes": 1.0, "train_return": 500.0, "highest": 1.0, "q": 4.0, "lowest": -1.0},
        common | {"episodes": 0.0, "train_return": nan, "highest": 0.0},
    ]
    assert _across_ranks(rows) == {
        "lowest": -1.0,
        "q": 2.0,
        "invalid_transitions": 6.0,
        "episodes": 4.0,
        "train_return": 200.0,
        "highest": 1.0,
    }
    assert math.isnan(_across_ranks([rows[2], rows[2]])["train_return"])
