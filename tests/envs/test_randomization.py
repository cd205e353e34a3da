"""Domain randomisation: drawn per world and episode, and what MuJoCo derives follows."""

import copy
import dataclasses

import mujoco
import numpy as np
import pytest
import torch

import fastsac
from fastsac.envs import EngineUnavailable
from fastsac.envs.engines.mjx import MjxEngine
from fastsac.envs.engines.native import NativeEngine
from fastsac.envs.physics import Physics
from fastsac.envs.registry import find
from fastsac.envs.suite import STATE, load_suite
from fastsac.envs.vector_env import VectorEnv

ENGINES = ("native", pytest.param("mjx", marks=pytest.mark.slow), "warp")
FROM_MASS = ("body_subtreemass", "body_invweight0", "dof_invweight0")
NO_ACTUATION = int(mujoco.mjtDisableBit.mjDSBL_ACTUATION)
QPOS = dict(rtol=0, atol=1e-9)
# An episode of reacher: float32 is 1e-6 off, 1% of a mass makes 1e-2.
FLOAT32_OBS = dict(rtol=0, atol=1e-5)
EPISODE = 10  # control steps of reacher here


def scaled(low, high):
    """Draws each value's own factor."""
    return lambda random, default: default * random.uniform(low, high, default.shape)


def shifted(by):
    return lambda random, default: default + random.uniform(-by, by, default.shape)


def same(random, default):
    return default


def other_finger(random, default):
    """Draws the radius of reacher's finger, m, 0.01 by default."""
    default[REACHER.geom("finger").id, 0] = random.uniform(0.005, 0.03)
    return default


REACHER = load_suite(find("reacher_hard")).model
WORLDS = 6


def _kind(engine):
    if engine == "warp":
        pytest.importorskip("warp")
        from fastsac.envs.engines.warp import WarpEngine

        return WarpEngine
    return {"native": NativeEngine, "mjx": MjxEngine}[engine]


@pytest.fixture(scope="module")
def reacher():
    """Returns an engine's reacher with drawn masses and fingers and short episodes."""
    made = {}

    def get(engine):
        if engine not in made:
            drawn = {"body_mass": scaled(0.5, 2), "geom_size": other_finger}
            suite = load_suite(find("reacher_hard"), drawn)
            short = dataclasses.replace(suite, max_episode_steps=EPISODE)
            worlds = _kind(engine)(short, WORLDS)
            made[engine] = VectorEnv(worlds, WORLDS, torch.device("cpu"), seed=0)
        return made[engine]

    yield get
    for env in made.values():
        env.close()


def masses(env, seed, episodes=3):
    """Returns body_mass (episodes, B, nbody) of the first episodes."""
    env.reset(seed=seed)
    drawn = [env.get_state()["body_mass"].double()]
    for step in range(1, EPISODE * (episodes - 1) + 1):
        ended = env.step(torch.zeros(WORLDS, 2))[3]
        assert ended.all() == ended.any() == (step % EPISODE == 0)
        now = env.get_state()["body_mass"].double()
        assert torch.equal(now, drawn[-1]) != ended.any(), "drawn anew with an episode, only"
        drawn += [now] if ended.any() else []
    return torch.stack(drawn).numpy()


def test_every_episode_of_every_world_draws_its_own(reacher):
    drawn, moving = masses(reacher("native"), seed=0), REACHER.body_mass > 0
    factors = drawn[..., moving] / REACHER.body_mass[moving]
    assert len(np.unique(factors)) == factors.size == 3 * WORLDS * 3
    assert (factors > 0.5).all() and (factors < 2).all()
    assert (drawn[..., ~moving] == 0).all()  # the world's own body
    np.testing.assert_array_equal(drawn, masses(reacher("native"), seed=0))
    assert not np.isin(drawn[..., moving], masses(reacher("native"), seed=1)).any()


@pytest.mark.parametrize("engine", ENGINES[1:])
def test_all_engines_draw_the_same(engine, reacher, close):
    close(masses(reacher(engine), seed=0), masses(reacher("native"), seed=0), "float32")
    native, state = (reacher(name).get_state() for name in ("native", engine))
    assert state.keys() <= native.keys()
    for name in ("body_mass", "geom_size", "geom_pos", *FROM_MASS):
        close(state[name], native[name], "float32", name)


@pytest.mark.parametrize("engine", ENGINES[1:])
def test_all_engines_step_the_same_worlds(engine, reacher, actions):
    def rollout(engine, factor=1.0):
        env = reacher(engine)
        env.reset(seed=0)
        obs = [env.set_state({"body_mass": env.get_state()["body_mass"] * factor})]
        return torch.stack(obs + [env.step(a)[0] for a in actions(env, EPISODE - 1)])

    expected = rollout("native")
    np.testing.assert_allclose(rollout(engine), expected, **FLOAT32_OBS)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(rollout(engine, factor=1.01), expected, **FLOAT32_OBS)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_reward_reads_the_worlds_own_field(engine, reacher):
    """Reacher's reward is 1 where the gap is at most the radii of finger and target, else 0."""
    env = reacher(engine)
    obs, _ = env.reset(seed=0)
    state = env.get_state()
    target, finger = (REACHER.geom(name).id for name in ("target", "finger"))
    radii = state["geom_size"][:, [target, finger], 0].sum(dim=1)
    gap = radii.sort()[0][2:4].mean()  # half of them are as wide
    position = state["geom_pos"].clone()
    position[:, target, :2] -= obs[:, 2:4]  # onto the finger
    position[:, target, 0] += gap
    env.set_state({"geom_pos": position, "qvel": np.zeros((WORLDS, 2))})
    reward = env.step(torch.zeros(WORLDS, 2))[1]
    assert reward.tolist() == (gap <= radii).float().tolist() and reward.sum() == 3


def edited(env, state, names, world):
    """A model whose fields a user wrote by hand, and its data in the world's state."""
    model = copy.copy(env.suite.model)
    for name in names:
        getattr(model, name)[...] = state[name][world]
    mujoco.mj_setConst(model, mujoco.MjData(model))
    data = mujoco.MjData(model)
    for name in STATE:
        getattr(data, name)[...] = state[name][world]
    model.opt.disableflags |= NO_ACTUATION  # as dm_control resets
    mujoco.mj_forward(model, data)
    model.opt.disableflags &= ~NO_ACTUATION
    data.qacc_warmstart[:] = state["qacc_warmstart"][world]
    return model, data


TRAJECTORIES = {
    "inertia and friction": (
        "cheetah_run",
        {"body_mass": scaled(0.7, 1.3), "geom_friction": scaled(0.5, 1.5)},
    ),
    "actuators and damping": (
        "humanoid_walk",
        {"actuator_gear": scaled(0.8, 1.2), "dof_damping": scaled(0.5, 2)},
    ),
    "joints": ("walker_run", {"jnt_pos": shifted(0.02), "jnt_range": scaled(0.8, 1)}),
    "tendons": ("ball_in_cup_catch", {"body_mass": scaled(0.5, 2)}),
    "drawn models": ("lqr_lqr_3_2", {"body_mass": scaled(0.5, 2)}),
    "beside the task's own": ("swimmer_swimmer6", {"body_inertia": scaled(0.5, 2)}),
    "height field": (
        "quadruped_escape",
        {"body_mass": scaled(0.8, 1.2), "hfield_size": scaled(0.9, 1.1)},
    ),
    # mj_setConst also derives these, which decide whether a position is read at all.
    "centers of mass": pytest.param("cheetah_run", {"body_ipos": shifted(0.03)}),
    "positions": pytest.param("cheetah_run", {"geom_pos": shifted(0.03)}),
    "sizes": pytest.param("walker_run", {"geom_size": scaled(1, 1.5)}),
}


@pytest.mark.parametrize(("task", "randomize"), TRAJECTORIES.values(), ids=TRAJECTORIES.keys())
def test_trajectories_are_those_of_an_edited_model(task, randomize, make, actions):
    env = make(task, num_envs=2, engine="native", randomize=randomize)
    env.reset(seed=0)
    state = {k: v.numpy() for k, v in env.get_state().items()}
    own = (*randomize, *env.suite.task.randomised)
    worlds = [edited(env, state, own, world) for world in range(2)]
    for name in randomize:
        assert not np.array_equal(*state[name]), f"the worlds share {name}"
    derived = set(state) - set(STATE) - set(own)
    if "body_mass" in randomize:
        assert derived >= {*FROM_MASS}
    for name in derived:
        for world, (model, _) in enumerate(worlds):
            np.testing.assert_allclose(state[name][world], getattr(model, name), rtol=1e-12)
    for action in actions(env, 30):
        env.step(action)
        for (model, data), row in zip(worlds, action.numpy().astype(np.float64), strict=True):
            data.ctrl[:] = env.suite.control(row)
            for _ in range(env.suite.substeps):
                mujoco.mj_step2(model, data)
                mujoco.mj_step1(model, data)
    np.testing.assert_allclose(env.get_state()["qpos"], [d.qpos for _, d in worlds], **QPOS)


def test_what_follows_from_a_mass(make):
    """By hand: the subtree's mass is a sum, and a slider's inverse weight is that of its body."""
    env = make("cartpole_swingup", num_envs=3, randomize={"body_mass": scaled(0.5, 2)})
    env.reset(seed=0)
    state = env.get_state()
    mass = state["body_mass"]  # of world, cart, pole
    np.testing.assert_allclose(state["body_subtreemass"][:, 1], mass[:, 1] + mass[:, 2])
    for name in ("body_invweight0", "dof_invweight0"):
        assert len(torch.unique(state[name][:, 1:].reshape(3, -1), dim=0)) == 3
        assert not np.allclose(state[name], getattr(env.suite.model, name), rtol=0.01)


def test_nothing_else_becomes_per_world(make):
    env = make("cheetah_run", num_envs=2, randomize={"geom_friction": scaled(0.5, 2)})
    env.reset(seed=0)
    assert set(env.get_state()) == {*STATE, "geom_friction"}


def test_the_tasks_own_field_stays_the_tasks(make):
    """Reacher's target is where dm_control puts it, whatever else of geom_pos the user draws."""
    plain = make("reacher_hard", num_envs=3)
    plain.reset(seed=0)
    geoms = [plain.suite.model.geom(name).id for name in ("target", "finger", "arm")]
    target, *arm = geoms

    def move_arm(random, default):
        default[arm] += random.uniform(-0.01, 0.01, (2, 3))
        return default

    env = make("reacher_hard", num_envs=3, randomize={"geom_pos": move_arm})
    env.reset(seed=0)
    state, expected = env.get_state(), plain.get_state()
    assert torch.equal(state["qpos"], expected["qpos"])
    assert torch.equal(state["geom_pos"][:, target], expected["geom_pos"][:, target])
    assert (state["geom_pos"][:, arm] != expected["geom_pos"][:, arm]).all()


def test_a_reward_reads_a_field_that_batch_cannot_hold(make):
    """quadruped_escape's reward is the distance over the terrain's size, of an upright torso."""

    def other_size(random, default):
        default[0, 0] *= random.uniform(0.8, 1.25)
        return default

    env = make("quadruped_escape", num_envs=2, randomize={"hfield_size": other_size})
    env.reset(seed=0)
    state = env.get_state()
    size = state["hfield_size"][:, 0, 0]
    assert not torch.equal(*state["hfield_data"]), "each has a terrain of its own"
    env.set_state({k: v[:1].expand_as(v) for k, v in state.items() if k != "hfield_size"})
    reward = env.step(torch.zeros(2, 12))[1]
    assert abs(size[0] / size[1] - 1) > 0.01 and reward[0] > 0
    assert reward[0] * size[0] == pytest.approx((reward[1] * size[1]).item(), rel=1e-5)


def test_mjx_says_what_it_cannot_randomise():
    with pytest.raises(EngineUnavailable, match="no array light_range to randomise"):
        fastsac.make("reacher_hard", engine="mjx", randomize={"light_range": same})


BAD = {
    "unknown field": ({"body_masss": same}, "no floating-point array 'body_masss'"),
    "integer field": ({"geom_contype": same}, "no floating-point array 'geom_contype'"),
    "no array": ({"opt": same}, "no floating-point array 'opt'"),
    "private": ({"_size_fields": same}, "no floating-point array '_size_fields'"),
    "no function": ({"body_mass": 1.5}, "body_mass needs a function, got float"),
    "shape": ({"body_mass": lambda _, v: v[1:]}, r"body_mass must be \(4,\), got \(3,\)"),
    "scalar": ({"body_mass": lambda _, v: 1.0}, r"body_mass must be \(4,\), got \(\)"),
    "nothing": ({"body_mass": lambda _, v: None}, r"body_mass must be \(4,\), got \(\)"),
    "nan": ({"body_mass": lambda _, v: v * np.nan}, "body_mass must be finite numbers"),
    "infinity": ({"body_mass": lambda _, v: v + np.inf}, "body_mass must be finite numbers"),
    "text": ({"body_mass": lambda _, v: v.astype(str)}, "body_mass must be finite numbers"),
    "second of two": ({"body_mass": same, "body_pos": 0}, "body_pos needs a function, got int"),
}


@pytest.mark.parametrize(("randomize", "words"), BAD.values(), ids=BAD.keys())
def test_what_cannot_be_drawn_gets_a_sentence(randomize, words):
    with pytest.raises(ValueError, match=f"^randomize: .*{words}") as error:
        fastsac.make("reacher_hard", randomize=randomize)
    assert "\n" not in str(error.value)


def test_a_draw_that_fails_later_is_reported(make):
    calls = []

    def sometimes(random, default):
        calls.append(1)
        return default[1:] if len(calls) > 20 else default

    env = make("reacher_hard", num_envs=8, randomize={"body_mass": sometimes})
    with pytest.raises(ValueError, match="body_mass must be"):
        env.reset(seed=0)


def test_one_body_may_move(make):
    """The others are compiled as simple, whose center of mass must stay in its place."""

    def torso(random, default):
        default[1] += random.uniform(-0.01, 0.01, 3)
        return default

    make("quadruped_fetch", randomize={"body_ipos": torso}).reset(seed=0)


def test_named_elements_of_the_model_are_the_worlds_own():
    model = load_suite(find("reacher_hard")).model
    sizes = 2 * model.geom_size
    physics = Physics(model, None, {"geom_size": sizes})
    target = model.geom("target")
    assert physics.model.geom_size is sizes
    np.testing.assert_array_equal(physics.model.geom("target").size, 2 * target.size)
    np.testing.assert_array_equal(physics.model.geom("target").pos, target.pos)
    assert physics.model.geom("target").id == target.id


def test_mjx_refuses_to_draw_a_friction_it_leaves_out():
    draw = {"dof_frictionloss": lambda random, default: default + 5}
    with pytest.raises(fastsac.envs.EngineUnavailable, match="dof_frictionloss is 0"):
        fastsac.make("reacher_hard", engine="mjx", randomize=draw)


def test_initialize_may_not_write_model_arrays_in_secret():
    def initialize(physics, random):
        physics.model.geom_size[:, 0] *= 1.1

    with pytest.raises(ValueError, match="writes geom_size: name it in randomised"):
        fastsac.register(
            "secret",
            '<mujoco><worldbody><body><joint name="x" type="slide"/><geom size="0.1"/></body>'
            '</worldbody><actuator><motor joint="x"/></actuator></mujoco>',
            lambda physics: {"x": physics.qpos},
            lambda physics: physics.qpos[0],
            initialize=initialize,
        )
