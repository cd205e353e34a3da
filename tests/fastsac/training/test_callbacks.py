"""A program hears of its training and may end it."""

import csv
import os

import pytest

import fastsac
from fastsac.training.presets import preset_config
from tests.fastsac.training.torchrun import Torchrun

SMALL = dict(
    num_envs=3,
    updates_per_step=1,
    total_steps=10**6,
    learning_starts=30,
    batch_size=32,
    replay_capacity=400,
    eval_every=150,
    eval_episodes=1,
    final_eval_episodes=1,
    checkpoint_every=10**6,
    log_seconds=0.05,
    sac=fastsac.SACConfig(hidden_sizes=(16,)),
)


def config(path, **changed):
    return preset_config("cartpole_balance", run_dir=str(path), **SMALL | changed)


def written(path):
    rows = list(csv.DictReader((path / "metrics.csv").open()))
    return [{k: float(v) for k, v in row.items() if v} for row in rows]


def test_they_hear_what_is_written_and_change_nothing(tmp_path):
    logged, evaluated = [], []
    settings = {"total_steps": 600}
    result = fastsac.train(
        config(tmp_path / "a", **settings), on_log=logged.append, on_evaluation=evaluated.append
    )
    rows = written(tmp_path / "a")
    assert evaluated == [r for r in rows if "eval_return" in r] and len(evaluated) >= 4
    assert logged == [r for r in rows if "eval_return" not in r] and len(logged) >= 1
    assert evaluated[-1]["eval_return"] == pytest.approx(result.evaluation.mean)
    silent = fastsac.train(config(tmp_path / "b", **settings))
    assert silent.evaluation.returns == result.evaluation.returns


def test_on_log_ends_a_run_as_its_time_does(tmp_path):
    result = fastsac.train(config(tmp_path / "run"), on_log=lambda row: row["step"] >= 300)
    last = [row for row in written(tmp_path / "run") if "eval_return" not in row][-1]
    assert 300 < result.steps < 10**6 and last["step"] == result.steps
    assert len(result.evaluation.returns) == 1 and (tmp_path / "run" / "result.json").exists()


def test_on_evaluation_ends_a_run_and_another_goes_on_with_it(tmp_path):
    heard = []

    def prune(row):
        heard.append(row["step"])
        return len(heard) == 2

    first = fastsac.train(config(tmp_path / "run"), on_evaluation=prune)
    assert heard[:2] == [150, 300] and heard[-1] == first.steps < 10**6
    again = []
    second = fastsac.resume(
        tmp_path / "run", total_steps=first.steps + 300, on_evaluation=again.append
    )
    assert second.steps == first.steps + 300 and again[-1]["step"] == second.steps


def test_what_they_raise_ends_the_run_and_is_raised(tmp_path):
    class Pruned(Exception):
        pass

    def prune(row):
        raise Pruned(row["step"])

    with pytest.raises(Pruned, match="150"):
        fastsac.train(config(tmp_path / "run", checkpoint_every=30), on_evaluation=prune)
    assert (tmp_path / "run" / "best.pt").exists()
    assert fastsac.resume(tmp_path / "run", total_steps=900).steps == 900


def test_a_run_stays_where_it_began_when_the_program_moves(tmp_path, monkeypatch, capsys):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    settings = {"total_steps": 300, "checkpoint_every": 90}
    result = fastsac.train(
        config("run", **settings), on_log=lambda row: os.chdir(tmp_path / "elsewhere")
    )
    assert result.run_dir == tmp_path / "run" and not list((tmp_path / "elsewhere").iterdir())
    assert {"metrics.csv", "result.json", "best.pt"} <= {p.name for p in result.run_dir.iterdir()}
    said = capsys.readouterr().err
    assert "warning" not in said.lower() and ", run in run\n" in said


@pytest.mark.slow
def test_rank_0_hears_and_ends_the_run_of_all(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys, fastsac\n"
        f"sys.path.insert(0, {os.getcwd()!r})\n"
        "from tests.fastsac.training.test_callbacks import config\n"
        "heard = []\n"
        "hear = lambda row: heard.append(row) or True\n"
        "result = fastsac.train(config(sys.argv[1]), on_log=hear)\n"
        "rank = os.environ['RANK']\n"
        "print(f'rank {rank} ends at {result.steps}, heard {len(heard) > 0}', flush=True)\n"
    )
    with Torchrun(2, tmp_path / "log", program, tmp_path / "run") as run:
        assert run.wait() == 0, run.text
    steps = written(tmp_path / "run")[-1]["step"]
    assert f"rank 0 ends at {steps:.0f}, heard True" in run.text
    assert f"rank 1 ends at {steps:.0f}, heard False" in run.text
