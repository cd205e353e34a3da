"""One env in three dresses, and the seeds that every one takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import fastsac
from fastsac.envs import EngineUnavailable

TYPES = {"torch": torch.Tensor, "numpy": np.ndarray, "jax": jax.Array}


@pytest.fixture(scope="module", params=["numpy", "jax"])
def dressed(request):
    """The env that the tests of this file reset first."""
    made = fastsac.make("reacher_hard", num_envs=3, array=request.param)
    yield made
    made.close()


@pytest.fixture(scope="module")
def plain():
    made = fastsac.make("reacher_hard", num_envs=3)
    yield made
    made.close()


def rollout(env, actions):
    """All that a reset and some steps return, as numpy's."""
    obs, info = env.reset(seed=3, options={"spread_clocks": True})
    results = [obs, info["clocks"]]
    for action in actions:
        *step, info = env.step(action)
        results += [*step, info["final_obs"], info["_final_obs"], info["invalid"]]
    return results


@pytest.mark.parametrize("array", ["numpy", "jax"])
def test_the_same_env_in_another_dress(array, make, plain, actions):
    env = make("reacher_hard", num_envs=3, array=array)
    drawn = actions(env, 400)  # a third of an episode of 1000, which one of three clocks ends
    ours = rollout(env, [np.asarray(a) if array == "numpy" else jnp.asarray(a) for a in drawn])
    theirs = rollout(plain, drawn)
    assert sum(step.any() for step in theirs[5::7]) == 1
    for mine, other in zip(ours, theirs, strict=True):
        assert isinstance(mine, TYPES[array])
        assert str(mine.dtype).replace("int32", "int64") == str(other.dtype).split(".")[1]
        np.testing.assert_array_equal(np.asarray(mine), other.numpy())


@pytest.mark.parametrize("array", ["numpy", "jax"])
def test_states_come_and_go_in_the_dress(array, make, actions):
    env = make("reacher_hard", num_envs=3, array=array)
    env.reset(seed=0)
    state = env.get_state()
    assert all(isinstance(value, TYPES[array]) for value in state.values())
    moved = state | {"qpos": state["qpos"] + 0.25}
    obs = env.set_state(moved)
    assert isinstance(obs, TYPES[array])
    # reacher observes its two angles first.
    np.testing.assert_allclose(obs[:, :2], moved["qpos"], rtol=1e-6)


ROUNDED = np.linspace(-1, 1, 6).reshape(3, 2)  # thirds and fifths: no float32 holds them


@pytest.mark.parametrize(
    "action",
    [
        ROUNDED,
        ROUNDED.astype(np.float16),
        np.array([[1, 0], [0, -1], [1, 1]]),
        np.ones((3, 2), np.uint8),
        [[0.5, 1], [0, 0], [1, -1]],
    ],
    ids=["float64", "float16", "int64", "uint8", "list"],
)
def test_actions_of_any_real_type_are_rounded_to_float32(action, dressed):
    dressed.reset(seed=0)
    obs = dressed.step(action)[0]
    dressed.reset(seed=0)
    expected = dressed.step(np.array(action, np.float32))[0]
    np.testing.assert_array_equal(obs, expected)


@pytest.mark.parametrize(
    ("action", "error", "words"),
    [
        (np.zeros((3, 2), complex), TypeError, "real numbers, got complex128"),
        (np.zeros((3, 2), bool), TypeError, "real numbers, got bool"),
        (np.zeros((3, 2), object), TypeError, "real numbers, got object"),
        ("left", TypeError, "real numbers"),
        (None, TypeError, "real numbers"),
        (np.zeros((2, 2)), ValueError, r"\(3, 2\), got \(2, 2\)"),
        (np.zeros(2), ValueError, "shape"),
    ],
)
def test_bad_actions_get_a_sentence(action, error, words, dressed):
    dressed.reset()
    with pytest.raises(error, match=words):
        dressed.step(action)
    dressed.step(dressed.action_space.sample())  # and nothing is lost


def test_an_env_does_not_step_inside_jit(make):
    env = make("pendulum_swingup", num_envs=3, array="jax")
    env.reset()
    with pytest.raises(TypeError, match=r"outside of jax\.jit"):
        jax.jit(env.step)(jnp.zeros((3, 1)))
    with pytest.raises(TypeError, match="complex64"):
        env.step(jnp.zeros((3, 1), complex))


def test_a_tensors_env_says_who_takes_arrays(plain):
    plain.reset()
    with pytest.raises(TypeError, match=r'ndarray; make\(\.\.\., array="numpy"\) takes'):
        plain.step(plain.action_space.sample())


def test_results_are_the_callers(make):
    env = make("pendulum_swingup", num_envs=3, array="numpy")
    env.reset(seed=0)
    action = env.action_space.sample()
    obs, _, _, _, info = env.step(action)
    before = info["final_obs"].copy()
    obs[:] = 7
    action[:] = 7
    np.testing.assert_array_equal(info["final_obs"], before)
    assert not (env.step(np.zeros((3, 1)))[0] == 7).any()


@pytest.mark.parametrize(
    "seed", [np.int64(5), np.uint8(5), np.array(5), torch.tensor(5), jnp.array(5)]
)
def test_a_seed_is_an_integer_of_any_type(seed, plain):
    expected = plain.reset(seed=5)[0]
    plain.reset(seed=6)
    assert torch.equal(plain.reset(seed=seed)[0], expected)


def test_make_takes_integers_of_any_type(make, plain):
    env = make("reacher_hard", num_envs=np.int32(3), seed=np.uint8(5))
    assert type(env.num_envs) is int
    assert torch.equal(env.reset()[0], plain.reset(seed=5)[0])


@pytest.mark.parametrize("seed", [True, np.True_, 1.0, "1", -1, np.int64(-1), np.zeros((2, 2))])
def test_what_is_no_seed_gets_a_sentence(seed, plain):
    with pytest.raises(ValueError, match="seed"):
        plain.reset(seed=seed)


@pytest.mark.parametrize("task", ["reacher_hard", "lqr_lqr_2_1"])
def test_a_list_of_seeds_starts_each_world_as_the_first_of_its_seed(
    task, make, actions, few_states_ahead
):
    env = make(task, num_envs=3, engine="native")
    seeds = [7, 5, 7]
    first = [env.reset(seed=seed)[0][0] for seed in seeds]
    obs, _ = env.reset(seed=seeds)
    assert torch.equal(obs, torch.stack(first)) and not torch.equal(obs[0], obs[1])

    short = make(task, num_envs=3, engine="native", time_limit=0.5)

    def ends():
        short.reset(seed=np.array(seeds))
        return [short.step(action)[0] for action in actions(short, 60)]

    assert torch.equal(torch.stack(ends()), torch.stack(ends()))
    assert not torch.equal(env.reset()[0], obs)


def test_lists_that_are_no_seeds_get_a_sentence(plain):
    with pytest.raises(ValueError, match="one a world, 3, got 2"):
        plain.reset(seed=[1, 2])
    with pytest.raises(ValueError, match="at least 0, got None"):
        plain.reset(seed=[1, 2, None])


@pytest.mark.parametrize("engine", ["mjx", "warp"])
def test_a_gpus_engine_takes_one_seed_for_all(engine, shared):
    env = shared("reacher_hard", 4, engine)
    with pytest.raises(ValueError, match=f"engine native; {engine} takes one"):
        env.reset(seed=[1, 2, 3, 4])


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (dict(array="tensorflow"), ValueError, "torch, numpy, jax"),
        (dict(array="numpy", device="meta"), EngineUnavailable, "cpu or cuda"),
    ],
)
def test_bad_arguments_get_a_sentence(arguments, error, words, make):
    with pytest.raises(error, match=words):
        make("reacher_hard", **arguments)
