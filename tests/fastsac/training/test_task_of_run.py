"""A run keeps its task: it is evaluated, filmed, exported and gone on with wherever it is."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mujoco
import numpy as np
import pytest
from PIL import Image

from fastsac.envs import UnknownTask, make
from fastsac.envs.kept_tasks import keep, kept
from fastsac.envs.registry import find, held
from fastsac.runs.directory import TASK

# A Menagerie-like folder: a scene that includes a robot, which includes its defaults.
FILES = {
    "robot/scene.xml": """<mujoco><include file="parts/robot.xml"/>
  <asset><hfield name="h" file="hills.png" size="1 1 0.1 0.1"/></asset>
  <worldbody><geom type="hfield" hfield="h" pos="0 0 -2"/></worldbody></mujoco>""",
    "robot/parts/robot.xml": """<mujoco><compiler meshdir="assets" texturedir="assets"/>
  <include file="options.xml"/>
  <asset><mesh name="m" file="tetra.obj"/><texture name="t" type="2d" file="skin.png"/>
  <material name="t" texture="t"/></asset>
  <worldbody><body name="cart"><joint name="x" type="slide" axis="1 0 0"/>
  <geom type="mesh" mesh="m" material="t"/></body></worldbody>
  <actuator><motor joint="x" ctrlrange="-1 1"/></actuator></mujoco>""",
    "robot/options.xml": '<mujoco><option timestep="0.01" gravity="0 0 0"/></mujoco>',
    "robot/assets/tetra.obj": "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 2 3 4\n"
    "f 1 4 3\n",
    "tasks/gains.py": "from signs.plus import PLUS\nGAIN = 2.0 * PLUS\n",
    "tasks/signs/__init__.py": "",
    "tasks/signs/plus.py": "PLUS = 1.0\n",
    "tasks/shift.txt": "0.5",
}
HEAD = """
import mujoco, fastsac
from pathlib import Path
from gains import GAIN
HERE = Path(__file__).parent
SHIFT = float((HERE / "shift.txt").read_text())
"""
TAIL = """
fastsac.register(
    "push", MODEL, lambda physics: {"state": physics.qpos, "speed": physics.qvel},
    lambda physics: SHIFT + GAIN * physics.qpos[0],
    initialize=lambda physics, random: physics.data.qpos.fill(random.uniform(-1, 1)),
    time_limit=0.2,
)
"""
KINDS = {
    "mjcf": 'MODEL = "../robot/scene.xml"',
    "mjb": 'MODEL = HERE / "push.mjb"',
    "spec": 'MODEL = mujoco.MjSpec.from_file(str(HERE.parent / "robot" / "scene.xml"))',
    "text": 'MODEL = (HERE / "scene.xml").read_text()',
}
TINY = ["--total-steps", "60", "--learning-starts", "40", "--batch-size", "8", "--num-envs", "2"]
TINY += ["--hidden-sizes", "8", "8", "--final-eval-episodes", "1", "--engine", "native"]
COMMANDS = """
import json, sys
from fastsac.cli import main
for argv in json.loads(sys.argv[1]):
    print("$", main(argv), flush=True)
"""


def project(root, kind="mjcf"):
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "robot/assets/hills.png").write_bytes(_picture("L"))
    (root / "robot/assets/skin.png").write_bytes(_picture("RGB"))
    model = mujoco.MjModel.from_xml_path(str(root / "robot/scene.xml"))
    mujoco.mj_saveModel(model, str(root / "tasks/push.mjb"), None)
    if kind == "text":  # as if it were a file beside the task's
        shutil.copytree(root / "robot", root / "tasks", dirs_exist_ok=True)
    (root / "tasks/push.py").write_text(f"{HEAD}{KINDS[kind]}{TAIL}")
    return root / "tasks/push.py"


def _picture(mode):
    shape = (4, 4) if mode == "L" else (4, 4, 3)
    file = io.BytesIO()
    pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    Image.fromarray(pixels, mode).save(file, "png")
    return file.getvalue()


def fastsac(*commands, home, cwd):
    """Runs commands in one process of an empty home; returns each's output, all, and stderr."""
    home.mkdir(exist_ok=True)
    env = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    if path := env.get("PYTHONPATH"):
        env["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, path.split(os.pathsep)))
    argv = [sys.executable, "-c", COMMANDS, json.dumps(commands)]
    done = subprocess.run(argv, env=env, cwd=cwd, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("$")[:-1], done.stdout, done.stderr


def returns(output):
    return json.loads(output.splitlines()[-1])["returns"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.timeout(1200)
def test_a_run_goes_anywhere_without_its_tasks_file(kind, tmp_path):
    task = project(tmp_path / "mein Projekt ä", kind)
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere ö"
    flags = [*TINY, "--run-dir", str(tmp_path / "run")]
    evaluate = ["eval", "run", "--episodes", "2", "--json"]
    cwd = tmp_path
    out, _, _ = fastsac(["train", str(task), *flags], evaluate, home=home, cwd=cwd)
    before = returns(out[1])
    shutil.rmtree(tmp_path / "mein Projekt ä")
    elsewhere.mkdir()
    (tmp_path / "run").rename(elsewhere / "run")
    commands = [evaluate, [*evaluate, "--backend", "engine"], ["export", "run", "-o", "p.pt2"]]
    commands += [["train", "--resume", "run", "--total-steps", "90"], ["runs", "."]]
    commands += [["report", "run", "-o", "r.html"]] + [["eval", "run/best.pt", "--json"]]
    out, stdout, stderr = fastsac(*commands, home=tmp_path / "home 2", cwd=elsewhere)
    assert stdout.count("$ 0") == len(commands), stderr
    assert returns(out[0]) == before and len(returns(out[1])) == 2
    assert "going on at step 60" in stderr and (elsewhere / "p.pt2").exists()
    assert "edited" not in stderr and "Traceback" not in stderr
    assert not [*(elsewhere / "run").rglob("__pycache__")], "a run holds what its task is"


def content(model):
    buffer = np.empty(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return buffer.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_is_what_the_task_takes_and_its_model_to_the_last_bit(kind, tmp_path):
    task = project(tmp_path / "project", kind)
    (tmp_path / "project/tasks/private.txt").write_text("nobody's business")
    keep(find(str(task)), tmp_path / "run")
    root = Path(json.loads((tmp_path / "run/task.json").read_text())["root"])
    kept_files = {
        str(root.relative_to(tmp_path / "project") / file.relative_to(tmp_path / "run/files"))
        for file in (tmp_path / "run/files").rglob("*")
        if file.is_file()
    }
    python = {name for name in FILES if name.startswith("tasks/")} | {"tasks/push.py"}
    robot = {*FILES, "robot/assets/hills.png", "robot/assets/skin.png"} - python
    in_tasks = {name.replace("robot/", "tasks/", 1) for name in robot}
    of_kind = {"mjcf": robot, "spec": robot, "mjb": {"tasks/push.mjb"}, "text": in_tasks}
    assert kept_files == python | of_kind[kind]
    original = content(find(str(task)).load(0).physics.model.ptr)
    (tmp_path / "project").rename(tmp_path / "moved")
    assert content(kept(tmp_path / "run").load(0).physics.model.ptr) == original


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "engine", ["native", *(pytest.param(x, marks=pytest.mark.slow) for x in ("mjx", "warp"))]
)
def test_a_kept_task_runs_on_every_engine(engine, tmp_path):
    if engine == "warp":
        pytest.importorskip("warp")
    task = project(tmp_path / "project")
    path = tmp_path / "project/robot/scene.xml"  # MJX and Warp hold no mesh upon a height field
    path.write_text(
        path.read_text().replace('type="hfield" hfield="h"', 'type="sphere" size="0.1"')
    )
    keep(find(str(task)), tmp_path / "run")
    shutil.rmtree(tmp_path / "project")
    with held({str(task): kept(tmp_path / "run")}):
        env = make(str(task), num_envs=2, engine=engine)
    obs, _ = env.reset(seed=0)
    reward = env.step(obs[:, :1] * 0)[1]
    env.close()
    np.testing.assert_allclose(reward, 0.5 + 2 * obs[:, 0], rtol=1e-5)


def test_another_muJoCo_compiles_the_kept_files(tmp_path, monkeypatch, caplog):
    task = project(tmp_path / "project")
    absolute = KINDS["mjcf"].replace('"../', f'"{tmp_path}/project/')
    task.write_text(f"{HEAD}{absolute}{TAIL}")
    keep(find(str(task)), tmp_path / "run")
    shutil.rmtree(tmp_path / "project")
    monkeypatch.setattr(mujoco, "__version__", "9.9.9")
    assert kept(tmp_path / "run").load(0).physics.model.nmesh == 1
    assert "push was compiled by MuJoCo 3" in caplog.text and "anew by 9.9.9" in caplog.text


def test_an_edit_of_the_source_is_said_once_and_changes_nothing(tmp_path, caplog):
    task = project(tmp_path / "project")
    keep(find(str(task)), tmp_path / "run")
    (tmp_path / "project/tasks/gains.py").write_text("GAIN = 7.0")
    env = kept(tmp_path / "run").load(0)
    env.reset()
    assert env.task.get_reward(env.physics) == pytest.approx(0.5 + 2 * env.physics.data.qpos[0])
    assert caplog.text.count("gains.py was edited since the run began, which keeps to what") == 1
    env = find(str(task)).load(0)  # the source's, never the kept one's
    env.reset()
    assert env.task.get_reward(env.physics) == pytest.approx(0.5 + 7 * env.physics.data.qpos[0])


@pytest.mark.parametrize("name", ["model.mjb", "files/tasks/push.py", "task.json"])
def test_what_is_kept_and_damaged_is_refused(name, tmp_path):
    keep(find(str(project(tmp_path / "project"))), tmp_path / "run")
    file = tmp_path / "run" / name
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(UnknownTask, match=f"{name} is damaged"):
        kept(tmp_path / "run")


def test_a_file_that_is_edited_while_the_run_begins(tmp_path, monkeypatch):
    task = find(str(project(tmp_path / "project")))
    (tmp_path / "project/tasks/shift.txt").write_text("3")
    keep(task, tmp_path / "first")
    assert (tmp_path / "first/files/tasks/shift.txt").read_text() == "0.5", "as it was read"
    monkeypatch.setattr("fastsac.envs.task_files._SMALL", -1)
    monkeypatch.setattr("fastsac.envs.task_files._contents", {})
    task = find(str(tmp_path / "project/tasks/push.py"))
    (tmp_path / "project/tasks/shift.txt").write_text("4")
    with pytest.raises(OSError, match="shift.txt was edited while the run began"):
        keep(task, tmp_path / "run")
    assert kept(tmp_path / "run") is None


def test_helpers_of_one_name_are_each_tasks_own(tmp_path):
    gains = {}
    for folder, gain in (("one", 2.0), ("two", 5.0)):
        task = project(tmp_path / folder)
        (tmp_path / folder / "tasks/gains.py").write_text(f"GAIN = {gain}")
        task.write_text(task.read_text().replace('"push"', f'"{folder}"'))
        gains[str(task)] = gain
    for task, gain in [*gains.items()] * 2:
        env = find(task).load(0)
        env.reset()
        shown = env.task.get_reward(env.physics) - 0.5
        assert shown == pytest.approx(gain * env.physics.data.qpos[0])


def test_read_only_symlinked_and_too_large(tmp_path, monkeypatch, caplog):
    task = project(tmp_path / "project")
    (tmp_path / "link.py").symlink_to(task)
    for file in [*(tmp_path / "project").rglob("*")]:
        file.chmod(0o555 if file.is_dir() else 0o444)
    keep(find(str(tmp_path / "link.py")), tmp_path / "run")
    assert kept(tmp_path / "run").name == "push"
    monkeypatch.setattr("fastsac.envs.kept_tasks._MOST", 100)
    keep(find(str(task)), tmp_path / "other")
    assert "more than a run keeps" in caplog.text and not (tmp_path / "other").exists()
    for file in [*(tmp_path / "project").rglob("*")]:
        file.chmod(0o755)


def test_runs_without_a_file_keep_none(tmp_path):
    keep(find("cartpole_balance"), tmp_path / TASK)
    assert not [*tmp_path.iterdir()] and kept(tmp_path / TASK) is None
