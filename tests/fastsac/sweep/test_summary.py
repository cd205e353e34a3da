"""What a sweep says of its runs."""

import sys

import pytest

from fastsac.runs.listing import read_metrics
from fastsac.sweep.summary import Outcome, report
from tests.fastsac.run_samples import write_run


def outcome(path, task, seed, setting, returns, result=True, failure=None, ended=True):
    name = path / "runs" / f"{task}-{seed}-{'-'.join(map(str, setting.values()))}"
    steps = range(1000, 1000 * len(returns) + 1, 1000)
    evaluations = [
        (step, step / 100, value, 1.0) for step, value in zip(steps, returns, strict=True)
    ]
    last = (returns[-1], 1.0) if result else None
    write_run(name, evaluations, task=task, seed=seed, result=last)
    (name / "best.pt").touch()
    return Outcome(name, task, seed, setting, failure, ended)


@pytest.fixture
def outcomes(tmp_path):
    slow, fast = {"learning_rate": 1e-4, "n_step": 3}, {"learning_rate": 5e-3, "n_step": 3}
    task = "walker_run"
    return [
        outcome(tmp_path, task, 0, slow, [10.0, 100.0]),
        outcome(tmp_path, task, 1, slow, [20.0, 300.0]),
        outcome(tmp_path, task, 0, fast, [700.0], result=False),
        outcome(tmp_path, task, 1, fast, [500.0, 400.0], result=False),
        outcome(tmp_path, "cheetah_run", 0, slow, [50.0, 40.0]),
        outcome(tmp_path, "cheetah_run", 0, fast, [], result=False, failure="ValueError: no"),
    ]


def test_a_row_a_setting_the_finished_ones_first(tmp_path, outcomes, capsys):
    report(tmp_path, outcomes)
    captured = capsys.readouterr()
    rows = [line for line in captured.out.splitlines() if line.startswith(("| w", "| c"))]
    assert rows == [
        "| walker_run | learning-rate 0.0001, n-step 3 | 2 | 2 | 200.0 [100.0, 300.0] | 2,000 |",
        # 700 at 1,000 steps and 400 at 2,000: neither finished.
        "| walker_run | learning-rate 0.005, n-step 3 | 2 | 0 | (550.0 [400.0, 700.0]) | 2,000 |",
        "| cheetah_run | learning-rate 0.0001, n-step 3 | 1 | 1 | 40.0 | 2,000 |",
        "| cheetah_run | learning-rate 0.005, n-step 3 | 1 | 0 | - | - |",
    ]
    runs = tmp_path / "runs"
    assert f"walker_run: {runs}/walker_run-0-0.005-3/best.pt (700.0)" in captured.out
    assert f"cheetah_run: {runs}/cheetah_run-0-0.0001-3/best.pt (50.0)" in captured.out
    assert captured.err.startswith("cheetah_run-0-0.005-3 failed: ValueError: no (")
    page = (tmp_path / "README.md").read_text()
    assert all(row in page for row in rows) and "![cheetah_run.png](cheetah_run.png)" in page
    assert (tmp_path / "walker_run.png").read_bytes().startswith(b"\x89PNG")


def test_states(outcomes, tmp_path):
    assert [one.state for one in outcomes] == [
        *["finished"] * 2,
        *["stopped"] * 2,
        "finished",
        "failed",
    ]
    last = outcome(tmp_path / "b", "cheetah_run", 0, {}, [1.0], result=False, ended=False)
    assert (last.state, last.label) == ("unfinished", "as given")


def test_damage_and_no_matplotlib_cost_their_own_part_alone(
    tmp_path, outcomes, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    metrics = outcomes[1].run / "metrics.csv"
    metrics.write_text(metrics.read_text().replace("300.0", "3x0.0"))
    report(tmp_path, outcomes)
    captured = capsys.readouterr()
    assert "learning-rate 0.0001, n-step 3 | 2 | 1 | 100.0 | 2,000 |" in captured.out
    assert "not a number" in captured.err and "no curves: plots need matplotlib" in captured.err
    assert not list(tmp_path.glob("*.png")) and len(read_metrics(outcomes[0].run)[0]["step"]) == 2
