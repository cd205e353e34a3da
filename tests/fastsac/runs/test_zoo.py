"""The zoo: its index and its files agree, and what is asked for is there or there is a sentence."""

import hashlib
import json
import shutil
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import fastsac
from fastsac.cli import main
from fastsac.envs.registry import find
from fastsac.envs.suite import load_suite
from fastsac.errors import CheckpointError, ConfigError, DamagedError
from fastsac.runs import zoo
from fastsac.show import zoo_page, zoo_table
from fastsac.training.evaluation import evaluate_run
from tests.fastsac.run_samples import train_tiny

FOLDER = Path(__file__).parents[3] / "results" / "policies"
INDEX = json.loads((FOLDER / "index.json").read_text())
KEYS = """file sha256 bytes return std return_before_rounding episodes episodes_seed backend steps
updates seconds preset seed machine commit date command curve""".split()


def test_the_index_has_what_is_there():
    assert zoo.read_index() == INDEX and list(INDEX) == sorted(INDEX)
    assert set(INDEX) == set(fastsac.tasks())
    beside = {"index.json", "README.md"}
    assert {p.name for p in FOLDER.iterdir()} == {f"{t}.policy" for t in INDEX} | beside
    assert (FOLDER / "README.md").read_text() == zoo_page.zoo_page(INDEX)
    assert sum(about["bytes"] for about in INDEX.values()) < 20e6


@pytest.mark.parametrize("task", INDEX)
def test_each_policy_is_what_the_index_says(task):
    about, content = INDEX[task], (FOLDER / f"{task}.policy").read_bytes()
    assert list(about) == KEYS and about["file"] == f"{task}.policy"
    assert hashlib.sha256(content).hexdigest() == about["sha256"]
    assert len(content) == about["bytes"] <= 500_000
    assert about["episodes"] == 10 and about["backend"] == "dm_control"
    assert about["command"].startswith(f"fastsac train {task} ") and "/" not in about["command"]
    assert about["steps"] > 0 and about["updates"] > 0 and about["seconds"] > 0 and about["commit"]
    steps, *of_steps = (about["curve"][k] for k in ("step", "eval_return", "eval_return_std"))
    assert {len(values) for values in of_steps} == {len(steps)} and 0 < len(steps) <= 41
    assert sorted(set(steps)) == steps and steps[-1] == about["steps"]
    # The rounding costs less than the episodes' spread.
    slack = max(0.02 * about["return_before_rounding"], about["std"])
    assert about["return"] == pytest.approx(about["return_before_rounding"], abs=slack)
    policy, suite = fastsac.load_policy(f"zoo:{task}"), load_suite(find(task))
    assert (policy.task, policy.obs_dim, policy.action_dim) == (
        task, suite.obs_dim, suite.action_dim,
    )  # fmt: skip
    action = policy(np.zeros(suite.obs_dim, np.float32))
    assert action.shape == (suite.action_dim,) and 0 < np.abs(action).max() <= 1


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(99, ""), (150, "5.0, a, 100"), (250, "7.0, b, 200"), (1e6, "7.0, b, 200")],
)
def test_published_after_no_more_steps_than_ours(steps, expected):
    baselines = {"a": {100.0: 5.0, 300.0: 6.0}, "b": {200.0: 7.0, 300.0: 1.0}}
    assert zoo_page._best(baselines, steps) == expected


def test_a_row_of_the_page():
    about = INDEX["humanoid_walk"]
    row = zoo_page._row("humanoid_walk", about, zoo_page._baselines_by_task()["humanoid_walk"])
    with (FOLDER.parent / "published" / "flashsac.csv").open() as file:
        rows = [line.strip().split(",") for line in file if line.startswith("humanoid_walk,")]
    seeds = sorted(float(value) for _, _, step, value in rows if float(step) == 1e6)
    middle = seeds[len(seeds) // 4 : len(seeds) - len(seeds) // 4]
    assert row[6] == f"{sum(middle) / len(middle):.1f}, flashsac, 1,000,000"
    assert row[:3] == ("humanoid_walk", "950.3 +- 8.0", "24,965,120") and row[5] == "NVIDIA H200"
    on_cpu = about | {"machine": {"gpu": None, "cpu": "a chip", "cores": 1}}
    assert zoo_page._row("humanoid_walk", on_cpu, {})[5:7] == ("a chip, 1 core", "")


def test_an_installed_package_has_them():
    setuptools = tomllib.loads((FOLDER.parents[1] / "pyproject.toml").read_text())["tool"]
    setuptools, name = setuptools["setuptools"], "fastsac.policies"
    assert name in setuptools["packages"]
    assert setuptools["package-dir"][name] == "results/policies"
    patterns = setuptools["package-data"][name]
    taken = {path.name for pattern in patterns for path in FOLDER.glob(pattern)}
    assert taken == {path.name for path in FOLDER.iterdir()}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("task", INDEX)
def test_each_return_is_found_again(task):
    about = INDEX[task]
    found = evaluate_run(f"zoo:{task}", about["episodes"], about["episodes_seed"], "dm_control")
    assert found.mean == pytest.approx(about["return"], rel=0.02)
    assert found.std == pytest.approx(about["std"], abs=0.02 * about["return"])


def test_an_unknown_name_is_told_near_ones(capsys):
    assert main(["eval", "zoo:walker_rum"]) == 2
    words = "there is no policy zoo:walker_rum; did you mean zoo:walker_run"
    assert words in capsys.readouterr().err
    for name in ("zoo:", "zoo:../walker_run", "zoo:%"):
        with pytest.raises(ConfigError, match="^there is no policy zoo:.*(lists them|did you)"):
            fastsac.load_policy(name)


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A zoo of two policies that a test may change."""
    folder = tmp_path / "policies"
    folder.mkdir()
    two = {task: INDEX[task] for task in ("ball_in_cup_catch", "walker_run")}
    for about in two.values():
        shutil.copy(FOLDER / about["file"], folder)
    (folder / "index.json").write_text(json.dumps(two))
    monkeypatch.setattr(zoo, "folder", lambda: folder)
    return folder


@pytest.mark.parametrize("damage", ["a bit", "cut", "another's"])
def test_a_damaged_file_is_named(damage, copy, capsys):
    file = copy / "walker_run.policy"
    content = bytearray(file.read_bytes())
    if damage == "a bit":
        content[-100] ^= 1
    elif damage == "cut":
        content = content[:-1]
    else:
        content = (copy / "ball_in_cup_catch.policy").read_bytes()
    file.write_bytes(content)
    with pytest.raises(DamagedError, match="^zoo:walker_run is damaged: the checksum of .* is not"):
        fastsac.load_policy("zoo:walker_run")
    assert main(["eval", "zoo:walker_run"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    fastsac.load_policy("zoo:ball_in_cup_catch")


def test_missing_files_are_named(copy):
    (copy / "walker_run.policy").unlink()
    with pytest.raises(CheckpointError, match="^cannot read zoo:walker_run, .*: No such file"):
        fastsac.load_policy("zoo:walker_run")
    (copy / "index.json").write_text("{")
    with pytest.raises(DamagedError, match="index.json is not JSON"):
        fastsac.load_policy("zoo:walker_run")
    (copy / "index.json").unlink()
    with pytest.raises(CheckpointError, match="^the zoo is not installed here: cannot read .*json"):
        fastsac.load_policy("zoo:walker_run")


def test_a_directory_of_another_run_does_not_matter(copy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("config.json").write_text('{"task": "cartpole_swingup"}')
    flags = ["--episodes", "2", "--backend", "engine", "--json"]
    assert main(["eval", "zoo:ball_in_cup_catch", *flags]) == 0
    assert json.loads(capsys.readouterr().out)["mean"] > 900


def test_the_table_has_each_policy(capsys):
    assert main(["zoo"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["policy", "return"]
    assert [line.split()[0] for line in lines] == [f"zoo:{task}" for task in INDEX]
    machines = [about["machine"]["gpu"] or about["machine"]["cpu"] for about in INDEX.values()]
    assert all(machine in line for machine, line in zip(machines, lines, strict=True))


def test_a_run_is_added(copy, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(zoo_table, "_EPISODES", 2)
    run = train_tiny(tmp_path / "run")
    zoo_table.add_to_zoo(run)
    index = zoo.read_index()
    assert list(index) == ["ball_in_cup_catch", "cartpole_balance", "walker_run"]
    about = index["cartpole_balance"]
    assert list(about) == KEYS and about["steps"] <= 300 and about["preset"] == "seed"
    assert f"zoo:cartpole_balance: {about['return']:.1f} +- " in capsys.readouterr().out
    assert f"\n| cartpole_balance | {about['return']:.1f} +- " in (copy / "README.md").read_text()
    obs = np.ones((3, 5), np.float32)
    ours, theirs = (fastsac.load_policy(p)(obs) for p in ("zoo:cartpole_balance", run / "best.pt"))
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
    again = evaluate_run("zoo:cartpole_balance", 2, about["episodes_seed"], "dm_control")
    assert again.mean == about["return"]
    assert main(["zoo", "--add", str(tmp_path)]) == 2
    assert f"there is no checkpoint {tmp_path}/best.pt" in capsys.readouterr().err


@pytest.mark.parametrize("better", ["best", "last", "neither"])
def test_the_better_of_the_best_and_the_last_is_added(better, copy, tmp_path, monkeypatch):
    run = train_tiny(tmp_path / "run")
    (_, best), (last, at_end) = zoo_table._policies(run)
    assert at_end["step"] == 300 and best["step"] <= 300
    agent = fastsac.SAC(5, 1, fastsac.SACConfig(hidden_sizes=(16, 16)), seed=9)
    other = fastsac.Policy.snapshot(agent, "cartpole_balance")
    two = [(other, best | {"step": 150}), (last, at_end)]
    monkeypatch.setattr(zoo_table, "_policies", lambda run: two)
    means = iter({"best": [2.0, 1.0], "last": [1.0, 2.0], "neither": [2.0, 2.0]}[better])
    found = lambda *_: SimpleNamespace(mean=next(means, 0.0), std=0.0, backend="dm_control")  # noqa: E731
    monkeypatch.setattr(zoo_table, "evaluate", found)
    zoo_table.add_to_zoo(run)
    about = zoo.read_index()["cartpole_balance"]
    assert about["return"] == 2.0 and about["steps"] == (150 if better == "best" else 300)
    obs = np.ones((3, 5), np.float32)
    theirs = (other if better == "best" else last)(obs)
    np.testing.assert_allclose(fastsac.load_policy("zoo:cartpole_balance")(obs), theirs, atol=1e-3)
