"""Whole runs, small: they repeat bit for bit, and what they leave behind can be used."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import torch

import fastsac
from fastsac.errors import RunError, UserError
from fastsac.runs import checkpoint_file
from fastsac.training.config import EVAL_SEED
from fastsac.training.evaluation import evaluate, evaluate_run
from fastsac.training.presets import preset_config

SMALL = dict(
    num_envs=3,
    updates_per_step=2,
    total_steps=600,
    learning_starts=150,
    batch_size=32,
    replay_capacity=400,  # not a multiple of num_envs, and it wraps
    eval_every=300,
    eval_episodes=1,
    final_eval_episodes=2,
    checkpoint_every=300,
    log_seconds=0.2,
    sac=fastsac.SACConfig(hidden_sizes=(16, 16), normalize_obs=True),
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of one configuration."""
    folder = tmp_path_factory.mktemp("runs")
    configs = [
        preset_config("cartpole_balance", run_dir=str(folder / name), **SMALL) for name in "ab"
    ]
    return [fastsac.train(config) for config in configs]


def test_counts_and_files(runs):
    result = runs[0]
    assert result.steps == 600
    # 50 vector steps of 3 worlds are random; updates run beside each later one.
    assert result.updates == (200 - 50) * 2
    assert len(result.evaluation.returns) == 2 and result.evaluation.backend == "dm_control"
    names = {p.name for p in result.run_dir.iterdir()}
    files = {"config.json", "machine.json", "metrics.csv", "result.json", "best.pt", "lock"}
    assert names == files | {"checkpoints", "replay", "tensorboard"}
    assert any((result.run_dir / "tensorboard").iterdir())
    rows = list(csv.DictReader((result.run_dir / "metrics.csv").open()))
    evaluated = [r for r in rows if r["eval_return"]]
    assert [int(r["step"]) for r in evaluated] == [300, 600]
    assert float(evaluated[-1]["eval_return"]) == pytest.approx(result.evaluation.mean)
    config = json.loads((result.run_dir / "config.json").read_text())
    assert config["sac"]["hidden_sizes"] == [16, 16] and config["num_envs"] == 3


def test_a_repeated_run_is_bit_identical(runs):
    first, second = (checkpoint_file.load(r.run_dir) for r in runs)
    flat_first, flat_second = _flat(first["agent"]), _flat(second["agent"])
    assert flat_first.keys() == flat_second.keys() and len(flat_first) > 15
    for name, value in flat_first.items():
        assert torch.equal(value, flat_second[name]), name
    assert runs[0].evaluation.returns == runs[1].evaluation.returns


def test_another_seed_is_another_run(runs, tmp_path):
    config = preset_config("cartpole_balance", run_dir=str(tmp_path / "c"), **SMALL | {"seed": 1})
    other = checkpoint_file.load(fastsac.train(config).run_dir)
    mine = checkpoint_file.load(runs[0].run_dir)
    assert not torch.equal(other["agent"]["actor"], mine["agent"]["actor"])


def test_eval_reproduces_the_final_return(runs):
    again = evaluate_run(str(runs[0].run_dir), 2, EVAL_SEED, "dm_control")
    assert again.returns == runs[0].evaluation.returns


def test_engine_and_dm_control_agree_on_a_return(runs):
    # Other initial states, so only the mean is comparable: a constant action on cartpole_balance.
    policy = lambda obs: torch.zeros(obs.shape[0], 1)  # noqa: E731
    returns = {
        backend: evaluate(policy, "cartpole_balance", 6, 0, backend)
        for backend in ("dm_control", "engine")
    }
    assert abs(returns["dm_control"].mean - returns["engine"].mean) < 60
    assert all(0 < r < 1000 for one in returns.values() for r in one.returns)


def test_loaded_policy_is_the_agents_mode(runs):
    policy = fastsac.load_policy(checkpoint_file.files_of(runs[0].run_dir)[0])
    obs = np.random.default_rng(0).normal(size=(4, policy.obs_dim)).astype(np.float32)
    action = policy(obs)
    assert isinstance(action, np.ndarray) and action.shape == (4, 1)
    assert (np.abs(action) <= 1).all()
    np.testing.assert_array_equal(policy(torch.from_numpy(obs)).numpy(), action)


def test_a_directory_with_a_run_is_refused_and_kept(runs):
    before = (runs[0].run_dir / "config.json").read_bytes()
    config = preset_config("cheetah_run", run_dir=str(runs[0].run_dir))
    with pytest.raises(RunError, match="another run"):
        fastsac.train(config)
    assert (runs[0].run_dir / "config.json").read_bytes() == before


def test_default_directories_never_collide(tmp_path, monkeypatch):
    from fastsac.runs import directory

    monkeypatch.chdir(tmp_path)
    config = preset_config("cheetah_run")
    paths = [directory.create(dataclasses.asdict(config), needed_bytes=1).path for _ in range(3)]
    assert len(set(paths)) == 3 and all((p / "config.json").is_file() for p in paths)


def test_a_run_from_a_gpu_loads_on_a_cpu(runs, tmp_path):
    state = checkpoint_file.load(runs[0].run_dir)
    # What differs in a checkpoint of a CUDA run: the generator's state.
    state["agent"]["device"] = "cuda"
    state["agent"]["generator"] = torch.zeros(16, dtype=torch.uint8)
    path = tmp_path / "cuda.pt"
    checkpoint_file.save(path, state)
    obs = torch.ones(1, 5)
    here = fastsac.load_policy(runs[0].run_dir)
    assert torch.equal(fastsac.load_policy(path)(obs), here(obs))


def test_a_diverging_policy_is_counted_not_fatal():
    nan = lambda obs: torch.full((obs.shape[0], 6), float("nan"))  # noqa: E731
    for backend in ("dm_control", "engine"):
        result = evaluate(nan, "cheetah_run", 2, 0, backend)
        assert result.returns == (0.0, 0.0) and result.diverged == 2


def test_a_failed_evaluation_costs_its_figure_not_the_training(tmp_path, monkeypatch, capsys):
    from fastsac.training import background_evaluation

    def fails(*arguments):
        raise ArithmeticError("no luck")

    monkeypatch.setattr(background_evaluation, "evaluate_in", fails)
    config = preset_config("cartpole_balance", run_dir=str(tmp_path / "run"), **SMALL)
    result = fastsac.train(config)
    assert "warning: an evaluation failed: ArithmeticError: no luck" in capsys.readouterr().err
    assert checkpoint_file.load(tmp_path / "run")["counters"]["steps"] == result.steps == 600


def test_the_time_limit_ends_a_run_as_its_steps_do(tmp_path):
    limits = {"total_steps": 10**9, "max_seconds": 4.0, "eval_every": 10**9}
    config = preset_config("cartpole_balance", run_dir=str(tmp_path / "run"), **SMALL | limits)
    result = fastsac.train(config)
    assert (
        2 <= result.seconds < 60
    )  # a checkpoint's time before the limit and 0 < result.steps < 10**9
    assert checkpoint_file.load(tmp_path / "run")["counters"]["steps"] == result.steps
    assert len(result.evaluation.returns) == 2


@pytest.mark.parametrize(
    "atoms, task",
    [
        (11, "lqr_lqr_2_1"),
        (11, "cartpole_balance"),
        pytest.param(None, "lqr_lqr_2_1", marks=pytest.mark.slow),
    ],
)
def test_rewards_beyond_the_atoms_are_said_once(atoms, task, tmp_path, capsys, few_states_ahead):
    sac = fastsac.SACConfig(hidden_sizes=(16,), num_atoms=atoms)
    config = preset_config(task, run_dir=str(tmp_path / "run"), **SMALL | {"sac": sac})
    fastsac.train(config)
    warnings = capsys.readouterr().err.count("beyond the [0, 1] that the atoms' range is made for")
    assert warnings == (atoms is not None and task == "lqr_lqr_2_1")


def test_a_full_disk_costs_metrics_not_the_run(tmp_path, capsys):
    from fastsac.runs.metrics import MetricsWriter

    writer = MetricsWriter(tmp_path, total_steps=10, started=0.0)
    writer._file.close()
    writer._file = open("/dev/full", "w")  # noqa: SIM115  (every write: no space left on device)
    writer._csv.writer = csv.writer(writer._file)
    writer.write({"step": 1, "updates": 0})
    writer.close()
    assert "metrics of step 1 are lost: No space left on device" in capsys.readouterr().err


def test_a_replay_that_cannot_fit_leaves_nothing_behind(tmp_path):
    run_dir = tmp_path / "big"
    config = preset_config("cheetah_run", run_dir=str(run_dir), replay_capacity=10**12)
    with pytest.raises(UserError, match="are free: .* for --replay-capacity 1000000000000"):
        fastsac.train(config)
    assert not run_dir.exists()


def _flat(tree, prefix=""):
    """Returns every tensor in nested dicts and lists by its dotted name."""
    if isinstance(tree, torch.Tensor):
        return {prefix: tree}
    if not isinstance(tree, dict | list):
        return {}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    named = [_flat(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in items]
    return {name: tensor for part in named for name, tensor in part.items()}
