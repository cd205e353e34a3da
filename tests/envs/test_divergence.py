"""Worlds that diverge or overflow: what they cost, what is counted, what is logged."""

import csv
import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from dm_control.rl.control import PhysicsError

import fastsac
from fastsac.envs import registry
from fastsac.envs.engines.native import NativeEngine
from fastsac.envs.initial_states import InitialStates
from fastsac.envs.registry import find
from fastsac.envs.suite import STATE, load_suite
from fastsac.envs.vector_env import VectorEnv
from fastsac.runs import checkpoint_file
from fastsac.training.presets import preset_config

SICK = 2  # the world that is poisoned
NAN = float("nan")


@pytest.fixture
def log(caplog):
    """Returns the messages so far of a logger; absl's level may be raised by another test."""
    caplog.set_level(logging.WARNING, logger="absl")
    return lambda name: [r.getMessage() for r in caplog.records if r.name == name]


@pytest.mark.parametrize(
    ("task", "engine", "num_envs"),
    [
        ("humanoid_walk", "native", 64),
        ("cheetah_run", "warp", 64),
        pytest.param("reacher_hard", "mjx", 4, marks=pytest.mark.slow),
    ],
)
def test_one_sick_world_leaves_the_others_alone(task, engine, num_envs, shared, actions):
    env = shared(task, num_envs, engine)
    runs = {}
    for poison in (0.0, NAN):
        env.reset(seed=0)
        qvel = env.get_state()["qvel"].clone()
        qvel[SICK, 1] += poison
        env.set_state({"qvel": qvel})
        first, *rest = actions(env, 30)
        runs[poison] = [env.step(first)]
        after = env.get_state()
        runs[poison] += [env.step(action) for action in rest]
    others = [world for world in range(num_envs) if world != SICK]
    for step, (ours, theirs) in enumerate(zip(runs[NAN], runs[0.0], strict=True)):
        for got, expected in zip(ours[:4], theirs[:4], strict=True):
            assert torch.equal(got[others], expected[others])
        obs, reward, terminated, truncated, info = ours
        assert torch.equal(info["final_obs"][others], theirs[4]["final_obs"][others])
        assert all(part.isfinite().all() for part in (obs, reward, info["final_obs"]))
        assert not terminated.any()
        sick = torch.tensor([step == 0 and world == SICK for world in range(num_envs)])
        for flag in (truncated, info["invalid"], info["_final_obs"]):
            assert torch.equal(flag, sick)
    # The next episode is a fresh one: the state after it is that of the first row not yet used.
    source = InitialStates(load_suite(find(task)), seed=0, start=num_envs)
    fresh = source.take(1)
    source.close()
    assert set(STATE) <= after.keys() and (after.keys() - fresh.keys()) == set()
    for name, values in after.items():
        expected = torch.from_numpy(fresh[name][0]).to(values.dtype)
        assert values[SICK].isfinite().all() and torch.equal(values[SICK], expected), name


def test_the_fresh_episode_goes_on_as_dm_controls(dm, make, actions):
    """Nothing of the divergence is left in what a state does not hold."""
    env = make("humanoid_walk", num_envs=3, engine="native")
    env.reset(seed=0)
    env.set_state({"qpos": torch.full((3, 28), NAN)})
    assert env.step(torch.zeros(3, 21))[4]["invalid"].all()
    state = env.get_state()
    clean = make("humanoid_walk", num_envs=3, engine="native")
    clean.reset(seed=1)
    clean.set_state(state)
    for action in actions(env, 10):
        for ours, theirs in zip(env.step(action)[:4], clean.step(action)[:4], strict=True):
            assert torch.equal(ours, theirs)
    for name, value in env.get_state().items():
        assert torch.equal(value, clean.get_state()[name])


def test_a_divergence_in_a_step_that_failed_is_forgotten_by_reset(make, monkeypatch):
    env = make("humanoid_walk", num_envs=3, engine="native")
    first = env.reset(seed=0)[0]
    step = env.engine._step

    def steps_and_fails():
        step()
        raise RuntimeError("mujoco gave up on another world")

    qpos = env.get_state()["qpos"]
    qpos[1] = NAN
    env.set_state({"qpos": qpos})
    with monkeypatch.context() as patch:
        patch.setattr(env.engine, "_step", steps_and_fails)
        with pytest.raises(RuntimeError, match="gave up"):
            env.step(torch.zeros(3, 21))
    assert torch.equal(env.reset(seed=0)[0], first)
    assert not env.step(torch.zeros(3, 21))[4]["invalid"].any()


MUSCLE = """<mujoco>
  <worldbody>
    <body><joint name="x" type="slide"/><geom size="0.1" mass="2"/></body>
  </worldbody>
  <actuator>
    <general joint="x" ctrlrange="-1 1" dyntype="filter" dynprm="0.5" gainprm="1"/>
  </actuator>
</mujoco>"""


def test_an_actuators_rate_does_not_outlive_its_episode(make):
    """act_dot is in no state, and a reset's forward pass has no actuation that would write it."""
    fastsac.register(
        *("muscle", MUSCLE, lambda physics: {"rate": physics.act_dot}),
        *(lambda physics: physics.qpos[0],),
        **dict(time_limit=0.1),
    )
    env = make("muscle", num_envs=2, engine="native")
    env.reset(seed=0)
    done = False
    while not done:
        obs, _, _, truncated, info = env.step(torch.ones(2, 1))
        done = truncated.all()
    assert (info["final_obs"] > 0.5).all() and (obs == 0).all()


CART = """<mujoco>
  <option timestep="0.01" gravity="0 0 0"/>
  <worldbody>
    <body name="cart"><joint name="x" type="slide" axis="1 0 0"/><geom size="0.1" mass="2"/></body>
  </worldbody>
  <actuator><motor joint="x" ctrlrange="-1 1"/></actuator>
</mujoco>"""


def state_of(physics):
    return {"position": physics.qpos, "velocity": physics.qvel}


def cost(physics):
    return -(physics.qpos[0] ** 2)


def explode(physics, random):
    """Three episodes of ten begin with a velocity that MuJoCo gives up on."""
    physics.data.qpos[0] = random.uniform(-1, 1)
    if random.uniform() < 0.3:
        physics.data.qvel[0] = 1e12


def test_training_goes_on_through_divergence(tmp_path):
    fastsac.register("exploding", CART, state_of, cost, initialize=explode, time_limit=0.2)
    small = dict(num_envs=2, total_steps=240, learning_starts=160, batch_size=32)
    small |= dict(replay_capacity=1000, final_eval_episodes=6, engine="native")
    small |= dict(run_dir=str(tmp_path), sac=fastsac.SACConfig(hidden_sizes=(16, 16)))
    result = fastsac.train(preset_config("exploding", **small))
    assert result.steps == 240 and result.updates > 0
    assert len(result.evaluation.returns) == 6 and np.isfinite(result.evaluation.returns).all()
    assert 1 <= result.evaluation.diverged <= 5
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    (logged,) = [row for row in rows[-2:] if row["critic_loss"]]
    # 24 episodes of 10 steps if none diverged; one that does is invalid at its first step.
    assert 5 <= int(logged["invalid_transitions"]) <= 24
    for name in ("critic_loss", "actor_loss", "alpha", "q", "entropy"):
        assert np.isfinite(float(logged[name])), name
    agent = checkpoint_file.load(tmp_path)["agent"]
    for name in ("actor", "critics", "target_critics"):
        assert agent[name].isfinite().all(), name


def crowd(spheres, memory):
    """Two bodies of many spheres, 1 m apart: together they overflow MuJoCo's arena."""
    spheres = '<geom size="0.1" mass="0.1"/>' * spheres
    return f"""<mujoco>
      <size memory="{memory}"/>
      <option timestep="0.01" gravity="0 0 0"/>
      <worldbody>
        <body><joint name="a" type="slide" axis="1 0 0"/>{spheres}</body>
        <body pos="1 0 0"><joint name="b" type="slide" axis="1 0 0"/>{spheres}</body>
      </worldbody>
      <actuator>
        <motor joint="a" ctrlrange="-1 1"/><motor joint="b" ctrlrange="-1 1" gear="1e12"/>
      </actuator>
    </mujoco>"""


# Measured with MuJoCo 3.17: these fill one buffer only, and leave it enough stack to go on.
CROWDS = {"contactfull": crowd(20, "64K"), "cnstrfull": crowd(10, "128K")}
TOUCHING, STEP_LIMIT = 0.9, 10  # of joint a, m; control steps


@pytest.fixture
def crowded():
    """Returns a native env of three such worlds on two threads, the buffer full in one."""
    made = []

    def build(kind, full=(1,), num_threads=2):
        if f"crowd_{kind}" not in registry._TASKS:
            fastsac.register(f"crowd_{kind}", CROWDS[kind], state_of, cost, time_limit=0.2)
        engine = NativeEngine(load_suite(find(f"crowd_{kind}")), 3, num_threads)
        env = VectorEnv(engine, 3, torch.device("cpu"), seed=0)
        made.append(env)
        env.reset(seed=0)
        bring_together(env, full)
        return env

    yield build
    for env in made:
        env.close()


def bring_together(env, worlds):
    position = env.get_state()["qpos"]
    position[list(worlds), 0] = TOUCHING
    env.set_state({"qpos": position})


STILL = torch.zeros(3, 2)


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("kind", CROWDS)
def test_a_full_buffer_is_counted_and_the_world_goes_on(kind, num_threads, crowded, log):
    env = crowded(kind, num_threads=num_threads)
    counts = []
    for step in range(STEP_LIMIT):
        obs, _, _, truncated, info = env.step(STILL)
        assert not info["invalid"].any() and obs.isfinite().all()
        assert truncated.all() == truncated.any() == (step == STEP_LIMIT - 1)
        assert set(env.warnings) == {kind}
        counts.append(env.warnings[kind])
    assert counts == sorted(counts) and counts[0] > 0
    if kind == "cnstrfull":  # without any constraint the bodies stay: 2 substeps, once in each
        assert np.diff(counts).tolist() == [2] * (STEP_LIMIT - 1)
    for _ in range(STEP_LIMIT):  # of the next episode, which begins apart
        env.step(STILL)
    assert env.warnings == {kind: counts[-1]}
    (record,) = log("fastsac")
    assert record.startswith(f"crowd_{kind}: MuJoCo warns of {kind} in world 1;")
    assert not log("absl")


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [("badqpos", "qpos", NAN), ("badqvel", "qvel", 1e11), ("badqpos", "qpos", 1e11)],
)
def test_a_bad_state_is_counted_once(kind, name, value, make, log):
    env = make("reacher_hard", num_envs=3, engine="native")
    env.reset(seed=0)
    for time in (1, 2):
        state = env.get_state()[name]
        state[1, 0] = value
        env.set_state({name: state})
        assert env.step(torch.zeros(3, 2))[4]["invalid"].tolist() == [False, True, False]
        assert env.warnings == {kind: time}
        assert not env.step(torch.zeros(3, 2))[4]["invalid"].any()
    assert [kind in record for record in log("fastsac")] == [True]
    assert not log("absl")


def test_a_bad_acceleration_is_counted_once(crowded, log):
    env = crowded("cnstrfull", full=())
    env.step(STILL)
    pushed = STILL.clone()
    pushed[2, 1] = 1  # 1e12 N
    _, reward, _, truncated, info = env.step(pushed)
    assert info["invalid"].tolist() == truncated.tolist() == [False, False, True]
    assert reward[2] == 0 and (info["final_obs"][2] == 0).all()
    assert env.warnings == {"badqacc": 1}
    env.step(STILL)
    assert env.warnings == {"badqacc": 1}
    assert len(log("fastsac")) == 1 and not log("absl")


def test_counts_never_go_down(crowded):
    """A world whose buffer was full diverges."""
    env = crowded("cnstrfull", full=(1, 2))
    for _ in range(4):
        env.step(STILL)
    before = env.warnings["cnstrfull"]
    pushed = STILL.clone()
    pushed[1, 1] = 1
    assert env.step(pushed)[4]["invalid"].tolist() == [False, True, False]
    assert env.warnings["badqacc"] == 1
    assert env.warnings["cnstrfull"] >= before


def test_counts_after_resets(crowded):
    """A reset world starts to count from zero: nothing is counted twice, nothing lost."""
    env = crowded("cnstrfull")
    env.step(STILL)
    once = env.warnings["cnstrfull"]
    for time in (2, 3):
        env.reset(seed=time)
        assert env.warnings == {"cnstrfull": once * (time - 1)}
        env.step(STILL)
        assert env.warnings == {"cnstrfull": once * (time - 1)}
        bring_together(env, [0])
        env.step(STILL)
        assert env.warnings == {"cnstrfull": once * time}
    env.warnings["cnstrfull"] = -1  # a copy
    assert env.warnings == {"cnstrfull": once * 3}


def test_each_kind_is_reported_once_by_each_env(crowded, log):
    for env in (crowded("contactfull", full=(0, 2)), crowded("contactfull")):
        for _ in range(3):
            env.step(STILL)
    reports = [record.split("; ")[0] for record in log("fastsac")]
    text = "crowd_contactfull: MuJoCo warns of contactfull in world"
    assert reports == [f"{text} 0", f"{text} 1"] and not log("absl")


def diverge(reference):
    """Makes a dm_control environment of the same process diverge, in this thread."""
    reference.env.reset()
    reference.physics.data.qpos[0] = NAN
    with pytest.raises(PhysicsError, match="BADQPOS"):
        for _ in range(2):
            reference.step(np.zeros(2))


@pytest.mark.parametrize("elsewhere", [False, True])
def test_dm_controls_own_warnings_are_still_logged(elsewhere, crowded, dm, log):
    env = crowded("contactfull")
    env.step(STILL)
    assert not log("absl")
    reference = dm("reacher_hard", 0)
    if elsewhere:
        with ThreadPoolExecutor(1) as thread:
            thread.submit(diverge, reference).result()
    else:
        diverge(reference)
    (record,) = log("absl")
    assert "QPOS at DOF 0" in record
    env.step(STILL)
    assert log("absl") == [record]


@pytest.fixture
def too_small(make):
    """Three worlds whose arena is too small for MuJoCo to go on at all once the bodies meet."""
    fastsac.register("too_small", crowd(20, "32K"), state_of, cost, time_limit=0.2)
    env = make("too_small", num_envs=3, engine="native")
    env.reset(seed=0)
    return env


def test_they_are_logged_after_a_step_that_failed(too_small, dm, log):
    fast = {"qpos": [[0.79, 0.0]] * 3, "qvel": [[3.0, 0.0]] * 3}  # they meet in the next step
    too_small.set_state(fast)
    reference = dm("reacher_hard", 0)

    def fail_then_diverge():
        with pytest.raises(RuntimeError, match="out of memory"):
            too_small.engine._step()
        diverge(reference)

    with ThreadPoolExecutor(1) as thread:  # leaves this one as it is
        thread.submit(fail_then_diverge).result()
    assert len(log("absl")) == 1


def test_actuators_work_after_a_state_that_failed(too_small):
    push = torch.tensor([[1.0, 0.0]]).repeat(3, 1)
    expected = too_small.step(push)[0]
    assert (expected[:, 2] > 0).all()
    with pytest.raises(RuntimeError, match="out of memory"):
        bring_together(too_small, [1])
    too_small.reset(seed=0)
    assert torch.equal(too_small.step(push)[0], expected)
