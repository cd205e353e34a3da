"""The table of tasks over time: files and models that are edited, and names registered again."""

import os
import re
from pathlib import Path

import pytest
import torch

import fastsac
from fastsac.envs import UnknownTask
from fastsac.envs.registry import find, held
from fastsac.training.presets import preset_config

MODEL = """<mujoco>
  <option timestep="0.01"/>
  <worldbody>
    <body><joint name="x" type="slide" axis="1 0 0"/><geom size="0.1" mass="2"/></body>
  </worldbody>
  <actuator><motor joint="x" ctrlrange="-1 1"/></actuator>
</mujoco>"""
CODE = """
from pathlib import Path
import fastsac
fastsac.register(
    "{name}", Path(__file__).with_name("model.xml"), lambda physics: {{"state": physics.qpos}},
    lambda physics: {reward} + 0 * physics.qpos[0], time_limit=0.2{more},
)
"""


@pytest.fixture(autouse=True)
def model(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("model.xml").write_text(MODEL)


def write(reward, name="edited", more="", file="task.py"):
    Path(file).write_text(CODE.format(name=name, reward=reward, more=more))


@pytest.fixture
def reward(make):
    """Returns reward(task): what a step of it gives."""

    def of(task):
        env = make(task)
        env.reset()
        return env.step(torch.zeros(1, env.action_dim))[1].item()

    return of


def register(reward, **more):
    fastsac.register(
        "cell", MODEL, lambda p: {"x": p.qpos}, lambda p: reward + 0 * p.qpos[0], **more
    )


@pytest.mark.parametrize("name", ["task.py", "task.py:edited", "edited"])
def test_a_file_that_was_edited_gives_the_new_task(name, reward, make):
    write(1.0)
    before = make("task.py")
    assert reward("task.py") == 1
    write(2.0)
    assert reward(name) == 2
    before.reset()
    assert before.step(torch.zeros(1, 1))[1].item() == 1, "an env keeps what it was made of"


def test_an_edit_of_the_same_length_and_time_is_seen(reward):
    write(1.0)
    assert reward("task.py") == 1
    stat = os.stat("task.py")
    write(3.0)
    os.utime("task.py", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert reward("task.py") == 3


def test_names_that_a_file_no_longer_registers_are_gone_and_new_ones_there(reward):
    write(1.0, name="old")
    assert reward("task.py") == 1
    write(2.0, name="new")
    assert reward("task.py") == 2
    assert "new" in fastsac.tasks() and "old" not in fastsac.tasks()
    with pytest.raises(UnknownTask, match="registers new: name one as"):
        find("task.py:old")


def test_an_edit_that_breaks_the_file_is_said_each_time_until_it_is_mended(reward):
    write(1.0)
    assert reward("task.py") == 1
    Path("task.py").write_text("1 / 0")
    for _ in range(2):
        with pytest.raises(UnknownTask, match="task.py: ZeroDivisionError"):
            find("task.py")
    write(4.0)
    assert reward("task.py") == reward("edited") == 4


def test_an_edited_model_is_the_next_envs(make):
    write(1.0)
    assert make("task.py").suite.model.body_mass[1] == 2
    Path("model.xml").write_text(MODEL.replace('mass="2"', 'mass="5"'))
    assert make("task.py").suite.model.body_mass[1] == 5


@pytest.mark.parametrize("engine", ["native", "mjx"])
@pytest.mark.parametrize("name", ["task.py", "by_path"])
def test_an_env_keeps_the_model_that_it_was_made_with(name, engine, make):
    write(1.0)
    functions = (lambda p: {"x": p.qpos}), (lambda p: p.qpos[0])
    fastsac.register("by_path", "model.xml", *functions, time_limit=0.2)
    env = make(name, engine=engine)
    Path("model.xml").write_text(MODEL.replace('type="slide"', 'type="slide" ref="0.5"'))
    for seed in range(2):  # initial states are drawn in threads, from the first reset on
        assert env.reset(seed=seed)[0].item() == 0
    assert make(name).reset()[0].item() == 0.5, "the next env is of the new one"


@pytest.mark.parametrize("model", ["path", "text", "relative"])
def test_paths_in_a_task_file_are_relative_to_it(model, tmp_path, make, monkeypatch):
    folder = tmp_path / "a folder ö"
    (folder / "parts").mkdir(parents=True)
    (folder / "parts" / "slide.xml").write_text(MODEL)
    including = '<mujoco><include file="parts/slide.xml"/></mujoco>'
    (folder / "model.xml").write_text(including)
    (tmp_path / "task.py").unlink(missing_ok=True)
    write(1.0, file=folder / "task.py")
    given = {"path": '"parts/slide.xml"', "text": repr(including), "relative": '"./model.xml"'}
    code = (folder / "task.py").read_text()
    code = code.replace('Path(__file__).with_name("model.xml")', given[model])
    (folder / "task.py").write_text(code)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    task = str(folder / "task.py")
    assert make(task).suite.model.body_mass[1] == 2
    edited = MODEL.replace('mass="2"', 'mass="5"')
    (folder / "parts" / "slide.xml").write_text(edited)
    assert make(task).suite.model.body_mass[1] == 5, "what it includes was edited"
    (folder / "parts" / "slide.xml").rename(folder / "parts" / "gone.xml")
    with pytest.raises(UnknownTask, match="slide.xml"):
        make(task)


def test_what_is_held_stays_as_it_was_and_ends_with_the_last_who_holds(make, reward):
    write(1.0)
    find("task.py")
    write(2.0)
    with held():
        assert reward("task.py") == 2, "as it is when it is first asked for"
        with held():
            Path("model.xml").write_text(MODEL.replace('mass="2"', 'mass="5"'))
            write(3.0)
            assert reward("task.py") == 2
        assert make("task.py").suite.model.body_mass[1] == 2
        assert find("task.py").load(0).physics.model.body_mass[1] == 2
    assert reward("task.py") == 3 and make("task.py").suite.model.body_mass[1] == 5


def test_an_episodes_draws_do_not_reach_the_model_that_is_held():
    def widen(physics, random):
        physics.named.model.geom_size[:] = random.uniform(1, 2)

    register(1.0, initialize=widen, randomised=("geom_size",))
    with held():
        for _ in range(2):
            env = find("cell").load(0)
            assert env.physics.model.geom_size[0, 0] == 0.1
            env.reset()
            assert env.physics.model.geom_size[0, 0] >= 1


def test_a_run_is_evaluated_on_what_it_trained_on(tmp_path):
    edit = 'import sys, pathlib\nfile = pathlib.Path(__file__)\nsys.modules["edits"].append(file)\n'
    edits = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "edits", edits)
        write(1.0)
        Path("task.py").write_text(edit + Path("task.py").read_text())
        small = dict(num_envs=2, total_steps=240, learning_starts=160, batch_size=16)
        small |= dict(replay_capacity=1000, final_eval_episodes=1, run_dir=str(tmp_path / "run"))
        small |= dict(sac=fastsac.SACConfig(hidden_sizes=(8,)), device="cpu", engine="native")
        config = preset_config("task.py", **small)
        original = fastsac.SAC.learn

        def learn(self, *args, **kwargs):  # somebody edits the file while it trains
            write(7.0)
            return original(self, *args, **kwargs)

        patch.setattr(fastsac.SAC, "learn", learn)
        result = fastsac.train(config)
    assert result.evaluation.mean == pytest.approx(10), "10 steps of 1"
    assert len(edits) == 1


def test_a_name_is_replaced_only_where_that_is_asked_for(reward):
    register(1.0)
    words = "'cell' is registered already: replace=True puts this one in its place"
    with pytest.raises(ValueError, match=re.escape(words)):
        register(2.0)
    assert reward("cell") == 1
    register(2.0, replace=True)
    register(3.0, replace=True)
    assert reward("cell") == 3
    with pytest.raises(ValueError, match="no attribute 'nothing'"):
        fastsac.register("cell", MODEL, lambda p: {"x": p.nothing}, lambda p: 0.0, replace=True)
    assert reward("cell") == 3, "one that cannot be leaves the one before"


@pytest.mark.parametrize("name", ["cheetah_run", "swimmer_swimmer9"])
def test_the_suites_tasks_are_not_replaced(name):
    with pytest.raises(ValueError, match="suite"):
        fastsac.register(name, MODEL, lambda p: {"x": p.qpos}, lambda p: p.qpos[0], replace=True)


def test_a_file_may_replace_what_another_registered(reward):
    write(1.0, file="one.py")
    assert reward("one.py") == 1
    write(2.0, file="two.py")
    with pytest.raises(UnknownTask, match="registered already"):
        find("two.py")
    write(2.0, file="two.py", more=", replace=True")
    assert reward("two.py") == 2
    # Each file is its own task's, whoever has the name now.
    assert (reward("one.py"), reward("two.py"), reward("one.py"), reward("edited")) == (1, 2, 1, 2)


def test_a_file_that_exits_when_it_is_edited_loses_no_task(reward):
    write(1.0)
    assert reward("task.py") == 1
    before = Path("task.py").read_text()
    Path("task.py").write_text("raise SystemExit(3)")
    with pytest.raises(UnknownTask, match="SystemExit: 3"):
        find("edited")
    Path("task.py").write_text(before)
    assert reward("edited") == 1
