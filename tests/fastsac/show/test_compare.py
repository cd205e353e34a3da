"""Comparisons with published returns: figures worked out by hand, and one sentence otherwise."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

import fastsac
from fastsac.cli import main
from fastsac.runs.published import read_published
from fastsac.runs.statistics import (
    interquartile_mean_of_tasks,
    probability_of_improvement,
    stratified_interval,
)
from fastsac.show.compare import compare
from tests.fastsac.run_samples import write_run

FOLDER = Path(__file__).parents[3] / "results" / "published"
FILES = sorted(FOLDER.glob("*.csv"))


def test_the_measures_of_scores_by_hand():
    ours, theirs = [np.array([3.0, 1.0]), np.array([5.0])], [np.array([2.0]), np.array([5.0, 6.0])]
    # 1 and 3 against 2: half of the pairs; 5 against 5 and 6: half of one of two.
    assert probability_of_improvement(ours, theirs) == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert probability_of_improvement(theirs, ours) == pytest.approx(1 - 3 / 8)
    # Of 1, 3, 5 and 7 the middle two; of five the middle three.
    assert interquartile_mean_of_tasks([np.array([7.0, 1.0]), np.array([3.0, 5.0])]) == 4.0
    five = [np.array([7.0, 1.0]), np.array([100.0, 3.0, 5.0])]
    assert interquartile_mean_of_tasks(five) == 5.0


def test_the_interval_draws_runs_within_their_task():
    """Two tasks of 0 or 1 and of 10 or 11: the mean of the middle lies at 1 to 10 every time."""
    scores = [np.array([0.0, 1.0]), np.array([10.0, 11.0])]
    low, high = stratified_interval(interquartile_mean_of_tasks, scores)
    # The higher draw of the first, 0 or 1, and the lower of the second, 10 or 11.
    assert (low, high) == (5.0, 6.0)
    assert (
        stratified_interval(interquartile_mean_of_tasks, [np.array([1.0]), np.array([2.0])]) is None
    )
    always = stratified_interval(probability_of_improvement, scores, [s - 20 for s in scores])
    assert always == (1.0, 1.0)
    even = [np.arange(10.0)]
    low, high = stratified_interval(probability_of_improvement, even, even)
    assert 0.1 < low < 0.4 and high == pytest.approx(1 - low, abs=0.03)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_published_file_names_its_source_and_the_suites_tasks(file):
    found, about = read_published(file)
    assert re.match(r"Source: github\.com/\S+, \S+\.csv, commit [0-9a-f]{7}$", about[1])
    assert set(found) <= set(fastsac.tasks()) and len(found) >= 10
    for steps in found.values():
        assert all(0 <= value <= 1000 for values in steps.values() for value in values)
    assert file.stat().st_size < 40_000


def test_the_files_hold_what_their_papers_figures_are():
    """Means over seeds as the FlashSAC authors' table has them after 1M steps."""
    expected = {"flashsac": (5, 940), "simbav2": (10, 652), "xqc": (10, 713), "mrq": (10, 662)}
    for name, (seeds, mean) in expected.items():
        returns = read_published(FOLDER / f"{name}.csv")[0]["humanoid_walk"][1_000_000]
        assert len(returns) == seeds and np.mean(returns) == pytest.approx(mean, abs=1)
    assert {file.stem for file in FILES} == {*expected, "td-mpc2", "pytorch_sac"}


@pytest.fixture
def runs(tmp_path):
    rows = [(100, 1.0, 100.0, 0.0), (300, 3.0, 500.0, 0.0), (400, 4.0, 600.0, 0.0)]
    other = [(100, 1.0, 200.0, 0.0), (300, 3.0, 700.0, 0.0)]
    write_run(tmp_path / "a", rows)
    write_run(tmp_path / "b", other, seed=1)
    write_run(tmp_path / "c", rows, task="walker_run")
    write_run(tmp_path / "d", rows, task="hopper_hop")
    return [tmp_path / name for name in "abcd"]


@pytest.fixture
def baseline(tmp_path):
    file = tmp_path / "paper.csv"
    rows = [
        "cartpole_swingup,0,200,350",
        "cartpole_swingup,1,200,250",
        "cartpole_swingup,0,900,999",
    ]
    rows += ["cartpole_swingup,0,150,1", "walker_run,0,350,550", "hopper_hop,0,50,1"]
    file.write_text("# Paper\n# Source: a page\ntask,seed,step,return\n" + "\n".join(rows) + "\n")
    return file


def test_runs_are_compared_at_the_same_steps(runs, baseline):
    found = compare(runs, str(baseline))
    cartpole, walker = found["tasks"]
    assert (cartpole["task"], cartpole["steps"], cartpole["their_steps"]) == (
        "cartpole_swingup", 200, 200,
    )  # fmt: skip
    assert cartpole["ours"] == [300.0, 450.0] and cartpole["theirs"] == [350.0, 250.0]
    # 300 is above one of the two, 450 above both.
    assert cartpole["better"] == 0.75 and cartpole["iqm_ours"] == pytest.approx(0.375)
    assert walker["ours"] == [550.0] and walker["better"] == 0.5
    assert walker["iqm_ours_interval"] is None and walker["better_interval"] is None
    every = found["all"]
    assert every["better"] == pytest.approx(0.625)
    assert every["iqm_ours"] == pytest.approx(np.mean([0.3, 0.45, 0.55]))
    low, high = every["iqm_ours_interval"]
    assert low < every["iqm_ours"] < high
    (left_out,) = found["left_out"]
    assert left_out.startswith("hopper_hop has evaluations from 100 to 400 steps, the baseline ")


def test_runs_that_never_met_are_left_out(runs, baseline, tmp_path):
    late = write_run(tmp_path / "late", [(900, 9.0, 700.0, 0.0)], task="walker_run", seed=2)
    (_, left_out) = sorted(compare([*runs, late], str(baseline))["left_out"])
    assert left_out.startswith("the runs of walker_run have no steps in common")


def test_the_last_returns_are_compared_whatever_the_steps(runs, baseline):
    found = compare(runs, str(baseline), final=True)
    cartpole, hopper, _ = found["tasks"]
    assert cartpole["ours"] == [600.0, 700.0] and cartpole["theirs"] == [999.0]
    assert (cartpole["steps"], cartpole["their_steps"]) == (400, 900) and cartpole["better"] == 0
    assert hopper["theirs"] == [1.0] and not found["left_out"]


def test_the_command_prints_a_table_or_json(runs, baseline, capsys):
    argv = ["compare", *map(str, runs), "--baseline", str(baseline)]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert out.startswith("Paper\nSource: a page\nIQM of return / 1000") and "at equal steps" in out
    lines = [re.split(r"  +", line) for line in out.splitlines()[5:]]
    assert lines[0][:2] == ["cartpole_swingup", "200"] and lines[0][3] == "2 run(s)"
    assert lines[1][:6] == ["walker_run", "350", "0.550", "1 run(s)", "0.550", "1 run(s)"]
    assert lines[2][0] == "all 2" and lines[3][0].startswith("left out: hopper_hop has ")
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["all"]["better"] == 0.625 and not math.isnan(found["all"]["iqm_theirs"])
    assert main(["compare", str(runs[0]), "--baseline", "pytorch_sac", "--final"]) == 0
    assert "Source: github.com/denisyarats/pytorch_sac" in capsys.readouterr().out


BAD = {
    "no baseline": ("nowhere.csv", None, "it takes a file, or one of flashsac, mrq, pytorch_sac"),
    "no such name": ("ppo", None, "there is no --baseline ppo: it takes"),
    "columns": ("x.csv", "task,step\na,1\n", "x.csv, line 1: the columns must be task,seed,step,"),
    "no number": (
        "x.csv",
        "# a\ntask,seed,step,return\na,0,1,x\n",
        "x.csv, line 3: must be a task",
    ),
    "no finite number": ("x.csv", "task,seed,step,return\na,0,1,nan\n", "x.csv, line 2: must be a"),
    "too few": ("x.csv", "task,seed,step,return\na,0,1\n", "x.csv, line 2: must be a task"),
    "no rows": ("x.csv", "task,seed,step,return\n", "x.csv has no returns"),
    "empty": ("x.csv", "", "x.csv, line 1: the columns must be"),
    "other tasks": (
        "x.csv",
        "task,seed,step,return\na,0,1,2\n",
        "cartpole_swingup is not in the baseline",
    ),
}


@pytest.mark.parametrize(("name", "text", "words"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_sentence(name, text, words, runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path(name).write_text(text)
    assert main(["compare", str(runs[0]), "--baseline", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fastsac: ") and words in line
    assert main(["compare", str(tmp_path / "no"), "--baseline", "mrq"]) == 2
    assert "cannot read" in capsys.readouterr().err
