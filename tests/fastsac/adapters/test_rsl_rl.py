"""rsl_rl's runner trains PPO through its VecEnv."""

import pytest
import torch

pytest.importorskip("rsl_rl")

from rsl_rl.runners import OnPolicyRunner
from tensordict import TensorDict

import fastsac
from fastsac.adapters.rsl_rl import VecEnv

NAN = float("nan")


@pytest.fixture
def vec():
    made = []

    def build(*args, **kwargs):
        made.append(VecEnv(*args, **kwargs))
        return made[-1]

    yield build
    for env in made:
        env.env.close()


def configured(steps=32, **of_ppo):
    network = {"class_name": "MLPModel", "hidden_dims": [64, 64], "activation": "elu"}
    noise = {"class_name": "GaussianDistribution", "init_std": 0.5}
    return {
        "num_steps_per_env": steps,
        "save_interval": 1_000,
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "algorithm": {"class_name": "PPO", **of_ppo},
        "actor": {**network, "distribution_cfg": noise},
        "critic": network,
    }


def runner(env, steps=32, **of_ppo):
    torch.manual_seed(0)
    return OnPolicyRunner(env, configured(steps, **of_ppo))


def test_a_step_is_the_envs_own(vec):
    env, ours = vec("walker_run", 3, seed=5), fastsac.make("walker_run", 3, seed=5)
    assert (env.num_envs, env.num_actions, env.max_episode_length) == (3, 6, 1_000)
    assert torch.equal(env.get_observations()["policy"], ours.reset()[0])
    action = torch.full((3, 6), 0.3)
    obs, reward, done, extras = env.step(action)
    expected = ours.step(action)
    assert isinstance(obs, TensorDict) and torch.equal(obs["policy"], expected[0])
    assert torch.equal(env.get_observations()["policy"], expected[0])
    assert torch.equal(reward, expected[1]) and not done.any() and not extras["time_outs"].any()
    ours.close()


def test_episodes_ages_can_be_read_and_set(vec):
    env = vec("pendulum_swingup", 3)
    assert env.episode_length_buf.tolist() == [0, 0, 0]
    before = env.env.get_state()["qpos"]
    env.episode_length_buf = torch.tensor([10, 999, 500])
    assert env.episode_length_buf.tolist() == [10, 999, 500]
    assert torch.equal(env.env.get_state()["qpos"], before)  # the worlds stand where they stood
    _, _, done, extras = env.step(torch.zeros(3, 1))
    assert done.tolist() == extras["time_outs"].tolist() == [False, True, False]
    assert env.episode_length_buf.tolist() == [11, 0, 501]


def test_a_diverged_world_is_no_time_out(vec):
    env = vec("pendulum_swingup", 2)
    _, reward, done, extras = env.step(torch.tensor([[NAN], [0.0]]))
    assert done.tolist() == [True, False] and reward[0] == 0
    assert not extras["time_outs"].any()


def test_the_runner_trains_and_logs(vec, tmp_path):
    env = vec("cartpole_balance", 16)
    train = runner(env)
    train.logger.log_dir = str(tmp_path)
    before = [p.clone() for p in train.alg.actor.parameters()]
    train.learn(3, init_at_random_ep_len=True)
    after = list(train.alg.actor.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert (tmp_path / "model_2.pt").is_file()
    assert env.episode_length_buf.unique().numel() > 4  # the episodes do not end on one step


def test_the_pages_example_runs(example):
    names = example("rsl_rl", config=configured())
    assert names["runner"].current_learning_iteration == 1
    names["env"].env.close()


@pytest.mark.slow
@pytest.mark.timeout(900)  # minutes beside other programs
def test_ppo_learns_to_balance(vec, balances):
    train = runner(vec("cartpole_balance", 64), steps=64, learning_rate=1e-3, entropy_coef=0.0)
    train.learn(100, init_at_random_ep_len=True)
    policy = train.get_inference_policy("cpu")
    balances(lambda obs: policy(TensorDict({"policy": obs}, [len(obs)])))


@pytest.mark.parametrize(("name", "value"), [("flatten", False), ("pixels", (8, 8))])
def test_observations_are_flat(vec, name, value):
    with pytest.raises(ValueError, match=f"this adapter takes no {name}"):
        vec("walker_run", 3, **{name: value})
    vec("walker_run", 3, flatten=True, pixels=None)
