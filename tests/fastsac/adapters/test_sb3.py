"""Stable-Baselines3 and SBX train through their VecEnv."""

import numpy as np
import pytest
import torch

pytest.importorskip("stable_baselines3")

import stable_baselines3
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

import fastsac
from fastsac.adapters.sb3 import VecEnv


@pytest.fixture
def vec():
    made = []

    def build(*args, **kwargs):
        made.append(VecEnv(*args, **kwargs))
        return made[-1]

    yield build
    for env in made:
        env.close()


def test_a_step_is_the_envs_own(vec):
    env, ours = vec("walker_run", 3), fastsac.make("walker_run", 3, array="numpy")
    env.seed(5)
    np.testing.assert_array_equal(env.reset(), ours.reset(seed=5)[0])
    action = np.full((3, 6), 0.3)
    obs, reward, done, infos = env.step(action)
    expected = ours.step(action)
    np.testing.assert_array_equal(obs, expected[0])
    np.testing.assert_array_equal(reward, expected[1])
    assert not done.any() and infos == [{}, {}, {}]
    assert env.observation_space.shape == (24,) and env.action_space.shape == (6,)
    assert not np.array_equal(env.reset(), obs)  # without a seed the sequence goes on
    ours.close()


def test_an_end_is_told_as_sb3_reads_it(vec):
    env, ours = vec("pendulum_swingup", 4), fastsac.make("pendulum_swingup", 4, array="numpy")
    env.seed(2)
    env.set_options({"spread_clocks": True})
    env.reset()
    ours.reset(seed=2, options={"spread_clocks": True})
    total = 0.0
    for _ in range(250):  # the last world is 750 steps old at the start
        obs, reward, done, infos = env.step(np.zeros((4, 1)))
        expected = ours.step(np.zeros((4, 1)))
        total += reward[3]
    assert done.tolist() == [False, False, False, True] and infos[:3] == [{}, {}, {}]
    np.testing.assert_array_equal(infos[3]["terminal_observation"], expected[4]["final_obs"][3])
    np.testing.assert_array_equal(obs[3], expected[0][3])
    assert not np.array_equal(obs[3], infos[3]["terminal_observation"])
    assert infos[3]["TimeLimit.truncated"] is True
    assert infos[3]["episode"]["l"] == 1_000
    assert infos[3]["episode"]["r"] == pytest.approx(total, rel=1e-6)
    ours.close()


def test_a_diverged_world_is_not_bootstrapped_from(vec):
    env = vec("pendulum_swingup", 2)
    env.reset()
    _, reward, done, infos = env.step(np.array([[np.nan], [0.0]]))
    assert done.tolist() == [True, False] and reward[0] == 0
    assert infos[0]["TimeLimit.truncated"] is False


def test_attributes_methods_and_refusals(vec):
    env = vec("pendulum_swingup", 2)
    assert env.get_attr("action_dim") == [1, 1] and env.get_attr("action_dim", 0) == [1]
    assert env.has_attr("suite") and not env.has_attr("nothing")
    env.set_attr("frame_size", (32, 24))
    assert env.env.frame_size == (32, 24)
    env.reset()
    assert len(env.env_method("get_state", indices=[1])) == 1
    assert env.env_is_wrapped(Monitor) == [True, True]
    assert env.env_is_wrapped(VecNormalize) == [False, False]
    with pytest.raises(ValueError, match="no autoreset_mode"):
        vec("pendulum_swingup", 2, autoreset_mode="DISABLED")
    with pytest.raises(ValueError, match="takes no flatten"):
        vec("pendulum_swingup", 2, flatten=False)


def test_ppo_trains_on_pictures(vec):
    try:
        env = vec("cartpole_balance", 2, pixels=(40, 48), time_limit=0.1)
        env.reset()
    except RuntimeError as error:
        pytest.skip(str(error))
    model = stable_baselines3.PPO("CnnPolicy", env, n_steps=16, batch_size=16, n_epochs=1).learn(64)
    assert model.num_timesteps == 64
    assert model.observation_space.shape == (3, 40, 48)  # SB3's own order


def test_sb3s_own_wrappers_and_evaluation_take_it(vec):
    env = VecNormalize(VecFrameStack(vec("pendulum_swingup", 4), 3))
    assert env.reset().shape == (4, 9)
    model = stable_baselines3.PPO("MlpPolicy", env, n_steps=8, batch_size=32)
    model.learn(64)
    returns, lengths = evaluate_policy(model, env, 4, return_episode_rewards=True, warn=True)
    assert lengths == [1_000] * 4 and all(0 <= r <= 1_000 for r in returns)


@pytest.mark.parametrize("library", ["stable_baselines3", "sbx"])
def test_sac_trains(vec, library):
    sac = pytest.importorskip(library).SAC
    env = vec("cartpole_balance", 8)
    model = sac("MlpPolicy", env, learning_starts=400, gradient_steps=2, batch_size=64, seed=0)
    before, _ = model.predict(env.reset(), deterministic=True)
    model.learn(8 * 1_010)  # beyond the episodes' end
    after, _ = model.predict(env.reset(), deterministic=True)
    assert not np.allclose(before, after, atol=1e-2)
    episodes = model.ep_info_buffer
    assert len(episodes) == 8 and all(e["l"] == 1_000 and e["r"] > 50 for e in episodes)
    timeouts = model.replay_buffer.timeouts[: model.replay_buffer.pos]
    assert timeouts.sum() == 8 and timeouts[999].all()


def test_sbx_ppo_trains(vec):
    sbx = pytest.importorskip("sbx")
    env = vec("cartpole_balance", 16)
    model = sbx.PPO("MlpPolicy", env, n_steps=32, batch_size=128, seed=0)
    before, _ = model.predict(env.reset(), deterministic=True)
    model.learn(2_048)
    after, _ = model.predict(env.reset(), deterministic=True)
    assert not np.allclose(before, after)


def test_the_pages_example_runs(example):
    names = example("Stable-Baselines3")
    assert names["model"].num_timesteps == 8_192 and names["env"].num_envs == 64
    names["env"].close()


@pytest.mark.slow
@pytest.mark.timeout(900)  # minutes beside other programs
def test_ppo_learns_to_balance(vec, balances):
    env = vec("cartpole_balance", 32)
    model = stable_baselines3.PPO(
        "MlpPolicy", env, n_steps=64, batch_size=256, n_epochs=5, learning_rate=1e-3, seed=0
    )
    model.learn(400_000)
    balances(lambda obs: torch.from_numpy(model.predict(obs.numpy(), deterministic=True)[0]))
