"""The wheel: everything is in it, and it works where nothing of the repository is."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOMES = {"fastsac": "fastsac", "kernels": "fastsac/kernels", "envs": "fastsac/envs"}
HOMES |= {"bench": "fastsac/bench", "results/policies": "fastsac/policies"}
HOMES |= {"results/published": "fastsac/published"}
LEFT_OUT = {"results", "plots", "__pycache__"}


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy: setuptools writes beside the sources."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    for folder in HOMES:
        ignored = shutil.ignore_patterns(*LEFT_OUT)
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignored)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", out, copy)
    (built,) = out.glob("*.whl")
    return built


@pytest.mark.slow
def test_every_module_is_in_the_wheel(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    ours = {
        f"{home}/{path.relative_to(ROOT / folder)}"
        for folder, home in HOMES.items()
        for path in (ROOT / folder).rglob("*.py")
        if not LEFT_OUT & set(path.parts)
    }
    assert len(ours) > 150 and ours <= names
    assert {"fastsac/py.typed", "fastsac/show/report.html", "fastsac/show/suite.html"} <= names
    shipped = {
        f"{HOMES[folder]}/{path.name}"
        for folder in ("results/policies", "results/published")
        for path in (ROOT / folder).iterdir()
    }
    assert len(shipped) > 15 and shipped <= names


@pytest.mark.slow
def test_it_works_by_itself(wheel, tmp_path):
    """All but its dependencies: those are this environment's."""
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", tmp_path, wheel)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    code = (
        "import fastsac; env = fastsac.make('reacher_easy', num_envs=2);"
        "print(fastsac.__file__, tuple(env.reset(seed=0)[0].shape)); env.close()"
    )
    printed = run(sys.executable, "-c", code, env=environment, cwd=tmp_path)
    assert printed == f"{tmp_path}/fastsac/__init__.py (2, 6)\n"
    command = tmp_path / "bin" / "fastsac"
    assert "walker_run" in run(str(command), "tasks", env=environment, cwd=tmp_path)
    assert "zoo:walker_run" in run(str(command), "zoo", env=environment, cwd=tmp_path)
    code = "import fastsac; print(fastsac.load_policy('zoo:walker_run').task)"
    assert run(sys.executable, "-c", code, env=environment, cwd=tmp_path) == "walker_run\n"


CLIENT = """
import torch

import fastsac

env = fastsac.make("walker_run", num_envs=4)
obs, reward, terminated, truncated, info = env.step(torch.zeros(4, env.action_dim))
agent = fastsac.SAC(env.obs_dim, env.action_dim, fastsac.SACConfig(), "cpu", seed=0)
replay = fastsac.ReplayBuffer(1000, env.obs_dim, env.action_dim, "cpu")
loss: torch.Tensor = agent.learn(replay, 8)["critic_loss"]
result = fastsac.train(fastsac.TrainConfig(task="walker_run"))
where: str = result.run_dir.name
fastsac.make("walker_run", num_envs="four")
wrong: int = agent.act(torch.zeros(1, env.obs_dim))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "checker, flag", [("mypy", "--python-executable"), ("pyright", "--pythonpath")]
)
def test_a_type_checker_sees_the_types_from_outside(wheel, tmp_path, checker, flag):
    pytest.importorskip(checker)
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", tmp_path, wheel)
    client = tmp_path / "client.py"
    client.write_text(CLIENT)
    found = subprocess.run(
        [sys.executable, "-m", checker, flag, sys.executable, client.name],
        env=os.environ | {"MYPYPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=250,
    )
    lines = {int(n) for n in re.findall(r"client\.py:(\d+):.*error", found.stdout)}
    last = CLIENT.count("\n")
    assert lines == {last - 1, last}, found.stdout + found.stderr
