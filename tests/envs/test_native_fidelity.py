"""The native engine against dm_control: same state, same actions, same everything."""

from typing import NamedTuple

import jax
import numpy as np
import pytest
import torch
from dm_control import suite

import fastsac
from fastsac.envs.physics import Physics
from fastsac.envs.registry import find
from fastsac.envs.suite import load_suite

TASKS = fastsac.tasks()
STEPS = 200
SEEDS = range(10)
# A control step of these costs dm_control 2 to 20 ms.
HEAVY = ("dog", "humanoid", "manipulator", "quadruped", "stacker")
BY_NUMBER = ("swimmer_swimmer4", "lqr_lqr_4_3", "cartpole_5_poles")
# What the engine hands out is dm_control's value rounded to float32: half an ulp is 6e-8 of it.
# Rewards of the suite lie in [0, 1]; lqr's are costs.
OBS = dict(rtol=3e-7, atol=1e-7)
REWARD = dict(rtol=3e-7, atol=1e-7)
QPOS = dict(rtol=0, atol=1e-9)


def test_all_tasks_of_the_suite_are_there():
    assert {f"{domain}_{task}" for domain, task in suite.ALL_TASKS} == set(TASKS)
    assert len(TASKS) == 51


@pytest.mark.parametrize(
    ("task", "seeds"),
    [(task, SEEDS[: 1 if task.startswith(HEAVY) else 2]) for task in (*TASKS, *BY_NUMBER)]
    + [pytest.param(task, SEEDS, marks=pytest.mark.slow) for task in TASKS],
)
def test_trajectory_equals_dm_control(task, seeds, dm, make, actions, few_states_ahead):
    """Free runs of 200 steps: the same chaos, so the same state to the last bits."""
    env = make(task, num_envs=len(seeds), engine="native")
    env.reset()
    all_actions = actions(env, STEPS)
    reference = dm(task, seed=0)
    assert_same_spaces(env, reference)
    runs = [
        rollout(reference, seed, all_actions[:, world].numpy()) for world, seed in enumerate(seeds)
    ]
    start = [run.state for run in runs]
    obs = env.set_state({k: np.concatenate([state[k] for state in start]) for k in start[0]})
    np.testing.assert_allclose(obs, [run.obs[0] for run in runs], **OBS)
    for t, action in enumerate(all_actions):
        obs, reward, terminated, truncated, info = env.step(action)
        np.testing.assert_allclose(obs, [run.obs[t + 1] for run in runs], **OBS)
        np.testing.assert_allclose(reward, [run.rewards[t] for run in runs], **REWARD)
        assert [run.ended[t] for run in runs] == (terminated | truncated).tolist()
        assert not info["invalid"].any()
    np.testing.assert_allclose(env.get_state()["qpos"], [run.qpos for run in runs], **QPOS)


def assert_same_spaces(env, reference):
    assert env.single_observation_space.shape == reference.obs.shape
    spec, one = reference.env.action_spec(), np.ones(env.action_dim)
    low, high = spec.minimum, spec.maximum
    if env.suite.task.domain == "lqr":  # its actuators have no limits: the action is the control
        assert (high >= 1e10).all()
        low, high = -one, one
    np.testing.assert_array_equal(env.suite.control(one), high)
    np.testing.assert_array_equal(env.suite.control(-one), low)


class Arrays:
    """C MuJoCo's fields of one world, rotation matrices as (n, 3, 3)."""

    def __init__(self, data):
        self._data = data

    def __getattr__(self, name):
        value = jax.numpy.asarray(np.array(getattr(self._data, name)))
        return value.reshape(-1, 3, 3) if name.endswith("mat") else value


class Rollout(NamedTuple):
    """An episode of dm_control: what it starts from, what it shows, and where it ends."""

    state: dict[str, np.ndarray]
    obs: list[np.ndarray]
    rewards: list[float]
    ended: list[bool]
    qpos: np.ndarray


def rollout(reference, seed, actions):
    obs = [reference.reset(seed)]
    state = reference.state()
    steps = [reference.step(action) for action in actions]
    return Rollout(
        state=state,
        obs=obs + [step[0] for step in steps],
        rewards=[step[1] for step in steps],
        ended=[step[2].last() for step in steps],
        qpos=np.array(reference.physics.data.qpos),
    )


@pytest.mark.parametrize("task", TASKS)
def test_the_port_of_the_logic_in_float64(task, dm):
    """Our functions and dm_control's read the same C arrays: by name, in order, to 1e-9."""
    reference = dm(task, seed=3)
    random = np.random.default_rng(0)
    for _ in range(30):
        _, expected_reward, step = reference.step(random.uniform(-1, 1, reference.physics.model.nu))
    entry, model = find(task), reference.physics.model.ptr
    with jax.enable_x64(True):
        physics = Physics(model, Arrays(reference.physics.data.ptr))
        observed = {k: np.asarray(v) for k, v in entry.observe(physics).items()}
        reward = float(entry.reward(physics))
    assert list(observed) == list(step.observation)
    for name, expected in step.observation.items():
        assert observed[name].shape == np.shape(expected)
        np.testing.assert_allclose(observed[name], expected, rtol=1e-9, atol=1e-9, err_msg=name)
    np.testing.assert_allclose(reward, expected_reward, rtol=1e-9, atol=1e-9)


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


QUICK_ENDS = ("cartpole_balance", "hopper_hop", "lqr_lqr_2_1")


@pytest.mark.parametrize(
    "task",
    [pytest.param(t, marks=() if t in QUICK_ENDS else pytest.mark.slow) for t in TASKS],
)
def test_episodes_end_when_dm_controls_do(task, dm, make, few_states_ahead):
    reference = dm(task, seed=0)
    env = make(task, num_envs=1, engine="native")
    env.reset()
    env.set_state(reference.state())
    action = torch.zeros(1, env.action_dim)
    last = None if task.startswith("lqr") else 1000
    for count in range(1, 1001):
        _, _, terminated, truncated, info = env.step(action)
        step = reference.step(action[0].numpy())[2]
        assert bool(truncated[0]) == step.last() == (count == last)
        assert step.discount == 1.0 and not terminated[0] and not info["invalid"][0]
    assert bool(info["_final_obs"][0]) == bool(last)


@pytest.mark.parametrize(
    "engine", ["native", *(pytest.param(e, marks=pytest.mark.slow) for e in ("mjx", "warp"))]
)
def test_lqr_terminates_at_rest(engine, dm, make, few_states_ahead):
    reference = dm("lqr_lqr_2_1", seed=0)
    env = make("lqr_lqr_2_1", num_envs=2, engine=engine)
    env.reset()
    state = {k: np.repeat(v, 2, axis=0) for k, v in reference.state().items()}
    state["qpos"][1] = state["qvel"][1] = 1e-9
    env.set_state(state)
    _, reward, terminated, truncated, info = env.step(torch.zeros(2, 1))
    assert terminated.tolist() == info["_final_obs"].tolist() == [False, True]
    assert not truncated.any() and reward[1] == 1
    with reference.physics.reset_context():
        reference.physics.set_state(np.full(4, 1e-9))
    step = reference.step(np.zeros(1))[2]
    assert step.last() and step.discount == 0 and step.reward == 1


def test_results_do_not_depend_on_the_threads(actions):
    from fastsac.envs.engines.native import NativeEngine

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
