"""skrl's trainer and agents learn through their wrapper."""

import pytest
import torch
from torch import nn

pytest.importorskip("skrl")

from skrl.agents.torch.ppo import PPO
from skrl.agents.torch.sac import SAC
from skrl.memories.torch import RandomMemory
from skrl.models.torch import DeterministicMixin, GaussianMixin, Model
from skrl.resources.preprocessors.torch import RunningStandardScaler
from skrl.trainers.torch import SequentialTrainer

import fastsac
from fastsac.adapters.skrl import Env, bootstrapping

NAN = float("nan")
NO_FILES = {"write_interval": 0, "checkpoint_interval": 0}


def _network(inputs, outputs):
    hidden = nn.Linear(inputs, 64), nn.ELU(), nn.Linear(64, 64), nn.ELU()
    return nn.Sequential(*hidden, nn.Linear(64, outputs))


class Policy(GaussianMixin, Model):
    def __init__(self, env):
        spaces = {"observation_space": env.observation_space, "action_space": env.action_space}
        Model.__init__(self, **spaces, device=env.device)
        GaussianMixin.__init__(self)
        self.net = _network(self.num_observations, self.num_actions)
        self.log_std = nn.Parameter(torch.full((self.num_actions,), -0.7))

    def compute(self, inputs, role=""):
        return self.net(inputs["observations"]), {"log_std": self.log_std}


class Value(DeterministicMixin, Model):
    def __init__(self, env, of_actions=False):
        spaces = {"observation_space": env.observation_space, "action_space": env.action_space}
        Model.__init__(self, **spaces, device=env.device)
        DeterministicMixin.__init__(self)
        self.net = _network(self.num_observations + of_actions * self.num_actions, 1)
        self.of_actions = of_actions

    def compute(self, inputs, role=""):
        taken = [inputs["taken_actions"]] if self.of_actions else []
        return self.net(torch.cat([inputs["observations"], *taken], -1)), {}


@pytest.fixture
def vec():
    made = []

    def build(*args, **kwargs):
        made.append(Env(*args, **kwargs))
        return made[-1]

    yield build
    for env in made:
        env.close()


def built(kind, env, models, memory, **config):
    """An agent with a memory of so many vector steps."""
    return kind(
        models=models,
        memory=RandomMemory(memory_size=memory, num_envs=env.num_envs, device=env.device),
        observation_space=env.observation_space,
        action_space=env.action_space,
        device=env.device,
        cfg={"experiment": NO_FILES, **config},
    )


def ppo(env, rollouts, **config):
    torch.manual_seed(0)
    models = {"policy": Policy(env), "value": Value(env)}
    config |= {"rollouts": rollouts, "time_limit_bootstrap": True}
    return bootstrapping(built(PPO, env, models, rollouts, **config))


def sac(env, memory, **config):
    torch.manual_seed(0)
    names = ("critic_1", "critic_2", "target_critic_1", "target_critic_2")
    models = {name: Value(env, of_actions=True) for name in names} | {"policy": Policy(env)}
    return bootstrapping(built(SAC, env, models, memory, **config))


def train(env, agent, steps):
    cfg = {"timesteps": steps, "disable_progressbar": True, "close_environment_at_exit": False}
    SequentialTrainer(cfg=cfg, env=env, agents=agent).train()


def test_a_step_is_the_envs_own(vec):
    env, ours = vec("walker_run", 3, seed=5), fastsac.make("walker_run", 3, seed=5)
    assert env.num_envs == 3 and env.device == ours.device and env.state_space is None
    assert env.observation_space.shape == (24,) and env.action_space.shape == (6,)
    assert torch.equal(env.reset()[0], ours.reset()[0])
    action = torch.full((3, 6), 0.3)
    obs, reward, terminated, truncated, infos = env.step(action)
    expected = ours.step(action)
    assert torch.equal(obs, expected[0]) and torch.equal(reward, expected[1][:, None])
    assert terminated.shape == truncated.shape == (3, 1)
    assert torch.equal(infos["final_obs"], expected[4]["final_obs"])
    assert torch.equal(env.reset()[0], obs)  # trainers ask again; the episodes go on
    assert env.state() is None and env.render() is None
    ours.close()


def test_a_diverged_world_is_terminated(vec):
    env = vec("pendulum_swingup", 2)
    env.reset()
    _, reward, terminated, truncated, _ = env.step(torch.tensor([[NAN], [0.0]]))
    assert terminated.tolist() == [[True], [False]] and reward[0] == 0 and not truncated.any()


def test_sac_learns_from_the_last_observation(vec):
    """At a time limit the next observation is the episode's last, not the next one's first."""
    env = vec("pendulum_swingup", 2)
    agent = sac(env, 1_010, learning_starts=1_000, random_timesteps=10)
    before = [p.clone() for p in agent.policy.parameters()]
    train(env, agent, 1_010)
    after = list(agent.policy.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    stored = agent.memory.get_tensor_by_name
    assert not stored("terminated").any()  # so the time limit's target has a bootstrap
    next_observation = stored("next_observations")[:, 0]
    same = (next_observation[:-1] == stored("observations")[1:, 0]).all(-1)
    assert (~same).nonzero().ravel().tolist() == [999]
    ours = fastsac.make("pendulum_swingup", 2)
    ours.reset()
    for action in stored("actions"):
        info = ours.step(action)[4]
        if info["_final_obs"].any():
            break
    assert torch.equal(next_observation[999], info["final_obs"][0])
    ours.close()


def test_ppo_bootstraps_from_the_last_observation(vec):
    env = vec("pendulum_swingup", 2)
    agent = ppo(env, rollouts=1_002, mini_batches=2, learning_epochs=1)
    ends = {}
    take = agent.value.act

    def noted(inputs, *, role=""):
        values = take(inputs, role=role)
        ends[len(ends)] = inputs["observations"], values[0]
        return values

    agent.value.act = noted
    train(env, agent, 1_001)  # no update yet
    rewards = agent.memory.get_tensor_by_name("rewards")[999]
    # The values of 1000 steps, of the last observations, and of the next episode's first.
    last, first = ends[1_000][0], ends[1_001][0]
    assert not torch.equal(last, first)
    ours = agent.memory.get_tensor_by_name("values")[999]
    assert not torch.equal(ours, ends[1_000][1])
    bootstrap = 0.99 * ends[1_000][1]
    assert ((rewards - bootstrap) >= -1e-6).all() and ((rewards - bootstrap) <= 1).all()


def test_the_pages_example_runs(example):
    names = example("skrl", build=lambda env: ppo(env, rollouts=64))
    assert names["env"].num_envs == 64 and names["env"].reset()[0].shape == (64, 5)
    names["env"].close()


@pytest.mark.slow
@pytest.mark.timeout(900)  # minutes beside other programs
def test_ppo_learns_to_balance(vec, balances):
    env = vec("cartpole_balance", 64)
    config = {"mini_batches": 16, "learning_epochs": 5, "learning_rate": 1e-3}
    # Without it returns of 100 are learned in steps of at most value_clip, 0.2.
    config |= {"value_preprocessor": RunningStandardScaler}
    config |= {"value_preprocessor_kwargs": {"size": 1, "device": env.device}}
    agent = ppo(env, rollouts=64, **config)
    train(env, agent, 16_000)
    balances(lambda obs: agent.policy.net(obs))


@pytest.mark.parametrize(("name", "value"), [("flatten", False), ("pixels", (8, 8))])
def test_observations_are_flat(vec, name, value):
    with pytest.raises(ValueError, match=f"this adapter takes no {name}"):
        vec("walker_run", 3, **{name: value})
    vec("walker_run", 3, flatten=True, pixels=None)
