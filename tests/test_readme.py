"""The README's Python examples run as they are written."""

import re
from pathlib import Path

import fastsac
from fastsac.cli import main

README = Path(__file__).parents[1] / "README.md"
EXAMPLE, TASK_FILE = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def test_the_python_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(EXAMPLE, str(README), "exec"), names)
    assert names["action"].shape == (1,)
    assert names["result"].updates == 200
    assert fastsac.load_policy(names["result"].run_dir).task == "cartpole_swingup"


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
