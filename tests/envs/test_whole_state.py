"""All that MuJoCo counts as a state: begun with, stepped, saved and restored as in dm_control."""

import dataclasses
import io
import itertools

import mujoco
import numpy as np
import pytest
import torch

import fastsac
from fastsac.envs import EngineUnavailable, registry
from fastsac.envs.c_fields import read_fields
from fastsac.envs.initial_states import InitialStates
from fastsac.envs.model_fields import field
from fastsac.envs.registry import find
from fastsac.envs.suite import REST, STATE, load, load_suite
from tests.envs.random_tasks import (
    ACTUATORS,
    EPISODE,
    EQUALITIES,
    MODEL,
    SENSORS,
    episode,
    observe,
    register,
    reward,
    writer,
)

WORLDS = 2
SEEDS = [0, 1, 2, 4, 5, 10]
SEEDS += [pytest.param(seed, marks=pytest.mark.slow) for seed in range(12, 24)]
OBS = dict(rtol=3e-7, atol=1e-6)  # of the engine's float32


def flat(step):
    return np.concatenate([np.ravel(x) for x in step.observation.values()])


def follow(env, references, actions):
    """Steps env and dm_control side by side, through the episodes' ends; returns how many ended."""
    rows = itertools.count(WORLDS)
    low, high = env.suite.action_low, env.suite.action_high
    for action in actions:
        obs, reward, _, truncated, info = env.step(action)
        for world, (reference, _) in enumerate(references):
            control = (high + low) / 2 + (high - low) / 2 * action[world].numpy().astype(np.float64)
            step = reference.step(control)
            np.testing.assert_allclose(info["final_obs"][world], flat(step), **OBS)
            np.testing.assert_allclose(reward[world], step.reward, **OBS)
            if truncated[world]:
                references[world] = episode(env.suite.task.full_name, 0, next(rows))
                np.testing.assert_allclose(obs[world], flat(references[world][1]), **OBS)
    return next(rows) - WORLDS


@pytest.mark.parametrize("seed", SEEDS)
def test_random_tasks_are_dm_controls(seed, make, actions):
    register("drawn", seed)
    env = make("drawn", num_envs=WORLDS, engine="native")
    obs, _ = env.reset(seed=0, options={"spread_clocks": True})
    references = [episode("drawn", 0, world) for world in range(WORLDS)]
    for world, (_, step) in enumerate(references):
        np.testing.assert_allclose(obs[world], flat(step), **OBS)
    assert follow(env, references, actions(env, EPISODE + EPISODE // 3)) == 2
    for name, values in env.get_state().items():
        for world, (reference, _) in enumerate(references):
            physics = reference.physics
            owner = physics.data if name in env.suite.state_fields else physics.model
            if name.startswith("opt."):
                owner = physics.model.opt
            expected = getattr(owner, name.removeprefix("opt."))
            np.testing.assert_allclose(values[world], expected, rtol=1e-9, atol=1e-9, err_msg=name)

    file = io.BytesIO()
    torch.save(env.state_dict(), file)
    state = env.get_state()
    first = [env.step(action) for action in actions(env, EPISODE, seed=1)]
    assert any(step[3].any() for step in first)
    file.seek(0)
    other = make("drawn", num_envs=WORLDS, engine="native")
    other.load_state_dict(torch.load(file, weights_only=True))
    again = [other.step(action) for action in actions(env, EPISODE, seed=1)]
    for one, two in zip(first, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one[:4], two[:4], strict=True))
    env.set_state(state)
    end = next(i for i, step in enumerate(first) if step[3].any())
    assert end > 3
    for step, action in zip(first[:end], actions(env, end, seed=1), strict=True):
        assert torch.equal(env.step(action)[0], step[0])


ON_A_GPU = ["opt.gravity", "opt.wind", "opt.density", "jnt_stiffness"]
WRITTEN = ["qvel", "time", "ctrl", "qfrc_applied", "xfrc_applied", "mocap_pos", "mocap_quat"]
# Of ten control steps in float32; a wind, a target or a force that is left out makes 1e-3 and more.
FLOAT32 = dict(rtol=1e-4, atol=1e-4)
DELAY = 'delay="0.015" nsample="8" interp="linear"'


def register_for_a_gpu(delay):
    parts = {"integrator": "Euler", "ground": ""}
    parts["equalities"] = EQUALITIES["joint"]
    parts["actuators"] = ACTUATORS["motor"].format(delay=delay)
    parts["sensors"] = "".join(SENSORS[k].format(delay=delay) for k in ("clock", "place"))
    initialize = writer([*WRITTEN, "userdata"], ON_A_GPU, [])
    fastsac.register(
        "drawn",
        MODEL.format(**parts),
        observe,
        reward,
        initialize=initialize,
        randomised=ON_A_GPU,
        control_timestep=0.01,
        time_limit=0.06,
    )


@pytest.mark.parametrize(
    ("engine", "delay"), [("warp", DELAY), pytest.param("mjx", "", marks=pytest.mark.slow)]
)
def test_a_gpus_engines_hold_it_too(engine, delay, make, actions):
    register_for_a_gpu(delay)
    env, native = make("drawn", WORLDS, engine), make("drawn", WORLDS, "native")
    np.testing.assert_allclose(env.reset(seed=0)[0], native.reset(seed=0)[0], **FLOAT32)
    assert set(env.get_state()) == set(native.get_state())
    for action in actions(env, 10):  # into the second episode
        ours, theirs = env.step(action), native.step(action)
        for a, b in zip(ours[:4], theirs[:4], strict=True):
            np.testing.assert_allclose(a, b, **FLOAT32)
    saved, last = env.state_dict(), actions(env, 8, seed=1)  # and into the third
    expected = [env.step(action) for action in last]
    env.reset(seed=9)
    env.load_state_dict(saved)
    for action, step in zip(last, expected, strict=True):
        np.testing.assert_allclose(env.step(action)[0], step[0], **FLOAT32)


REFUSED = {
    "delays": (DELAY, (), "applies no delays of actuators and sensors"),
    "an option": ("", ("opt.impratio",), "one opt.impratio for all worlds"),
    "a constant": ("", ("geom_contype",), "one geom_contype for all worlds"),
}


@pytest.mark.parametrize(("delay", "fields", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_mjx_names_what_it_cannot_hold(delay, fields, words):
    random_model = MODEL.format(
        integrator="Euler",
        ground="",
        equalities="",
        actuators=ACTUATORS["motor"].format(delay=delay),
        sensors="",
    )
    fastsac.register("drawn", random_model, observe, reward, randomised=fields)
    with pytest.raises(EngineUnavailable, match=f"MJX cannot hold drawn: .*{words}"):
        fastsac.make("drawn", engine="mjx")


def test_warp_names_what_it_cannot_hold():
    pytest.importorskip("warp")
    register_for_a_gpu("")
    registry._TASKS["drawn"] = dataclasses.replace(find("drawn"), randomised=("opt.impratio",))
    with pytest.raises(EngineUnavailable, match="one opt.impratio for all worlds"):
        fastsac.make("drawn", engine="warp")


@pytest.mark.parametrize("engine", ["mjx", "warp"])
def test_a_field_of_c_mujoco_alone_is_named(engine):
    pytest.importorskip({"mjx": "jax", "warp": "warp"}[engine])
    body = "<body><joint name='j'/><geom size='.1'/></body>"
    motor = "<actuator><motor joint='j' ctrlrange='-1 1'/></actuator>"
    model = f"<mujoco><worldbody>{body}</worldbody>{motor}</mujoco>"
    fastsac.register("read", model, lambda physics: {"d": physics.qDeriv}, lambda physics: 0.5)
    fastsac.make("read", engine="native").close()
    with pytest.raises(
        EngineUnavailable, match="cannot hold read: it has no qDeriv, which the task"
    ):
        fastsac.make("read", engine=engine)


TERRAIN = """<mujoco>
  <asset><hfield name="hills" nrow="400" ncol="400" size="3 3 0.5 0.1"/></asset>
  <worldbody>
    <geom type="hfield" hfield="hills"/><camera name="eye"/>
    <body pos="0 0 1"><joint name="x" type="slide"/><geom size="0.1"/></body>
  </worldbody>
  <actuator><motor joint="x"/></actuator>
</mujoco>"""


def raise_a_hill(physics, random):
    physics.model.hfield_data[random.randint(160_000)] += 0.5


def rarely_heavy(physics, random):
    if random.uniform() < 0.3:
        physics.model.body_mass[1] *= 2


def lighter_gravity(physics, random):
    physics.model.opt.gravity[2] *= random.uniform()


def viscous(physics, random):
    physics.model.opt.viscosity = random.uniform(0.1, 1)


def without_contacts(physics, random):
    physics.model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_CONTACT)


def other_model(physics, random):
    physics.reload_from_xml_string(TERRAIN)


SECRETS = {
    "hfield_data": raise_a_hill,
    "body_mass": rarely_heavy,
    "opt.gravity": lighter_gravity,
    "opt.viscosity": viscous,
    "opt.disableflags": without_contacts,
}


def register_terrain(initialize, randomised=()):
    fastsac.register(
        "drawn",
        TERRAIN,
        lambda physics: {"x": physics.qpos},
        lambda physics: physics.qpos[0],
        initialize=initialize,
        randomised=randomised,
    )


@pytest.mark.parametrize(("name", "initialize"), SECRETS.items(), ids=SECRETS.keys())
def test_what_initialize_writes_is_named_or_refused(name, initialize):
    with pytest.raises(ValueError, match=f"initialize writes {name}: name it in randomised"):
        register_terrain(initialize)
    register_terrain(initialize, [name])
    source = InitialStates(load_suite(find("drawn")), 0)
    rows = source.take(8)
    source.close()
    for index in range(8):
        model = episode("drawn", 0, index)[0].physics.model.ptr
        np.testing.assert_array_equal(rows[name][index], field(model, name))


def test_a_model_that_is_replaced_is_refused():
    with pytest.raises(ValueError, match="initialize replaces the model"):
        register_terrain(other_model)


def test_a_secret_that_no_trial_showed_is_refused_when_it_comes(make):
    calls = []

    def late(physics, random):
        calls.append(1)
        if len(calls) > 60:
            physics.model.geom_friction[0, 0] = 2

    register_terrain(late)
    env = make("drawn", num_envs=16, engine="native")
    with pytest.raises(ValueError, match="writes geom_friction: name it in randomised"):
        for _ in range(20):
            env.reset()


def test_a_relative_write_is_relative_to_the_compiled_model():
    """In dm_control's second episode too: it is where a policy is evaluated."""

    def heavier(physics, random):
        physics.model.body_mass[1] *= 3

    register_terrain(heavier, ["body_mass"])
    env = load(find("drawn"), 0)
    default = env.physics.model.body_mass[1]
    for _ in range(3):
        env.reset()
        assert env.physics.model.body_mass[1] == 3 * default


@pytest.mark.parametrize("task", fastsac.tasks())
def test_the_suites_tasks_leave_the_rest_alone(task):
    """So that their states are qpos, qvel, act and the warm start."""
    suite, env = load_suite(find(task)), load(find(task), 0)
    assert suite.state_fields == STATE
    default = mujoco.MjData(env.physics.model.ptr)
    for _ in range(2):
        env.reset()
        for name in set(REST) - {"time"}:
            value = getattr(env.physics.data, name)
            np.testing.assert_array_equal(value, getattr(default, name), err_msg=name)
    assert not read_fields(suite)[0] & ({*REST} - {"ctrl"})
    assert mujoco.mjtSensor.mjSENS_CLOCK not in suite.model.sensor_type


def test_a_state_from_before_the_whole_was_saved_goes_on(make):
    register_terrain(None)
    env, other = (make("drawn", num_envs=3, engine="native") for _ in range(2))
    env.reset(seed=0)
    saved = env.state_dict()
    of_suite = {"qpos", "qvel", "act", "qacc_warmstart"}
    state = saved["engine"]["state"]
    old = {k: v for k, v in state.items() if k in of_suite}
    assert old.keys() < state.keys()
    other.load_state_dict(saved | {"engine": saved["engine"] | {"state": old}})
    for _ in range(3):
        action = torch.ones(3, env.action_dim)
        assert torch.equal(env.step(action)[0], other.step(action)[0])
