"""The native engine against dm_control: same state, same actions, same everything."""

import numpy as np
import pytest
import torch

import fastsac

TASKS = fastsac.tasks()
STEPS = 100
# The engine's state is dm_control's to the last bits of float64, and what it hands out is that
# state rounded to float32: half an ulp is 6e-8 of the value. Rewards lie in [0, 1].
OBS = dict(rtol=3e-7, atol=1e-7)
REWARD = dict(rtol=0, atol=1e-7)
QPOS = dict(rtol=0, atol=1e-12)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("seed", [0, 1])
def test_trajectory_equals_dm_control(task, seed, dm, make, actions):
    reference = dm(task, seed)
    env = make(task, num_envs=1, engine="native")
    env.reset()
    obs = env.set_state(reference.state())
    np.testing.assert_allclose(obs[0], reference.obs, **OBS)
    for action in actions(env, STEPS, seed):
        obs, reward, terminated, truncated, info = env.step(action)
        expected_obs, expected_reward, step = reference.step(action[0].numpy())
        np.testing.assert_allclose(obs[0], expected_obs, **OBS)
        np.testing.assert_allclose(reward[0], expected_reward, **REWARD)
        assert not step.last() and not terminated[0] and not truncated[0] and not info["invalid"][0]
    qpos = env.get_state()["qpos"][0]
    np.testing.assert_allclose(qpos, reference.physics.data.qpos, **QPOS)


@pytest.mark.parametrize("task", ["cartpole_swingup", "cheetah_run", "humanoid_walk"])
def test_one_percent_of_an_action_is_seen(task, dm, make, actions):
    reference = dm(task, seed=0)
    env = make(task, num_envs=1, engine="native")
    env.reset()
    env.set_state(reference.state())
    action = actions(env, 1)[0]
    obs = env.step(action * 1.01)[0]
    expected, _, _ = reference.step(action[0].numpy())
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(obs[0], expected, **OBS)


@pytest.mark.parametrize("task", TASKS)
def test_observation_size_and_order(task, dm, make):
    reference = dm(task, seed=3)
    spec = reference.env.observation_spec()
    env = make(task, num_envs=2)
    env.reset()
    assert env.single_observation_space.shape == reference.obs.shape
    physics = _physics(env, reference)
    assert list(env.suite.task.observe(physics)) == list(spec)


def _physics(env, reference):
    from types import SimpleNamespace

    from fastsac.envs.physics import Physics

    data = reference.physics.data
    mats = {k: np.array(getattr(data, k)).reshape(-1, 3, 3) for k in ("xmat", "geom_xmat")}
    names = ("qpos", "qvel", "xpos", "geom_xpos", "sensordata", "ctrl")
    fields = {k: np.array(getattr(data, k)) for k in names}
    return Physics(env.suite.model, SimpleNamespace(**fields, **mats))


@pytest.mark.parametrize(
    "task", ["cartpole_swingup", "reacher_hard", "cheetah_run", "walker_run", "humanoid_walk"]
)
def test_time_limit_truncates_when_dm_control_ends(task, dm, make):
    reference = dm(task, seed=0)
    env = make(task, num_envs=1, engine="native")
    env.reset()
    env.set_state(reference.state())
    action = torch.zeros(1, env.action_dim)
    for count in range(1, env.max_episode_steps + 1):
        _, _, terminated, truncated, info = env.step(action)
        step = reference.step(action[0].numpy())[2]
        assert bool(truncated[0]) == step.last() == (count == 1000)
    assert step.discount == 1.0 and not terminated[0]
    assert not info["invalid"][0] and info["_final_obs"][0]


def test_action_range_is_the_action_spec(dm, make):
    for task in TASKS:
        spec = dm(task, 0).env.action_spec()
        env = make(task)
        one = np.ones(env.action_dim)
        np.testing.assert_array_equal(env.suite.control(one), spec.maximum)
        np.testing.assert_array_equal(env.suite.control(-one), spec.minimum)


def test_results_do_not_depend_on_the_threads(actions):
    from fastsac.envs.engines.native import NativeEngine
    from fastsac.envs.registry import find
    from fastsac.envs.suite import load_suite

    suite = load_suite(find("walker_run"))
    engines = [NativeEngine(suite, 5, num_threads) for num_threads in (1, 2, 3)]
    for engine in engines:
        engine.reset(0, np.zeros(5, np.int64))
    for action in torch.rand(20, 5, suite.action_dim) * 2 - 1:
        for engine in engines:
            engine.send(action)
        first, *others = [engine.recv() for engine in engines]
        for other in others:
            for ours, theirs in zip(first, other, strict=True):
                assert torch.equal(ours, theirs)
    for engine in engines:
        engine.close()
