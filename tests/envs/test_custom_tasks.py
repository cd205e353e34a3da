"""Tasks of one's own: by fastsac.register, by a Python file, and by number."""

import contextlib
import json
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import fastsac
from fastsac.cli import main
from fastsac.envs import UnknownTask, registry
from fastsac.training.evaluation import evaluate_run
from fastsac.training.presets import preset_config

DT, SUBSTEPS = 0.01, 2  # s, physics steps per action
MASS, FORCE = 2.0, 4.0  # kg, N at action 1 and gear 1
STEPS = 10  # control steps of an episode
SLIDER = f"""<mujoco>
  <option timestep="{DT}" gravity="0 0 0"/>
  <worldbody>
    <body><joint name="x" type="slide" axis="1 0 0"/><geom size="0.1" mass="{MASS}"/></body>
  </worldbody>
  <actuator><motor name="motor" joint="x" ctrlrange="-{FORCE} {FORCE}"/></actuator>
</mujoco>"""
EDGE = 1.5  # m from the middle; beyond it the episode ends


def observe(physics):
    return {"position": physics.qpos, "velocity": physics.qvel}


def velocity_per_gear(physics):
    return physics.qvel[0] / physics.model.actuator_gear[0, 0]


def place(physics, random):
    physics.named.data.qpos["x"] = random.uniform(-1, 1)
    physics.named.model.actuator_gear["motor", 0] = random.uniform(1, 3)


def beyond(physics):
    return jnp.abs(physics.qpos[0]) > EDGE


def register(name, mjcf=SLIDER, **changes):
    """Adds the sliding box, or a task that differs from it."""
    task = dict(
        observe=observe,
        reward=velocity_per_gear,
        terminate=beyond,
        initialize=place,
        randomised=("actuator_gear",),
        control_timestep=DT * SUBSTEPS,
        time_limit=DT * SUBSTEPS * STEPS,
    )
    fastsac.register(name, mjcf, **task | changes)


@contextlib.contextmanager
def own_table():
    """What is registered here is forgotten: a process of one's own, as far as tasks go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_TASKS", dict(registry._TASKS))
        patch.setattr(registry, "_FILES", dict(registry._FILES))
        yield


@pytest.fixture(scope="module", autouse=True)
def slider_is_registered():
    with own_table():
        register("slider")
        yield


@pytest.fixture(scope="module", params=["native", "mjx", "warp"])
def slider(request):
    """Three worlds of the sliding box."""
    if request.param == "warp":
        pytest.importorskip("warp")
    env = fastsac.make("slider", num_envs=3, engine=request.param)
    yield env
    env.close()


def force(env, value):
    return torch.full((env.num_envs, env.action_dim), float(value))


def test_newtons_law_with_each_worlds_own_gear(slider, close):
    """After two substeps of symplectic Euler: v = 2 dt F/m, x = x0 + 3 dt^2 F/m, F = gear * 4 N."""
    obs, _ = slider.reset(seed=0)
    state = slider.get_state()
    gear = state["actuator_gear"][:, 0, 0].double()
    assert len(set(gear.tolist())) == 3 and (gear >= 1).all() and (gear <= 3).all()
    close(obs[:, :1], state["qpos"], "float32")
    next_obs, reward, terminated, truncated, _ = slider.step(force(slider, 1))
    velocity = 2 * DT * FORCE / MASS * gear
    position = obs[:, 0] + 3 * DT**2 * FORCE / MASS * gear
    close(next_obs, torch.stack([position, velocity], dim=1), "float32")
    close(reward, [2 * DT * FORCE / MASS] * 3, "float32")  # whatever the gear
    assert not (terminated | truncated).any()


def test_the_reward_follows_a_worlds_model(slider, close):
    slider.reset(seed=0)
    gear = slider.get_state()["actuator_gear"].clone()
    gear[:, 0, 0] = torch.tensor([1.0, 2.0, 2.5])
    slider.set_state({"actuator_gear": gear, "qvel": np.ones((3, 1))})
    close(slider.step(force(slider, 0))[1], [1.0, 0.5, 0.4], "float32")


def test_an_episode_ends_by_terminate_or_by_the_time_limit(slider):
    slider.reset(seed=0)
    gear = slider.get_state()["actuator_gear"][:, 0, 0]
    position = slider.get_state()["qpos"].clone()
    position[1] = EDGE + 0.1
    slider.set_state({"qpos": position})
    obs, _, terminated, truncated, info = slider.step(force(slider, 0))
    assert terminated.tolist() == info["_final_obs"].tolist() == [False, True, False]
    assert not truncated.any() and not info["invalid"].any()
    assert info["final_obs"][1, 0] == pytest.approx(EDGE + 0.1) and abs(obs[1, 0]) <= 1
    changed = slider.get_state()["actuator_gear"][:, 0, 0] != gear
    assert changed.tolist() == [False, True, False]
    ends = []
    for step in range(2, STEPS + 2):
        _, _, terminated, truncated, _ = slider.step(force(slider, 0))
        assert not terminated.any()
        ends += [(step, world) for world in truncated.nonzero()[:, 0].tolist()]
    assert ends == [(STEPS, 0), (STEPS, 2), (STEPS + 1, 1)]


def test_initial_states_come_from_initialize_and_the_seed(make):
    def start(seed):
        env = make("slider", num_envs=20)
        assert env.max_episode_steps == STEPS
        env.reset(seed=seed)
        state = env.get_state()
        return torch.cat([state["qpos"][:, 0], state["actuator_gear"][:, 0, 0]])

    first = start(0)
    assert torch.equal(first, start(0)) and not torch.equal(first, start(1))
    assert len(set(first.tolist())) == 40 and first[:20].abs().max() <= 1
    # Each of 20 uniform draws misses an outer quarter with probability 3/4: 0.3% for each side.
    assert first[:20].min() < -0.5 and first[:20].max() > 0.5


def test_the_model_is_text_or_a_file(tmp_path, make):
    (tmp_path / "box.xml").write_text(SLIDER.replace('mass="2.0"', 'mass="3"'))
    including = tmp_path / "including.xml"  # finds the other file beside itself
    including.write_text('<mujoco><include file="box.xml"/></mujoco>')
    models = {"by_text": "\n  " + SLIDER, "by_path": tmp_path / "box.xml"}
    models["by_include"] = str(including)
    for name, mjcf in models.items():
        register(name, mjcf, initialize=None, randomised=())
        env = make(name)
        assert torch.equal(env.reset()[0], torch.zeros(1, 2)), "the default pose"
        mass = 2 if name == "by_text" else 3
        assert env.suite.model.body_mass[1] == mass and name in fastsac.tasks()
        assert env.step(force(env, 1))[0][0, 1] == pytest.approx(2 * DT * FORCE / mass)


POLE = """<mujoco>
  <option timestep="0.005"/>
  <worldbody>
    <geom name="floor" type="plane" size="2 2 0.1"/>
    <body name="pole" pos="0 0 0.45">
      <joint name="hinge" axis="0 1 0" damping="0.1"/>
      <geom name="rod" type="capsule" fromto="0 0 0 0 0 0.5" size="0.03" mass="1"/>
      <site name="tip" pos="0 0 0.5"/>
    </body>
  </worldbody>
  <actuator><general joint="hinge" dyntype="filter" dynprm="0.1" gainprm="3"/></actuator>
  <sensor><gyro name="spin" site="tip"/><touch name="touch" site="tip"/></sensor>
</mujoco>"""


def observe_pole(physics):
    return {
        "activation": physics.act,
        "angle": physics.joint("hinge").qpos,
        "spin": physics.sensor("spin").data,
        "tip": physics.site("tip").xpos,
        "touch": physics.sensor("touch").data,
        "upright": physics.body("pole").xmat[2, 2],  # a scalar
    }


def reversed_pole(physics):
    return dict(reversed(observe_pole(physics).items()))


def height(physics):
    """Of the tip above the rod's radius, which is each world's own."""
    rod = physics.model.geom("rod").id
    return physics.site("tip").xpos[2] - physics.model.geom_size[rod, 0]


def tip_over(physics, random):
    physics.data.qpos[0] = random.uniform(-1, 1)
    physics.named.model.geom_size["rod", 0] = random.uniform(0.02, 0.04)


UNSORTED = pytest.param("elop", reversed_pole)


@pytest.mark.parametrize(("name", "order"), [("pole", observe_pole), UNSORTED])
def test_it_is_a_dm_control_environment_too(name, order, dm, make, actions):
    register(
        name,
        POLE,
        observe=order,
        reward=height,
        terminate=lambda physics: physics.site("tip").xpos[2] < 0.1,
        initialize=tip_over,
        randomised=("geom_size",),
        time_limit=1,
    )
    env = make(name, num_envs=4, engine="native")
    env.reset()
    references = [dm(name, seed) for seed in range(4)]
    states = [reference.state() for reference in references]
    obs = env.set_state({k: np.concatenate([s[k] for s in states]) for k in states[0]})
    running, ended = set(range(4)), []
    rounding = dict(rtol=3e-7, atol=1e-7)  # of the engine's float32
    for world, reference in enumerate(references):
        np.testing.assert_allclose(obs[world], reference.obs, **rounding)
    for action in actions(env, 60):
        _, reward, terminated, truncated, info = env.step(action)
        for world in sorted(running):
            expected_obs, expected_reward, step = references[world].step(action[world].numpy())
            np.testing.assert_allclose(info["final_obs"][world], expected_obs, **rounding)
            np.testing.assert_allclose(reward[world], expected_reward, **rounding)
            assert step.last() == bool(terminated[world] | truncated[world])
            if step.last():
                assert bool(terminated[world]) == (step.discount == 0)
                ended.append(bool(terminated[world]))
                running.remove(world)
    assert not running and set(ended) == {True, False}, "one way of ending was not seen"


def test_training_ends_with_a_policy_for_it(tmp_path, capsys):
    small = dict(num_envs=2, total_steps=240, learning_starts=160, batch_size=16)
    small |= dict(replay_capacity=1000, final_eval_episodes=1)
    small |= dict(run_dir=str(tmp_path / "run"), sac=fastsac.SACConfig(hidden_sizes=(16, 16)))
    result = fastsac.train(preset_config("slider", **small))
    assert result.steps == 240 and result.updates == 80
    assert len(result.evaluation.returns) == 1 and np.isfinite(result.evaluation.mean)
    policy = fastsac.load_policy(tmp_path / "run")
    assert (policy.task, policy.obs_dim, policy.action_dim) == ("slider", 2, 1)
    assert -1 <= policy(np.zeros(2, np.float32))[0] <= 1
    again = evaluate_run(str(tmp_path / "run"), 1, result.evaluation.seed, "dm_control")
    assert again.returns == result.evaluation.returns


HEAD = """
from pathlib import Path
import fastsac
def add(name, mjcf=Path(__file__).with_name("model.xml"), gain=1.0):
    fastsac.register(
        name, mjcf, lambda physics: {"state": physics.qpos}, lambda physics: gain * physics.qpos[0],
        time_limit=0.2,
    )
if __name__ == "__main__":
    raise AssertionError("the file is not the program")
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes task files into a working directory with model.xml; with a table of their own."""
    monkeypatch.chdir(tmp_path)
    Path("model.xml").write_text(SLIDER)
    with own_table():
        yield lambda name, code: Path(name).write_text(HEAD + code)


def test_a_file_with_one_task_is_named_by_its_path(write, make):
    write("one.py", 'add("only")')
    for name in (f"{Path.cwd()}/one.py", "one.py", "./one.py", "one.py:only", "only"):
        env = make(name, num_envs=2)
        assert env.suite.task.full_name == "only" and env.reset()[0].shape == (2, 1)
    # Once run, a file is not run again: that would register its name twice.
    assert fastsac.tasks().count("only") == 1


def test_a_file_with_two_tasks_takes_the_name_as_well(write, make):
    write("two.py", 'add("first")\nadd("second", gain=3.0)')
    rewards = {}
    for name in ("first", "second"):
        env = make(f"{Path.cwd()}/two.py:{name}")
        env.reset()
        env.set_state({"qpos": [[0.5]]})
        rewards[name] = env.step(force(env, 0))[1].item()
    assert rewards == pytest.approx({"first": 0.5, "second": 1.5})
    for name in ("two.py", "two.py:third", "two.py:cheetah_run"):
        with pytest.raises(UnknownTask, match="two.py registers first, second: name one as two.p"):
            fastsac.make(name)


TINY = ["--total-steps", "60", "--learning-starts", "40", "--batch-size", "8", "--num-envs", "2"]
TINY += ["--hidden-sizes", "8", "8", "--final-eval-episodes", "1", "--engine", "native"]


@pytest.mark.parametrize(("task", "stem"), [("mine.py", "mine"), ("mine.py:other", "other")])
def test_train_and_eval_take_a_file(task, stem, write, capsys):
    write("mine.py", 'add("mine_task")' + ('\nadd("other")' if ":" in task else ""))
    with own_table():
        assert main(["train", task, *TINY]) == 0
    (run,) = Path("runs").iterdir()
    assert run.name.startswith(f"{stem}-")
    assert json.loads((run / "config.json").read_text())["task"] == os.path.abspath(task)
    with own_table():  # as in another process: the file is run again
        assert main(["eval", str(run), "--episodes", "2", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out.splitlines()[-1])["backend"] == "dm_control"


def nobody(physics):
    return physics.body("nobody").xpos[0]


SENTENCES = {
    "taken": (dict(name="slider"), "'slider' is registered already"),
    "of the suite": (dict(name="cheetah_run"), "'cheetah_run' is registered already"),
    "odd name": (dict(name="my task"), "letters, digits, - and _, got 'my task'"),
    "no name": (dict(name=""), "letters, digits, - and _, got ''"),
    "no such path": (dict(mjcf="nowhere/box.xml"), "bad: .*nowhere/box.xml"),
    "timestep": (dict(control_timestep=0.015), r"0.015\) must be an integer multiple"),
    "unknown body": (dict(observe=lambda p: {"x": nobody(p)}), "Invalid name 'nobody'"),
    "unknown field": (dict(observe=lambda p: {"x": p.qpso}), "no attribute 'qpso'"),
    "unknown model field": (dict(randomised=("body_mas",)), "no attribute 'body_mas'"),
    "unknown joint": (dict(initialize=lambda p, r: p.named.data.qpos["y"]), "bad: .*'y'"),
    "broken MJCF": pytest.param(dict(mjcf="<mujoco>"), "XML parse error"),
    "unknown in reward": pytest.param(dict(reward=nobody), "'nobody'"),
    "unknown in terminate": pytest.param(dict(terminate=nobody), "'nobody'"),
}


@pytest.mark.parametrize(("changes", "words"), SENTENCES.values(), ids=SENTENCES.keys())
def test_a_task_that_cannot_be_gets_a_sentence(changes, words):
    before = fastsac.tasks()
    with pytest.raises(ValueError, match=words) as error:
        register(**{"name": "bad"} | changes)
    assert "\n" not in str(error.value), "one sentence, one line"
    assert fastsac.tasks() == before


FILES = {
    "no file": (None, "there is no file '"),
    "no task": ("", "task.py registers no task"),
    "two tasks": ("add('a')\nadd('b')", "task.py registers a, b: name one as "),
    "broken model": pytest.param("add('a', 'nowhere.xml')", "nowhere.xml"),
    "taken": pytest.param("add('cheetah_run')", "is registered already"),
    "syntax": pytest.param("add(", "task.py"),
}


@pytest.mark.parametrize(("code", "words"), FILES.values(), ids=FILES.keys())
def test_a_file_that_gives_no_task_gets_a_sentence(code, words, write, capsys):
    if code is not None:
        write("task.py", code)
    with pytest.raises(UnknownTask, match=words):
        fastsac.make("task.py")
    assert main(["train", "task.py", *TINY]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and words in lines[0]
    assert not Path("runs").exists()


# Of 4 joints, 2 to the target and 3 velocities of each body; of 3 masses; of a cart and 4 poles.
NUMBERED = [("swimmer_swimmer5", 21, 4), ("lqr_lqr_3_2", 6, 2), ("cartpole_4_poles", 14, 1)]


@pytest.mark.parametrize(("name", "obs_dim", "action_dim"), NUMBERED)
def test_tasks_by_number(name, obs_dim, action_dim, dm, make):
    env = make(name, num_envs=2)
    assert dm(name, 0).obs.shape == (env.obs_dim,)
    assert (env.obs_dim, env.action_dim) == (obs_dim, action_dim)
    assert name not in fastsac.tasks() and env.reset()[0].shape == (2, obs_dim)


NO_NUMBERS = {
    "swimmer_swimmer2": "three links at least",
    "lqr_lqr_2_3": "at most one actuator a body",
    "lqr_lqr_0_0": "a body at least",
    "cartpole_0_poles": "a pole at least",
    "cartpole_4_pole": "unknown task 'cartpole_4_pole'",
}


@pytest.mark.parametrize(("name", "words"), NO_NUMBERS.items())
def test_numbers_that_make_no_task_get_a_sentence(name, words):
    with pytest.raises(UnknownTask, match=words):
        fastsac.make(name)
