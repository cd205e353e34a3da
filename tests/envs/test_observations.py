"""Observations in dm_control's parts, pictures, and another time limit."""

import copy
import warnings

import gymnasium
import jax
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import fastsac
from fastsac.envs.registry import find
from fastsac.envs.rendering import Camera
from fastsac.envs.suite import load, load_suite
from tests.envs.test_registry import MODEL

TASK = "walker_walk"
ENGINES = ["native", *(pytest.param(e, marks=pytest.mark.slow) for e in ("warp", "mjx"))]
SIZE = 24, 32  # height and width


@pytest.fixture(scope="module")
def opengl():
    try:
        Camera(load_suite(find("pendulum_swingup")).model, (), 32, 32).close()
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("engine", ENGINES)
def test_parts_have_dm_controls_names_order_and_values(make, engine):
    env, flat = make(TASK, 3, engine, flatten=False), make(TASK, 3, engine)
    spec = load(find(TASK), 0).observation_spec()
    assert [*env.single_observation_space] == [*spec]
    (obs, _), (row, _) = env.reset(seed=4), flat.reset(seed=4)
    for _ in range(3):
        assert {k: tuple(v.shape[1:]) for k, v in obs.items()} == {
            k: v.shape for k, v in spec.items()
        }
        assert torch.equal(torch.cat([v.reshape(3, -1) for v in obs.values()], 1), row)
        assert {k: v.numpy() for k, v in obs.items()} in env.observation_space
        action = torch.full((3, 6), 0.3)
        (obs, *_, info), (row, *_, of_flat) = env.step(action), flat.step(action)
        assert torch.equal(info["final_obs"]["height"], of_flat["final_obs"][:, 14])
    again = env.set_state(env.get_state())
    assert again.keys() == obs.keys()


@pytest.mark.parametrize("array, kind", [("numpy", np.ndarray), ("jax", jax.Array)])
def test_parts_are_the_arrays_that_were_asked_for(make, array, kind):
    env = make(TASK, 2, array=array, flatten=False, frame_stack=2)
    obs, _ = env.reset(seed=0)
    assert all(isinstance(part, kind) for part in obs.values())
    assert obs["height"].shape == (2, 2) and obs["orientations"].shape == (2, 2, 14)


@pytest.mark.parametrize("mode", ["NEXT_STEP", "DISABLED"])
def test_parts_in_the_other_modes(make, mode):
    env = make(TASK, 2, flatten=False, autoreset_mode=mode, time_limit=0.05)
    obs, _ = env.reset(seed=0, options={"spread_clocks": True})
    flat = make(TASK, 2, autoreset_mode=mode, time_limit=0.05)
    flat.reset(seed=0, options={"spread_clocks": True})
    obs, _, _, truncated, info = env.step(torch.zeros(2, 6))
    flat.step(torch.zeros(2, 6))
    assert truncated.tolist() == [False, True]
    assert torch.equal(obs["height"], info["final_obs"]["height"])
    if mode == "DISABLED":
        mask = {"reset_mask": np.array([False, True])}
        (obs, _), (row, _) = env.reset(options=mask), flat.reset(options=mask)
    else:
        obs, row = (one.step(torch.zeros(2, 6))[0] for one in (env, flat))
    assert torch.equal(obs["height"], row[:, 14])


def test_gymnasiums_envs_have_parts_and_a_time_limit():
    arguments = {"flatten": False, "time_limit": 0.1}
    vec = gymnasium.make_vec(f"fastsac.envs:fastsac/{TASK}-v0", 2, **arguments)
    vec.reset(seed=0)
    for _ in range(4):
        obs, _, _, truncated, info = vec.step(vec.action_space.sample())
    assert truncated.all() and obs in vec.observation_space
    assert info["final_obs"][1] in vec.single_observation_space
    vec.close()
    one = gymnasium.make(f"fastsac.envs:fastsac/{TASK}-v0", **arguments)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*Casting input x to numpy array")
        check_env(one.unwrapped, skip_render_check=True)
    assert all(isinstance(part, np.ndarray) for part in one.reset()[0].values())
    one.close()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("seconds, steps", [(0.3, 12), (0.31, 13), (1, 40), (np.inf, 2**30)])
def test_a_time_limit_is_dm_controls(make, engine, seconds, steps):
    env = make(TASK, 2, engine, time_limit=seconds)
    assert env.max_episode_steps == steps
    if steps == 12:
        env.reset(seed=0)
        ends = [env.step(torch.zeros(2, 6))[3].all().item() for _ in range(13)]
        assert ends == [False] * 11 + [True, False]


@pytest.mark.usefixtures("opengl", "few_states_ahead")
@pytest.mark.parametrize("engine", ENGINES)
def test_a_picture_is_what_the_env_renders(make, engine):
    env = make(TASK, 6, engine, array="numpy", pixels=SIZE)  # two processes where there are cores
    env.frame_size = SIZE[::-1]
    obs, _ = env.reset(seed=0, options={"spread_clocks": True})
    assert obs in env.observation_space and obs.dtype == np.uint8 and obs.std() > 1
    np.testing.assert_array_equal(obs, np.stack(env.render()))
    later = env.step(np.ones((6, 6)))[0]
    np.testing.assert_array_equal(later, np.stack(env.render()))
    assert (later != obs).any()
    np.testing.assert_array_equal(env.set_state(env.get_state()), later)


@pytest.mark.usefixtures("opengl", "few_states_ahead")
@pytest.mark.parametrize("repeat", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_pictures_at_an_episodes_end_are_the_last_and_the_first(make, repeat):
    """Of 20 control steps; with three at a time the last step is two."""
    limit = {"array": "numpy", "time_limit": 0.5}
    env, blind = make(TASK, 2, pixels=SIZE, action_repeat=repeat, **limit), make(TASK, 2, **limit)
    ended = make(TASK, 2, autoreset_mode="DISABLED", **limit)
    for one in (env, blind, ended):
        one.frame_size = SIZE[::-1]
        one.reset(seed=0)
    for step in range(20):
        blind.step(np.zeros((2, 6)))
        ended.step(np.zeros((2, 6)))
        if step % repeat == 0:
            obs, _, _, truncated, info = env.step(np.zeros((2, 6)))
    assert truncated.all()
    np.testing.assert_array_equal(obs, np.stack(blind.render()))
    np.testing.assert_array_equal(info["final_obs"], np.stack(ended.render()))
    assert (info["final_obs"] != obs).any()


@pytest.mark.slow
@pytest.mark.usefixtures("opengl", "few_states_ahead")
def test_pictures_are_repeated_stacked_copied_and_gone_on_with(make):
    arguments = {"pixels": SIZE, "frame_stack": 3, "action_repeat": 2, "flatten": False}
    env = make(TASK, 2, **arguments)
    env.reset(seed=0)
    obs = env.step(torch.ones(2, 6))[0]["pixels"]
    assert obs.shape == (2, 3, *SIZE, 3) and (obs[:, 2] != obs[:, 1]).any()
    again = copy.copy(env)
    again.reset(seed=1)
    again.load_state_dict(env.state_dict())
    step, expected = (one.step(torch.ones(2, 6))[0]["pixels"] for one in (again, env))
    assert torch.equal(step, expected)
    again.close()


@pytest.mark.usefixtures("opengl")
def test_a_diverged_world_is_black_and_begins_anew(make):
    fastsac.register("mine", MODEL, lambda p: {"x": p.qpos}, lambda p: p.qpos[0])
    env = make("mine", 2, pixels=SIZE)
    env.reset(seed=0)
    obs, *_, info = env.step(torch.tensor([[float("nan")], [0.0]]))
    assert info["invalid"].tolist() == [True, False]
    assert not info["final_obs"][0].any() and info["final_obs"][1].any() and obs[0].any()


def test_numbers_of_any_type_are_taken(make):
    assert make(TASK, 1, time_limit=np.float32(0.5)).max_episode_steps == 20
    assert make(TASK, np.int64(2), time_limit=np.int64(1), action_repeat=np.int8(2)).num_envs == 2


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"time_limit": float("nan")}, "time_limit must be a positive number, got nan"),
        ({"time_limit": 0}, "time_limit must be a positive number, got 0"),
        ({"time_limit": "5"}, "time_limit must be a positive number, got '5'"),
        ({"flatten": 0}, "flatten must be True or False, got 0"),
        ({"pixels": 84}, "pixels are a height and a width, got 84"),
        ({"pixels": (84, 0)}, "their width must be an integer of at least 1"),
    ],
)
def test_refusals(make, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(TASK, 1, **arguments)
