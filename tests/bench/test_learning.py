"""Learning-speed experiments: the statistics by hand, the runs with a stand-in, then for real."""

import csv
import json
import os
import stat
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fastsac.bench import learning
from fastsac.cli import main
from fastsac.runs.statistics import (
    Summary,
    bootstrap_interval,
    common_grid,
    interquartile_mean,
    time_to_return,
)

SMALL = (
    "--num-envs 3 --updates-per-step 2 --total-steps 600 --learning-starts 150 --batch-size 32 "
    "--replay-capacity 400 --eval-every 300 --eval-episodes 1 --final-eval-episodes 2 "
    "--hidden-sizes 16 16"
)


def test_runs_that_ended_apart_keep_their_own_ends():
    assert common_grid([np.array([18.0]), np.array([20.0, 23.0])]).tolist() == [18]
    ends = [(18.0, 200.0), (23.0, 900.0)]
    curves = [
        {c: np.array([x]) for c in ("step", "seconds", "cpu_seconds")}
        | {"eval_return": np.array([y])}
        for x, y in ends
    ]
    assert "| 550.0 [200.0, 900.0] |" in learning.table({"t": {"a": Summary(curves)}}, "a")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([7.0], 7.0),
        ([0.0, 10.0, 5.0], 5.0),  # a quarter of 3 is less than a run: nothing is cut
        ([1000.0, 10.0, 0.0, 20.0], 15.0),
        ([100.0, 1.0, 2.0, 3.0, 0.0], 2.0),
        ([8.0, 1.0, 2.0, 7.0, 6.0, 3.0, 4.0, 500.0], 5.0),  # (3 + 4 + 6 + 7) / 4
    ],
)
def test_interquartile_mean(values, expected):
    assert interquartile_mean(np.array(values)) == expected
    columns = np.stack([values, np.zeros(len(values)), -np.array(values)], axis=1)
    np.testing.assert_array_equal(interquartile_mean(columns), [expected, 0, -expected])
    np.testing.assert_array_equal(interquartile_mean(columns.T, axis=1), [expected, 0, -expected])


def test_bootstrap_interval():
    assert bootstrap_interval(np.array([3.0])) is None
    # Of two runs a quarter of the draws is the lower one twice, a quarter the higher one.
    low, high = bootstrap_interval(np.array([[0.0, 5.0], [10.0, 5.0]]))
    np.testing.assert_array_equal([low, high], [[0, 5], [10, 5]])
    # Five runs, one of them 100, are drawn as k times 100 and cut by one on either side: k = 3 is
    # 200 / 3. P(k >= 3) = 5.8% and P(k >= 4) = 0.7%, so the 97.5% quantile is k = 3.
    low, high = bootstrap_interval(np.array([0.0, 100.0, 0.0, 0.0, 0.0]))
    assert low == 0 and high == pytest.approx(200 / 3)


def test_common_grid_does_not_pass_the_shortest_run():
    steps = [np.array([100, 200, 300]), np.array([150, 250, 300, 400])]
    assert common_grid(steps).tolist() == [150, 200, 250, 300]


@pytest.mark.parametrize(
    ("target", "expected"),
    [(-1, 2), (0, 2), (50, 7), (100, 12), (150, 22 + 10 * 2 / 3), (200, 32), (201, None)],
)
def test_time_to_return_is_the_first_crossing(target, expected):
    x, returns = np.array([2.0, 12, 22, 32]), np.array([0.0, 100, 50, 200])
    assert time_to_return(x, returns, target) == (expected and pytest.approx(expected))


def curve(steps, seconds, returns):
    columns = {"step": steps, "seconds": seconds, "eval_return": returns}
    columns["cpu_seconds"] = [2 * s for s in seconds]
    return {name: np.array(values, float) for name, values in columns.items()}


def test_summary():
    one = Summary([curve([100, 200], [10, 20], [0, 100]), curve([100, 300], [20, 60], [100, 300])])
    # The second run was at 200 steps after 40 s, with 200.
    assert one.returns.tolist() == [[0, 100], [100, 200]] and one.mean.tolist() == [50, 150]
    assert one.x["step"].tolist() == [100, 200] and one.x["seconds"].tolist() == [15, 30]
    assert one.x["cpu_seconds"].tolist() == [30, 60]


def test_table_has_the_ratio_of_the_times_to_the_baselines_return():
    found = {
        "cheetah_run": {
            "slow": Summary([curve([0, 1000], [0, 50], [0, 400])] * 2),
            "fast": Summary([curve([0, 1000], [0, 20], [0, 800])]),
            "poor": Summary([curve([0, 1000], [0, 50], [0, 300])]),
            "late": Summary([curve([900, 1000], [40, 50], [500, 500])]),
        },
        "walker_run": {"fast": Summary([curve([0, 1000], [0, 20], [0, 800])])},
    }
    lines = learning.table(found, "slow").splitlines()[-5:]
    assert lines == [
        "| cheetah_run | slow | 2 | 400.0 [400.0, 400.0] | 1,000 | 50 | 100 "
        "| 50.0 (1.00x) | 100.0 (1.00x) |",
        "| cheetah_run | fast | 1 | 800.0 | 1,000 | 20 | 40 | 10.0 (5.00x) | 20.0 (5.00x) |",
        "| cheetah_run | poor | 1 | 300.0 | 1,000 | 50 | 100 | not reached | not reached |",
        "| cheetah_run | late | 1 | 500.0 | 1,000 | 50 | 100 | <= 40.0 (1.25x) | <= 80.0 (1.25x) |",
        "| walker_run | fast | 1 | 800.0 | 1,000 | 20 | 40 | - | - |",
    ]


def test_the_baseline_always_reaches_its_own_return():
    # Slow and fast runs of odd numbers: what a mean along another axis would round differently.
    random = np.random.default_rng(0)
    runs = [
        curve([100, 200, 300], np.cumsum(random.uniform(1, 9, 3)), np.sort(random.uniform(size=3)))
        for _ in range(13)
    ]
    assert "not reached" not in learning.table({"t": {"a": Summary(runs)}}, "a")


def test_published_points_do_not_stretch_the_axis():
    runs = [curve([1e5, 3e5], [10, 30], [100, r]) for r in (400, 500)]
    settings = {"a": Summary(runs), "b": Summary(runs[:1])}
    panels = learning.draw("cheetah_run", settings).axes
    assert len(panels) == 3
    *lines, markers = panels[0].lines
    assert markers.get_xydata().tolist() == [[250_000, 430]]  # 680 at 500,000 lies beyond
    assert [line.get_label() for line in lines] == ["a (seeds: 2)", "b (seeds: 1)"]
    for panel, last in zip(panels, (3e5, 30, 60), strict=True):
        assert panel.get_xlim()[0] == 0 and last <= panel.get_xlim()[1] < 1.1 * last
        assert len(panel.collections) == 1  # a band, and none for one seed
    np.testing.assert_array_equal(lines[0].get_ydata(), [100, 450])
    assert len(learning.draw("walker_walk", settings).axes[0].lines) == 2


# What stands in for the interpreter: `... -m fastsac train TASK flags --seed S --run-dir DIR`.
STAND_IN = """\
import json, os, sys, time
from pathlib import Path
argv = sys.argv[1:]
value = lambda flag, default: argv[argv.index(flag) + 1] if flag in argv else default
run, seed = Path(value("--run-dir", "")), int(value("--seed", ""))
if run.exists() and any(run.iterdir()):
    sys.exit("fastsac: another run is there")
run.mkdir(parents=True, exist_ok=True)
(run / "config.json").write_text(json.dumps({"total_steps": 200}))
(run / "argv").write_text(json.dumps([argv, os.environ["OMP_NUM_THREADS"]]))
time.sleep(float(value("--sleep", 0)))
if value("--fails", None) == str(seed):
    print("a warning\\nfastsac: the moon is down", file=sys.stderr)
    sys.exit(2)
with (run / "metrics.csv").open("w") as file:
    file.write("step,updates,seconds,cpu_seconds,eval_return,eval_return_std\\n")
    file.write("50,9,1.0,2.0,,\\n100,50,5.0,9.0,100,1.5\\n")
    file.write(f"200,150,{10 + seed}.0,20.0,{value('--return', '500')},2.5\\n")
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Puts STAND_IN in the trainings' place; returns the experiment's directory."""
    script = tmp_path / "python"
    script.write_text(f"#!{sys.executable}\n{STAND_IN}")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setattr(learning, "machine", lambda: {"commit": "abc"})
    return tmp_path / "out"


def experiment(directory, *flags):
    return main(["bench", "learning", "cartpole_balance", "-o", str(directory), *flags])


def rows_of(directory):
    return [json.loads(line) for line in (directory / "runs.jsonl").read_text().splitlines()]


def test_runs_are_recorded_and_reported(stand_in, capsys):
    settings = ["--setting", "slow=--return 400 --preset seed", "--setting", "fast=--return 700"]
    assert experiment(stand_in, *settings, "--threads", "3") == 0
    assert rows_of(stand_in)[0] == {
        "task": "cartpole_balance",
        "setting": "slow",
        "flags": ["--return", "400", "--preset", "seed"],
        "seed": 0,
        "steps": 200,
        "updates": 150,
        "seconds": 10.0,
        "cpu_seconds": 20.0,
        "final_return": 400.0,
        "final_return_std": 2.5,
        "baseline": "slow",
        "threads": 3,
        "jobs": 1,
        "commit": "abc",
    }
    # In turn, so that a slow hour of the machine hits both.
    order = [(row["setting"], row["seed"]) for row in rows_of(stand_in)]
    assert order == [("slow", 0), ("fast", 0), ("slow", 1), ("fast", 1)]
    folder = stand_in / "cartpole_balance"
    argv, threads = json.loads((folder / "fast-1" / "argv").read_text())
    run_dir = ["--run-dir", str(folder / "fast-1")]
    expected = ["-m", "fastsac", "train", "cartpole_balance", "--return", "700", "--seed", "1"]
    assert argv == expected + run_dir and threads == "3"
    readme = (stand_in / "README.md").read_text()
    # 400 is half of the way from 100 (5 s) to 700 (10.5 s).
    assert "| fast | 2 | 700.0 [700.0, 700.0] | 200 | 10 | 20 | 7.8 (1.35x) |" in readme
    assert "![cartpole_balance](cartpole_balance.png)" in readme
    assert "| 7.8 (1.35x) |" in capsys.readouterr().out
    assert (stand_in / "cartpole_balance.png").read_bytes().startswith(b"\x89PNG")


def test_finished_runs_are_skipped_and_unfinished_ones_begin_again(stand_in, capsys):
    setting = ["--setting", "a="]
    assert experiment(stand_in, *setting) == 0
    folder = stand_in / "cartpole_balance"
    finished = (folder / "a-0" / "argv").stat().st_mtime_ns
    metrics = folder / "a-1" / "metrics.csv"
    metrics.write_text(metrics.read_text().replace("200,150", "199,150"))
    assert experiment(stand_in, *setting, "--seeds", "3") == 0
    assert "2 of 3 runs to do" in capsys.readouterr().out
    assert (folder / "a-0" / "argv").stat().st_mtime_ns == finished
    assert metrics.read_text().endswith("200,150,11.0,20.0,500,2.5\n")
    # A run that finished after its experiment was killed: nobody saw where and how.
    rows = (stand_in / "runs.jsonl").read_text().splitlines(keepends=True)
    (stand_in / "runs.jsonl").write_text("".join(rows[:-1]))
    assert experiment(stand_in, *setting, "--seeds", "3") == 0
    assert "0 of 3 runs to do" in capsys.readouterr().out
    last = rows_of(stand_in)[-1]
    assert last["seed"] == 2 and last["final_return"] == 500 and "commit" not in last


def test_a_failing_run_is_a_sentence_and_the_others_go_on(stand_in, capsys):
    settings = ["--setting", "bad=--fails 0", "--setting", "good="]
    assert experiment(stand_in, *settings) == 2
    captured = capsys.readouterr()
    log = stand_in / "cartpole_balance" / "bad-0.log"
    assert captured.err.splitlines() == [
        f"cartpole_balance bad seed 0 failed with exit code 2: the moon is down ({log})",
        "fastsac: 1 of 4 runs failed",
    ]
    assert {(row["setting"], row["seed"]) for row in rows_of(stand_in)} == {
        ("bad", 1),
        ("good", 0),
        ("good", 1),
    }
    assert "| bad | 1 | 500.0 |" in captured.out and "| good | 2 | 500.0 [" in captured.out
    assert (stand_in / "cartpole_balance.png").is_file()


def test_runs_go_on_at_once(stand_in, monkeypatch):
    live = []
    poll = learning.time.sleep

    def sleep(seconds):
        live.append(len(list(stand_in.glob("*/*.log"))) - len(list(stand_in.glob("*/*/metrics*"))))
        poll(seconds)

    monkeypatch.setattr(learning.time, "sleep", sleep)
    assert experiment(stand_in, "--setting", "a=--sleep 1", "--seeds", "3", "--jobs", "2") == 0
    assert max(live) == 2 and len(rows_of(stand_in)) == 3
    cores = len(os.sched_getaffinity(0))
    assert {row["threads"] for row in rows_of(stand_in)} == {max(1, cores // 2)}


def test_an_interrupted_experiment_leaves_nothing_running(stand_in, monkeypatch):
    processes = []
    start = learning._start
    monkeypatch.setattr(learning, "_start", lambda *a: processes.append(start(*a)) or processes[-1])

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(learning.time, "sleep", interrupt)
    began = time.monotonic()
    flags = ["--setting", "a=--sleep 60", "--jobs", "2"]
    assert experiment(stand_in, *flags) == 130
    assert len(processes) == 2 and all(p.poll() is not None for p in processes)
    assert time.monotonic() - began < 30


def test_draw_alone_redraws_and_the_first_commands_baseline_stays(stand_in, capsys):
    assert experiment(stand_in, "--setting", "first=", "--seeds", "1") == 0
    assert experiment(stand_in, "--setting", "added=--return 900", "--seeds", "1") == 0
    (stand_in / "cartpole_balance.png").unlink()
    capsys.readouterr()
    assert main(["bench", "learning", "--draw", "-o", str(stand_in)]) == 0
    out = capsys.readouterr().out
    assert out.index("| first | 1 |") < out.index("| added | 1 |") and "R is that of `first`" in out
    assert (stand_in / "cartpole_balance.png").is_file()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "give tasks and settings"),
        (["cartpole_balance"], "give tasks and settings"),
        (["--setting", "a="], "give tasks and settings"),
        (["cartpole_balance", "--setting", "a=", "--draw"], "or --draw alone"),
        (["cartpole_balance", "--setting", "a=", "--setting", "a=--tau 1"], "a name of its own"),
        (["cartpole_balence", "--setting", "a="], "did you mean cartpole_balance"),
        (["cartpole_balance", "--setting", "a"], "--setting must be NAME=\"FLAGS\", got 'a'"),
        (["cartpole_balance", "--setting", "a/b="], '--setting must be NAME="FLAGS"'),
        (["cartpole_balance", "--setting", "a='"], "--setting a: No closing quotation"),
        (["cartpole_balance", "--setting", "a=--seed 3"], "--setting a has --seed"),
        (["cartpole_balance", "--setting", "a=--run-dir=x"], "--setting a has --run-dir"),
        (["cartpole_balance", "--setting", "a=", "--jobs", "0"], "--jobs and --threads must be"),
        (["cartpole_balance", "--setting", "a=", "--threads", "-1"], "must be at least 1"),
        (["--draw"], "there is no finished run in learning"),
    ],
)
def test_bad_input_is_one_sentence(flags, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "learning", *flags]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("fastsac: ") and words in lines[0], lines
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_kept(stand_in, capsys):
    assert experiment(stand_in, "--setting", "a=--return 1", "--seeds", "1") == 0
    assert experiment(stand_in, "--setting", "a=--return 2", "--seeds", "1") == 2
    assert "--setting a was '--return 1'; rename this one" in capsys.readouterr().err
    (stand_in / "README.md").write_text("# Mine\n")
    assert experiment(stand_in, "--setting", "b=") == 2
    assert "README.md is not ours to overwrite" in capsys.readouterr().err
    assert (stand_in / "README.md").read_text() == "# Mine\n" and len(rows_of(stand_in)) == 1


def test_damaged_records_are_a_sentence(tmp_path, capsys):
    (tmp_path / "runs.jsonl").write_text('{"task": "cartpole_bal')
    assert main(["bench", "learning", "--draw", "-o", str(tmp_path)]) == 2
    assert "runs.jsonl is damaged" in capsys.readouterr().err


def test_without_matplotlib_the_table_is_there_and_a_sentence(stand_in, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert experiment(stand_in, "--setting", "a=", "--seeds", "1") == 2
    captured = capsys.readouterr()
    assert captured.err == "fastsac: plots need matplotlib: pip install 'fastsac[plot]'\n"
    assert "| a | 1 | 500.0 |" in (stand_in / "README.md").read_text()


@pytest.mark.slow
def test_two_trainings(tmp_path):
    assert experiment(tmp_path, "--setting", f"small={SMALL}", "--jobs", "2") == 0
    rows = rows_of(tmp_path)
    assert {row["seed"] for row in rows} == {0, 1}
    for row in rows:
        run = tmp_path / "cartpole_balance" / f"small-{row['seed']}"
        assert json.loads((run / "config.json").read_text())["seed"] == row["seed"]
        with (run / "metrics.csv").open() as file:
            last = list(csv.DictReader(file))[-1]
        assert row["final_return"] == float(last["eval_return"]) > 0
        assert row["steps"] == 600 and row["updates"] == int(last["updates"]) >= 300
        assert 0 < row["seconds"] and 0 < row["cpu_seconds"] == float(last["cpu_seconds"])
        assert {"commit", "date", "cpu", "cores", "gpu", "versions"} <= row.keys()
    assert "| small | 2 | " in (tmp_path / "README.md").read_text()
    assert Path(tmp_path / "cartpole_balance.png").read_bytes().startswith(b"\x89PNG")
