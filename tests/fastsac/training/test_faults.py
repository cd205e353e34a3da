"""What a run does when the disk, the memory, the numbers or its own files fail it."""

import dataclasses
import json
import os
import resource
import shutil
import subprocess
import sys
import time

import pytest

import fastsac
from fastsac.cli import main
from fastsac.envs.initial_states import InitialStates
from fastsac.errors import CheckpointError, NotFiniteError, RunError
from fastsac.runs import checkpoint_file
from fastsac.training.loop import TrainingRun
from fastsac.training.presets import preset_config

TINY = dict(
    num_envs=3,
    updates_per_step=1,
    total_steps=600,
    learning_starts=60,
    batch_size=16,
    replay_capacity=300,
    eval_every=300,
    eval_episodes=1,
    final_eval_episodes=1,
    checkpoint_every=90,
    log_seconds=0.2,
    sac=fastsac.SACConfig(hidden_sizes=(64, 64)),
)


def config(run_dir, **changed):
    return preset_config("cartpole_balance", run_dir=str(run_dir), **TINY | changed)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = tmp_path_factory.mktemp("finished") / "run"
    fastsac.train(config(run))
    return run


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the run, to be damaged; with higher total_steps it goes on."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def hook(monkeypatch, at):
    """Calls at[steps]() beside the updates after so many steps."""
    learn = TrainingRun.learn

    def hooked(training):
        at.get(training.state.steps, lambda: None)()
        learn(training)

    monkeypatch.setattr(TrainingRun, "learn", hooked)


def test_a_disk_that_is_full_for_a_while(tmp_path, monkeypatch, capsys):
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    seen = []

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))

    def kept():
        seen.append(checkpoint_file.load(tmp_path / "run")["counters"]["steps"])

    try:
        full, roomy = lambda: limit(1000), lambda: limit(most)  # noqa: E731
        hook(monkeypatch, {198: kept, 201: full, 390: kept, 420: roomy})
        result = fastsac.train(config(tmp_path / "run"))
    finally:
        limit(most)
    said = capsys.readouterr().err
    assert said.count("could not write") == 2  # the checkpoints after 270 and 360 steps
    assert said.count("File too large; the newest checkpoint is") == 2
    assert seen == [180, 180] and result.steps == 600
    assert checkpoint_file.load(tmp_path / "run")["counters"]["steps"] == 600
    # The rows that two checkpoints could not write are in the next one's.
    names = checkpoint_file.load(tmp_path / "run")["replay_files"]
    ends = [int(name[13:25]) for name in names]
    starts = [int(name[:12]) for name in names]
    assert starts[1:] == ends[:-1] and ends[-1] - starts[0] >= 300
    assert not [f for f in (tmp_path / "run").rglob("*.partial")]


def test_a_directory_that_may_not_be_written(run):
    code = "import sys; from fastsac.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "train", "--resume", str(run), "--total-steps", "900"]
    if os.geteuid() == 0:  # root writes everywhere unless it gives that up
        command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]
    (run / "lock").unlink()
    run.chmod(0o555)
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    run.chmod(0o755)
    assert done.returncode == 2, done.stderr
    assert done.stderr == f"fastsac: cannot write to the run {run}: Permission denied\n"


def test_the_checkpoint_before_a_damaged_one_is_gone_on_from(run, capsys):
    newest, before = checkpoint_file.files_of(run)
    content = newest.read_bytes()
    newest.write_bytes(content[: len(content) // 2])
    result = fastsac.resume(run, total_steps=900)
    said = capsys.readouterr().err
    assert f"warning: {newest} is truncated or damaged: its checksum differs: left out" in said
    assert "going on at step 540" in said and result.steps == 900
    assert newest.with_name(newest.name + ".damaged").read_bytes() == content[: len(content) // 2]


def test_a_damaged_replay_file_costs_the_checkpoints_that_need_it(run, capsys):
    newest, before = checkpoint_file.files_of(run)
    only_newest = checkpoint_file.load(newest)["replay_files"][-1]
    file = run / "replay" / only_newest
    damaged = bytearray(file.read_bytes())
    damaged[-7] ^= 1
    file.write_bytes(damaged)
    fastsac.resume(run, total_steps=900)
    said = capsys.readouterr().err
    assert f"{file} is truncated or damaged" in said and "going on at step 540" in said


def test_nothing_good_is_left(run):
    for file in checkpoint_file.files_of(run):
        file.write_bytes(b"")
    with pytest.raises(
        CheckpointError, match=f"no checkpoint of {run} can be gone on from: .*; .*"
    ):
        fastsac.resume(run, total_steps=900)
    assert len(checkpoint_file.files_of(run)) == 2, "the damaged files are left as they are"


def test_a_checkpoint_of_another_version(run):
    for file in checkpoint_file.files_of(run):
        file.write_bytes(file.read_bytes().replace(b"checkpoint 5 ", b"checkpoint 9 ", 1))
    with pytest.raises(CheckpointError, match="has checkpoint format 9, this version reads 4 to 5"):
        fastsac.resume(run, total_steps=900)


def test_a_checkpoint_of_another_task(run):
    for file in checkpoint_file.files_of(run):
        checkpoint_file.save(file, checkpoint_file.load(file) | {"task": "walker_run"})
    with pytest.raises(CheckpointError, match="is of walker_run, but .* of cartpole_balance"):
        fastsac.resume(run, total_steps=900)


def test_a_checkpoint_of_another_configuration(run):
    recorded = json.loads((run / "config.json").read_text())
    recorded["num_envs"] = 4
    (run / "config.json").write_text(json.dumps(recorded))
    with pytest.raises(CheckpointError, match="does not fit the run"):
        fastsac.resume(run, total_steps=900)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"task": "x"}', '{"sac": {"gamma": 2}}', "\x00"])
def test_a_damaged_config(run, text):
    (run / "config.json").write_text(text)
    with pytest.raises(RunError, match=f"{run}/config.json is damaged or of another version"):
        fastsac.resume(run, total_steps=900)


@pytest.mark.parametrize("damage", ["cut", "garbage", "gone"])
def test_damaged_metrics_are_put_aside(run, damage, capsys):
    file = run / "metrics.csv"
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(content[:100] if damage == "cut" else b"\x00" * len(content))
    fastsac.resume(run, total_steps=900)
    said = capsys.readouterr().err
    if damage == "gone":
        assert f"warning: {file} is gone: begun anew" in said
    else:
        assert f"warning: {file} is damaged: renamed to .damaged, and begun anew" in said
        assert len((run / "metrics.csv.damaged").read_bytes()) in (100, len(content))
    assert file.read_text().startswith("step,updates,")


def test_updates_that_are_never_finite_end_the_run(tmp_path, capsys):
    run = tmp_path / "run"
    flags = ["--num-envs", "3", "--learning-starts", "60", "--log-seconds", "0.3"]
    flags += ["--hidden-sizes", "8", "--run-dir", str(run), "--learning-rate", "1e25"]
    assert main(["train", "cartpole_balance", *flags]) == NotFiniteError.exit_code == 3
    said = capsys.readouterr().err
    assert "were skipped; the weights before them are in" in said
    state = checkpoint_file.load(run)
    assert state["counters"]["steps"] > 100
    assert all(state["agent"][name].isfinite().all() for name in ("actor", "critics"))


MEMORY = """
import jax, resource, sys
from fastsac.cli import main
import fastsac.training.loop
jax.devices()  # its threads, as many as the machine has cores, take address space too
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 2_000_000_000,) * 2)
sys.exit(main(sys.argv[1:]))
"""


def test_memory_that_runs_out_is_a_sentence(tmp_path):
    flags = ["--replay-capacity", "40000000", "--run-dir", str(tmp_path / "run")]
    command = [sys.executable, "-c", MEMORY, "train", "cartpole_balance", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "fastsac: out of memory: lower --num-envs 1, --batch-size 256 or" in done.stderr
    assert "--replay-capacity 40000000 (" in done.stderr and "2400000000 bytes" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "run").exists()


def test_a_crash_of_the_initial_states_thread_surfaces_within_a_log_interval(tmp_path, monkeypatch):
    draw = InitialStates.row

    def crashes(states, seed, index):
        if index >= 40:  # three worlds take 3 rows, and the thread is ahead
            raise FloatingPointError("no such state")
        return draw(states, seed, index)

    monkeypatch.setattr(InitialStates, "row", crashes)
    with pytest.raises(FloatingPointError, match="no such state"):
        fastsac.train(config(tmp_path / "run"))
    assert checkpoint_file.load(tmp_path / "run")["counters"]["steps"] < 300


def test_a_process_whose_training_fails_ends_at_once(tmp_path):
    code = """
import fastsac, pathlib, sys
from fastsac.training.loop import TrainingRun
from fastsac.training.presets import preset_config
def learn(run):
    raise ArithmeticError("a bug")
TrainingRun.learn = learn
fastsac.train(preset_config("cartpole_balance", run_dir=sys.argv[1], num_envs=2,
    learning_starts=10, eval_every=8, checkpoint_every=8))
"""
    started = time.monotonic()
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "ArithmeticError: a bug" in done.stderr
    assert time.monotonic() - started < 100


def test_a_log_that_takes_no_more_costs_the_words_not_the_run(tmp_path):
    flags = ["--num-envs", "3", "--total-steps", "300", "--learning-starts", "60"]
    flags += ["--checkpoint-every", "90", "--final-eval-episodes", "1", "--hidden-sizes", "8"]
    run = tmp_path / "run"
    command = [sys.executable, "-m", "fastsac", "train", "cartpole_balance", *flags]
    with open("/dev/full", "w") as full:
        done = subprocess.run([*command, "--run-dir", str(run)], stderr=full, timeout=200)
    assert done.returncode == 0 and (run / "result.json").exists()


def test_memory_that_runs_out_while_a_checkpoint_is_read_damages_nothing(run, monkeypatch):
    def fails(*arguments, **options):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(checkpoint_file.torch, "load", fails)
    with pytest.raises(fastsac.errors.ConfigError, match="out of memory: lower --num-envs"):
        fastsac.resume(run, total_steps=900)
    assert len(checkpoint_file.files_of(run)) == 2
    assert not list(run.rglob("*.damaged"))


def test_a_streak_of_skipped_updates_is_judged_when_updates_were_tried(run, monkeypatch):
    (newest, _) = checkpoint_file.files_of(run)
    state = checkpoint_file.load(newest)
    state["agent"]["critic_optimizer"]["skipped_in_a_row"].fill_(150)
    state["replay_files"] = []  # so that the replay is gathered anew first
    checkpoint_file.save(newest, state)
    assert fastsac.resume(run, total_steps=750).steps == 750


def test_the_best_policy_is_kept_over_a_resumed_run(run):
    best = checkpoint_file.load(run / "best.pt")["counters"]
    content = checkpoint_file.load(run / "best.pt")
    content["counters"] = best | {"eval_return": 5000.0, "step": 600}
    checkpoint_file.save(run / "best.pt", content)
    fastsac.resume(run, total_steps=900)
    assert checkpoint_file.load(run / "best.pt")["counters"]["eval_return"] == 5000.0


def test_a_set_up_that_was_killed_is_begun_again(tmp_path):
    from fastsac.runs import directory

    run = tmp_path / "run"
    directory.create(dataclasses.asdict(config(run)), needed_bytes=1).close()
    assert fastsac.train(config(run, total_steps=120)).steps == 120


@pytest.mark.parametrize("back", [True, False], ids=["moved and back", "deleted"])
def test_a_directory_that_is_gone_for_a_while_or_for_good(back, tmp_path, monkeypatch, capsys):
    run, moved = tmp_path / "run", tmp_path / "moved"
    at = {201: lambda: run.rename(moved)}
    if back:
        at[420] = lambda: moved.rename(run)
    hook(monkeypatch, at)
    assert fastsac.train(config(run)).steps == 600
    said = capsys.readouterr().err
    gone = said.count(f"warning: {run} is gone, moved or deleted; the newest checkpoint is")
    assert gone == (2 if back else 4)  # after 270 and 360 steps, and then after 450 and 540
    assert said.count("the run's directory is gone: made anew") == (not back)
    assert checkpoint_file.load(run)["counters"]["steps"] == 600
    assert fastsac.resume(run, total_steps=630).steps == 630  # its replay is whole
    assert "going on at step 600" in capsys.readouterr().err
