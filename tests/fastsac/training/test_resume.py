"""A run that is stopped and goes on ends as the one that was not, to the last bit."""

import csv
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import torch

import fastsac
from fastsac.errors import CheckpointError, ConfigError, RunError
from fastsac.runs import checkpoint_file
from fastsac.runs.listing import read_metrics
from fastsac.training.config import recorded_config
from fastsac.training.loop import TrainingRun
from fastsac.training.presets import preset_config
from fastsac.training.state import TrainingState
from tests.envs import random_tasks

PLAIN = dict(
    num_envs=3,
    updates_per_step=2,
    total_steps=900,
    learning_starts=150,
    batch_size=32,
    replay_capacity=400,  # not a multiple of num_envs, and it wraps
    eval_every=300,
    eval_episodes=1,
    final_eval_episodes=1,
    checkpoint_every=90,
    log_seconds=0.2,
    sac=fastsac.SACConfig(hidden_sizes=(16, 16)),
)
WHOLE = PLAIN | dict(
    n_step=3,
    noise_steps=4,
    preset="cpu",
    sac=fastsac.SACConfig(
        hidden_sizes=(16, 16),
        layer_norm=True,
        normalize_obs=True,
        num_atoms=11,
        policy_delay=3,
        critic_reduction="mean",
    ),
)
COMPILED = PLAIN | dict(sac=fastsac.SACConfig(hidden_sizes=(16, 16), compile_updates=True))
SETTINGS = {"plain": PLAIN, "whole": WHOLE, "compiled": COMPILED}


def config(run_dir, setting=PLAIN, task="cartpole_balance", **changed):
    return preset_config(task, run_dir=str(run_dir), **setting | changed)


def settings_of(default):
    """Runs a test on an uninterrupted run of one setting, and in test-all on one of each.

    By default test_sigterm_loses_nothing has the whole setting, the others the plain one.
    """
    marks = {name: () if name == default else pytest.mark.slow for name in SETTINGS}
    params = [pytest.param(name, marks=mark) for name, mark in marks.items()]
    return pytest.mark.parametrize("uninterrupted", params, indirect=True)


@pytest.fixture(scope="module")
def uninterrupted(request, tmp_path_factory):
    setting = SETTINGS[request.param]
    folder = tmp_path_factory.mktemp("uninterrupted")
    return setting, fastsac.train(config(folder / "run", setting))


def stop_at(monkeypatch, *steps, number=signal.SIGTERM):
    """Sends this process the signal in the middle of the vector step after so many steps."""
    action = TrainingState.action

    def stopping(state):
        if state.steps in steps and state.steps not in sent:
            sent.add(state.steps)
            os.kill(os.getpid(), number)
        return action(state)

    sent = set()
    monkeypatch.setattr(TrainingState, "action", stopping)


def tensors(tree, prefix=""):
    if isinstance(tree, torch.Tensor):
        return {prefix: tree}
    if not isinstance(tree, dict | list | tuple):
        return {prefix: torch.tensor(tree)} if isinstance(tree, int | float) else {}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    named = [tensors(value, f"{prefix}.{key}") for key, value in items]
    return {name: tensor for part in named for name, tensor in part.items()}


def rows_of(path):
    return list(csv.DictReader((path / "metrics.csv").open()))


def assert_same_end(run_dir, expected_dir, best_too=True):
    """The last checkpoints, the replay's rows, the returns and the evaluations, bit for bit."""
    found, expected = (checkpoint_file.load(path) for path in (run_dir, expected_dir))
    for state in (found, expected):
        del state["metrics"], state["skipped"]  # which hold times
        if not best_too:
            del state["best"]
    assert tensors(expected).keys() == tensors(found).keys() and len(tensors(found)) > 40
    for name, value in tensors(expected).items():
        assert torch.equal(value, tensors(found)[name]), name
    size = min(expected["replay"]["added"], 400)
    kept = [
        torch.cat(
            [checkpoint_file.load_tensors(d / "replay" / n)["rows"] for n in s["replay_files"]]
        )[-size:]
        for d, s in ((run_dir, found), (expected_dir, expected))
    ]
    assert len(kept[0]) == size and torch.equal(*kept)
    results = [json.loads((d / "result.json").read_text()) for d in (run_dir, expected_dir)]
    assert results[0]["returns"] == results[1]["returns"]
    curves = [read_metrics(d)[0] for d in (run_dir, expected_dir)]
    for column in ("step", "eval_return"):
        assert curves[0][column].tolist() == curves[1][column].tolist()
    assert len(curves[0]["step"]) >= 3
    best = [checkpoint_file.load(d / "best.pt") for d in (run_dir, expected_dir)]
    assert not best_too or torch.equal(best[0]["agent"]["actor"], best[1]["agent"]["actor"])


@settings_of("whole")
def test_sigterm_loses_nothing(uninterrupted, tmp_path, monkeypatch):
    setting, expected = uninterrupted
    run = tmp_path / "run"
    # Random steps, the first updates, right after a checkpoint, an evaluation under way; half of
    # them in each setting.
    stops = [3, 147, 270, 450] if setting is PLAIN else [150, 300, 303, 897]
    stop_at(monkeypatch, *stops)
    with pytest.raises(SystemExit) as caught:
        fastsac.train(config(run, setting))
    assert caught.value.code == 143
    for step in stops[1:]:
        with pytest.raises(SystemExit):
            fastsac.resume(run)
        # The vector step under way was finished, and nothing of it is lost.
        assert checkpoint_file.load(run)["counters"]["steps"] == step + 3
    fastsac.resume(run)
    assert_same_end(run, expected.run_dir)


def test_a_task_with_a_clock_delays_and_muscles_goes_on_as_well(tmp_path, monkeypatch):
    """What of a state is no position, velocity or activation moves it, or its task reads it."""
    random_tasks.register("drawn", 4)
    dirs = [tmp_path / "whole", tmp_path / "stopped"]
    fastsac.train(config(dirs[0], task="drawn"))
    stop_at(monkeypatch, 270, 450)
    with pytest.raises(SystemExit):
        fastsac.train(config(dirs[1], task="drawn"))
    with pytest.raises(SystemExit):
        fastsac.resume(dirs[1])
    fastsac.resume(dirs[1])
    assert_same_end(dirs[1], dirs[0])


@pytest.fixture
def sigint():
    """Sets what a SIGINT does; a suite that was started in the background inherits that it is
    ignored."""
    before = signal.getsignal(signal.SIGINT)
    yield partial(signal.signal, signal.SIGINT)
    signal.signal(signal.SIGINT, before)


def test_sigint_saves_and_says_how_to_go_on(sigint, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    sigint(signal.default_int_handler)
    stop_at(monkeypatch, 300, number=signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fastsac.train(config(run))
    error = capsys.readouterr().err
    assert f"go on: fastsac train --resume {run}" in error and "ignored" not in error
    assert checkpoint_file.load(run)["counters"]["steps"] == 303
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_sigint_that_the_parent_ignored_stays_ignored(sigint, tmp_path, monkeypatch, capsys):
    sigint(signal.SIG_IGN)
    stop_at(monkeypatch, 300, number=signal.SIGINT)
    assert fastsac.train(config(tmp_path / "run", total_steps=360)).steps == 360
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    words = "SIGINT stays ignored, as the process that started this one had it; "
    assert f"{words}kill {os.getpid()} ends the run with a checkpoint" in capsys.readouterr().err


@settings_of("plain")
def test_what_came_after_the_checkpoint_is_done_again(uninterrupted, tmp_path, monkeypatch):
    """An error in the middle of a step leaves the last periodic checkpoint, as kill -9 does."""
    setting, expected = uninterrupted
    run, learn = tmp_path / "run", TrainingRun.learn
    every_step = {"log_seconds": 1e-9}  # so that rows after the checkpoint are there to stand twice

    def fails(self):
        if self.state.steps == 420:
            raise ArithmeticError("a bug")
        learn(self)

    monkeypatch.setattr(TrainingRun, "learn", fails)
    with pytest.raises(ArithmeticError):
        fastsac.train(config(run, setting, **every_step))
    monkeypatch.setattr(TrainingRun, "learn", learn)
    assert 360 < int(rows_of(run)[-1]["step"]) <= 420
    fastsac.resume(run)
    assert_same_end(run, expected.run_dir)
    steps = [int(row["step"]) for row in rows_of(run) if row["steps_per_second"]]
    assert steps == sorted(set(steps)), "a row stands twice"


KILLS = [("native", 80), ("warp", 10), ("mjx", 10)]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "engine, kills",
    [("native", 1), *(pytest.param(*of, marks=pytest.mark.slow) for of in KILLS)],
)
def test_kill_9_at_random_moments(engine, kills, tmp_path):
    """Real processes, a checkpoint at every third vector step."""
    settings = WHOLE | {"total_steps": 1050 + 150 * kills, "checkpoint_every": 9, "engine": engine}
    expected, run = tmp_path / "expected", tmp_path / "run"
    fastsac.train(config(expected, settings))
    moments, command = random.Random(kills), ["--resume", str(run)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # as here: sums are split among threads
    for number in range(kills):
        if number == 0:
            code = (
                "import sys, fastsac, pickle; fastsac.train(pickle.load(open(sys.argv[1], 'rb')))"
            )
            import pickle

            (tmp_path / "config").write_bytes(pickle.dumps(config(run, settings)))
            argv = [sys.executable, "-c", code, str(tmp_path / "config")]
        else:
            argv = [sys.executable, "-m", "fastsac", "train", *command]
        before = checkpoint_file.files_of(run)[:1]
        with (tmp_path / f"log{number}").open("w") as log:
            process = subprocess.Popen(argv, stderr=log, stdout=log, env=one_thread)
        while checkpoint_file.files_of(run)[:1] == before and process.poll() is None:
            time.sleep(0.01)  # it is past its set-up
        time.sleep(moments.uniform(0, 0.5))
        assert process.poll() is None, (tmp_path / f"log{number}").read_text()
        process.send_signal(signal.SIGKILL)
        process.wait()
    fastsac.resume(run)
    assert_same_end(run, expected)


@settings_of("plain")
def test_a_larger_budget_goes_on_with_a_finished_run(uninterrupted, tmp_path):
    setting, expected = uninterrupted
    run = tmp_path / "run"
    fastsac.train(config(run, setting, total_steps=600))
    with pytest.raises(RunError, match="has done its 600 steps: give a higher --total-steps"):
        fastsac.resume(run)
    assert (run / "result.json").exists()
    result = fastsac.resume(run, total_steps=900)
    assert result.steps == 900 and recorded_config(run).total_steps == 900
    # The evaluation after 600 steps included; the one in dm_control then may be the best.
    assert_same_end(run, expected.run_dir, best_too=False)


def test_a_run_that_is_extended_keeps_its_last_evaluation(tmp_path):
    run = tmp_path / "run"
    first = fastsac.train(config(run, total_steps=420))  # no multiple of eval_every
    before = rows_of(run)
    assert float(before[-1]["eval_return"]) == first.evaluation.mean
    fastsac.resume(run, total_steps=510)
    assert rows_of(run)[: len(before)] == before
    curve, steps = read_metrics(run)
    assert curve["step"].tolist() == [300, 420, 510] and steps == 510
    assert curve["eval_return"][1] == first.evaluation.mean


def test_without_the_replay_the_policy_gathers_a_new_one_first(tmp_path, monkeypatch):
    run = tmp_path / "run"
    stop_at(monkeypatch, 450)
    with pytest.raises(SystemExit):
        fastsac.train(config(run, checkpoint_replay=False))
    assert not (run / "replay").exists()
    before = checkpoint_file.load(run)["counters"]
    result = fastsac.resume(run)
    # 453 steps done, then 150 without updates.
    assert result.updates == before["updates"] + 2 * (900 - 453 - 150) // 3


def test_only_what_leaves_the_training_alone_may_change(tmp_path, monkeypatch):
    run = tmp_path / "run"
    stop_at(monkeypatch, 300)
    with pytest.raises(SystemExit):
        fastsac.train(config(run))
    for change, flag in (
        ({"num_envs": 4}, "--num-envs"),
        ({"seed": 1}, "--seed"),
        ({"sac": dataclasses.replace(PLAIN["sac"], gamma=0.9)}, "algorithm"),
    ):
        with pytest.raises(ConfigError, match=f"a resumed run keeps its.*{flag}"):
            fastsac.resume(run, **change)
    with pytest.raises(ConfigError, match="no_such_field"):
        fastsac.resume(run, no_such_field=1)
    assert fastsac.resume(run, total_steps=330, log_seconds=9.0).steps == 330


def test_a_second_process_is_refused_and_a_dead_one_is_not_remembered(tmp_path):
    run = tmp_path / "run"
    fastsac.train(config(run, total_steps=300))
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from fastsac.runs.directory import RunDirectory;"
            "held = RunDirectory(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()",
            str(run),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(RunError, match=f"another process is training in {run}"):
        fastsac.resume(run, total_steps=600)
    holder.kill()
    holder.wait()
    assert fastsac.resume(run, total_steps=600).steps == 600


def test_there_must_be_a_run(tmp_path):
    with pytest.raises(RunError, match="holds no run"):
        fastsac.resume(tmp_path)
    fastsac.train(config(tmp_path / "run", total_steps=300))
    for file in checkpoint_file.files_of(tmp_path / "run"):
        file.unlink()
    with pytest.raises(CheckpointError, match="can be gone on from: there is none"):
        fastsac.resume(tmp_path / "run", total_steps=600)


def test_a_run_keeps_the_engine_that_auto_came_to(tmp_path):
    """Where another engine is chosen later, as after an install, its state would not fit."""
    fastsac.train(config(tmp_path / "run", total_steps=150, learning_starts=90))
    recorded = recorded_config(tmp_path / "run")
    assert (recorded.engine, recorded.device) == ("native", "cpu")
