"""What is read back from run directories, and their list."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import fastsac
from fastsac.cli import main
from fastsac.errors import RunError
from fastsac.runs.directory import LOCK, is_running
from fastsac.runs.listing import (
    describe,
    duration,
    find_runs,
    read_config,
    read_metrics,
    read_progress,
    read_result,
)
from fastsac.training.presets import preset_config
from tests.fastsac.run_samples import write_run

EVALUATIONS = [(100, 1.5, 20.0, 2.0), (200, 3.0, 40.5, 1.0), (300, 4.5, 61.0, 0.5)]


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", EVALUATIONS)


def test_evaluations_are_read_and_other_rows_count_as_steps(run):
    with (run / "metrics.csv").open("a") as file:
        file.write("350,7,5.0,5.0" + "," * 15 + "\r\n")
    curve, steps = read_metrics(run)
    assert steps == 350
    assert curve["step"].tolist() == [100, 200, 300]
    assert curve["seconds"].tolist() == [1.5, 3.0, 4.5]
    assert curve["eval_return"].tolist() == [20, 40.5, 61]
    assert curve["eval_return_std"].tolist() == [2, 1, 0.5]


def test_a_cut_last_line_is_ignored_wherever_it_was_cut(run):
    file = run / "metrics.csv"
    whole = file.read_bytes()
    last = whole.rstrip(b"\r\n").rfind(b"\n") + 1
    for end in range(last, len(whole)):  # the last: before its \n
        file.write_bytes(whole[:end])
        assert read_metrics(run)[0]["eval_return"].tolist() == [20, 40.5], whole[last:end]
    file.write_bytes(whole)
    assert read_metrics(run)[0]["eval_return"].tolist() == [20, 40.5, 61]


def test_steps_that_a_resumed_run_did_again_count_once(tmp_path):
    again = [(100, 1, 1, 0), (200, 2, 2, 0), (300, 3, 3, 0), (200, 4, 40, 0), (400, 5, 50, 0)]
    curve, _ = read_metrics(write_run(tmp_path / "run", again))
    assert curve["step"].tolist() == [100, 200, 400]
    assert curve["eval_return"].tolist() == [1, 40, 50]


DAMAGES = {
    "no column": (lambda t: t.replace("eval_return_std", "x"), "1: there is no column eval_return"),
    "cut within the names": (lambda t: t[:20], "1: there are no columns"),
    "binary": (lambda t: "\0\udcff" * 9 + "\n", "1: there is no column step"),
    "text for a step": (lambda t: t.replace("100,", "ten,", 1), "2: step is 'ten', not a number"),
    "text for seconds": (lambda t: t.replace("3.0", "3,0", 1), "4: 20 columns instead of 19"),
    "text for a return": (lambda t: t.replace("40.5", "good"), "5: eval_return is 'good', not"),
    "no deviation": (lambda t: t.replace("40.5,1.0", "40.5,"), "5: eval_return_std is '', not a"),
    "no finite time": (lambda t: t.replace("3.0", "nan", 1), "4: seconds is 'nan', not a number"),
    "a hole": (lambda t: t.replace("40.5,1.0", "\0\0\0"), "5: 18 columns instead of 19"),
    "bytes that are no text": (lambda t: t.replace("40.5", "\udc80\udc81"), "5: eval_return is"),
    "a line of text": (lambda t: t.replace("200,0", "oops\r\n200,0", 1), "4: 1 columns instead of"),
}


@pytest.mark.parametrize("command", ["plot", "runs", "report"])
@pytest.mark.parametrize(("damage", "words"), DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_metrics(damage, words, command, run, capsys, tmp_path):
    file = run / "metrics.csv"
    before = file.read_bytes().decode()
    text = damage(before)
    assert text != before
    file.write_bytes(text.encode(errors="surrogateescape"))
    if command == "runs":
        assert main(["runs", str(tmp_path)]) == 0
        _, line = capsys.readouterr().out.splitlines()
        assert "damaged" in line and "cartpole_swingup" in line
    else:
        output = tmp_path / ("a.png" if command == "plot" else "a.html")
        assert main([command, str(run), "-o", str(output)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("fastsac: ") and not output.exists()
    assert f"{file}, line {words}" in line


JSON_DAMAGES = {
    "empty": ("", "line 1: Expecting value, so it is not JSON"),
    "cut": ('{\n"task": "a",\n"pre', "line 3: "),
    "a list": ("[]", "line 1: not a JSON object"),
    "too deep": ("[" * 100_000, "is not JSON"),
    "no task": ("{}", "has no 'task'"),
    "not a text": ('{"task": 3}', "'task' cannot be 3"),
}


@pytest.mark.parametrize(("text", "words"), JSON_DAMAGES.values(), ids=JSON_DAMAGES.keys())
def test_damaged_configurations(text, words, run, capsys):
    (run / "config.json").write_text(text)
    assert main(["plot", str(run), "-o", str(run / "a.png")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{run / 'config.json'}" in line and words in line
    row = describe(run)
    assert row["state"] == "damaged" and words in row["reason"] and row["task"] is None


@pytest.mark.parametrize("value", ["[]", '"high"', "NaN", "Infinity"])
def test_damaged_results(value, run):
    (run / "result.json").write_text(f'{{"std": 1, "mean": {value}}}')
    with pytest.raises(RunError, match="result.json: 'mean' cannot be"):
        read_result(run)
    assert describe(run)["state"] == "damaged"


def test_files_that_cannot_be_read(run):
    (run / "metrics.csv").unlink()
    (run / "metrics.csv").mkdir()
    assert describe(run)["reason"] == f"cannot read {run / 'metrics.csv'}: Is a directory"
    (run / "config.json").write_bytes(b"\xff\xfe")
    with pytest.raises(RunError, match="config.json is not JSON"):
        read_config(run)
    with pytest.raises(RunError, match="cannot read nowhere/metrics.csv: No such file"):
        read_metrics(Path("nowhere"))


def test_a_run_that_just_began_has_no_steps(run):
    (run / "metrics.csv").write_text("")  # its first row is written with the names
    with pytest.raises(RunError, match="metrics.csv, line 1: there are no columns, the file is em"):
        read_metrics(run)
    curve, steps = read_progress(run)
    assert steps == 0 and len(curve["step"]) == 0
    assert describe(run)["state"] == "stopped" and describe(run)["steps"] == 0
    (run / "result.json").write_text('{"mean": 1, "std": 0}')  # then there is no excuse
    assert describe(run)["state"] == "damaged"


HOLDER = """
import fcntl, sys, time
with open(sys.argv[1], "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_run_is_running_while_a_process_holds_its_lock(run):
    assert not is_running(run) and not (run / LOCK).exists()
    command = [sys.executable, "-c", HOLDER, str(run / LOCK)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        assert is_running(run) and describe(run)["state"] == "running"
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert (run / LOCK).exists() and not is_running(run)
    assert describe(run)["state"] == "stopped"


def test_asking_leaves_the_lock_free_and_the_directory_alone(run):
    assert not is_running(run / "nowhere") and not is_running(run / "config.json")
    (run / LOCK).touch()
    assert not is_running(run)
    with (run / LOCK).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert is_running(run)
    (run / LOCK).unlink()
    os.mkfifo(run / LOCK)  # which nobody writes to
    assert not is_running(run)


def listed(capsys, *argv):
    assert main(["runs", *map(str, argv), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_list_is_of_all_runs_below_the_newest_first(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    old = write_run(tmp_path / "runs" / "a" / "old", EVALUATIONS, preset="cpu", seed=3)
    new = write_run(tmp_path / "runs" / "new", [], result=(850.25, 1.0), task="walker_run")
    write_run(tmp_path / "runs" / "new" / "within", [])  # part of a run, not one
    write_run(tmp_path / "runs" / ".trash" / "b", [])
    write_run(tmp_path / "elsewhere", [])
    for run, age in ((old, 90_000), (new, 200)):
        stat = (run / "config.json").stat()
        (run / "machine.json").write_text("{}")
        os.utime(run / "machine.json", (stat.st_mtime - age,) * 2)
    first, second = listed(capsys)
    assert first.pop("age_seconds") == pytest.approx(200, abs=60)
    assert first == {
        "run": "runs/new",
        "task": "walker_run",
        "preset": "seed",
        "seed": 0,
        "steps": 0,
        "total_steps": 10_000,
        "eval_return": 850.25,
        "state": "finished",
    }
    assert second["run"] == "runs/a/old" and second["state"] == "stopped"
    assert (second["steps"], second["eval_return"]) == (300, 61.0)
    assert main(["runs"]) == 0
    heads, *lines = capsys.readouterr().out.splitlines()
    assert heads.split() == ["run", "task", "preset", "seed", "steps", "return", "state", "age"]
    assert lines[1].split()[:9] == (
        "runs/a/old cartpole_swingup cpu 3 300 of 10,000 61.0 stopped".split()
    )
    assert lines[1].endswith("1 d 1 h") and len(lines) == 2
    assert find_runs(new) == [new] and len(listed(capsys, tmp_path)) == 3


def test_a_damaged_run_is_listed_beside_the_others(tmp_path, capsys):
    write_run(tmp_path / "a", EVALUATIONS)
    write_run(tmp_path / "b", EVALUATIONS, task="../\x1b[31mred.py")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "metrics.csv").touch()
    rows = {row["run"]: row for row in listed(capsys, tmp_path)}
    assert [rows[str(tmp_path / n)]["state"] for n in "abc"] == ["stopped", "stopped", "damaged"]
    reason = f"cannot read {tmp_path / 'c' / 'config.json'}: No such file or directory"
    assert rows[str(tmp_path / "c")]["reason"] == reason
    assert main(["runs", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert reason in printed and "?[31mred" in printed and "\x1b" not in printed


def test_no_runs_and_no_directory(tmp_path, capsys):
    assert main(["runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"there are no runs in {tmp_path}\n"
    assert listed(capsys, tmp_path) == []
    assert main(["runs", str(tmp_path / "x")]) == 2
    assert capsys.readouterr().err == f"fastsac: there is no directory {tmp_path / 'x'}\n"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (469, "7 min 49 s"),
        (3600, "1 h"),
        (3659, "1 h"),
        (7265, "2 h 1 min"),
        (86_400 * 3 + 3_600, "3 d 1 h"),
        (86_400 * 3 + 60, "3 d"),
    ],
)
def test_durations(seconds, words):
    assert duration(seconds) == words


def test_a_real_run_is_read_back(tmp_path):
    config = preset_config(
        "cartpole_balance",
        run_dir=str(tmp_path / "run"),
        num_envs=3,
        total_steps=300,
        learning_starts=150,
        batch_size=32,
        replay_capacity=400,
        eval_every=150,
        eval_episodes=1,
        final_eval_episodes=1,
        sac=fastsac.SACConfig(hidden_sizes=(16, 16)),
    )
    result = fastsac.train(config)
    curve, steps = read_metrics(result.run_dir)
    assert steps == 300 and curve["step"].tolist() == [150, 300]
    assert curve["eval_return"][-1] == pytest.approx(result.evaluation.mean)
    row = describe(result.run_dir)
    assert row["eval_return"] == pytest.approx(result.evaluation.mean)
    assert row["state"] in ("finished", "stopped") and row["total_steps"] == 300
