"""The README's Python examples run as they are written."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastsac
from fastsac.cli import main

README = Path(__file__).parents[1] / "README.md"
EXAMPLE, GYMNASIUM, DRIVE, TASK_FILE = re.findall(
    r"```python\n(.*?)```", README.read_text(), re.DOTALL
)


def test_the_python_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(EXAMPLE, str(README), "exec"), names)
    assert names["action"].shape == (1,)
    assert names["result"].updates == 200
    assert fastsac.load_policy(names["result"].run_dir).task == "cartpole_swingup"


def test_the_example_of_gymnasium_runs():
    names: dict = {}
    exec(compile(GYMNASIUM, str(README), "exec"), names)
    assert names["obs"].shape == (64, 24) and names["envs"].episode_lengths.tolist() == [1] * 64
    assert names["env"].observation_space.shape == (24,)
    names["envs"].close()


def test_the_exported_file_alone_drives_dm_control(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = ["--num-envs", "4", "--total-steps", "1600", "--learning-starts", "400"]
    flags += ["--hidden-sizes", "32", "32", "--final-eval-episodes", "1", "--run-dir", "run"]
    assert main(["train", "cartpole_swingup", "--preset", "cpu", *flags]) == 0
    assert main(["export", "run", "-o", "policy.onnx"]) == 0
    capsys.readouterr()
    assert main(["eval", "run", "--episodes", "1", "--json"]) == 0
    (expected,) = json.loads(capsys.readouterr().out)["returns"]
    assert len(DRIVE.splitlines()) == 15
    alone = "\nimport sys; assert not {'fastsac', 'torch'} & set(sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", DRIVE + alone], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    # The actions differ by 1e-7, in each of 1000 control steps. Measured: 7e-5.
    assert float(done.stdout.removeprefix("return ")) == pytest.approx(expected, abs=0.01)


def test_a_task_of_ones_own_trains_and_is_scored(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name = re.match(r"# (\w+\.py)\n", TASK_FILE).group(1)
    Path(name).write_text(TASK_FILE)
    flags = ["--num-envs", "4", "--learning-starts", "400", "--total-steps", "600"]
    assert main(["train", name, *flags, "--run-dir", "run", "--final-eval-episodes", "1"]) == 0
    assert main(["eval", "run", "--episodes", "2"]) == 0
    printed = capsys.readouterr().out
    returns = [float(x) for x in re.findall(r"episode \d: ([\d.]+)", printed)]
    assert len(returns) == 2 and all(0 < r < 250 for r in returns)
