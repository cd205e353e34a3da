"""What a learner is given and used in by other programs: numpy's integers, torch's autocast."""

from contextlib import nullcontext

import numpy as np
import torch

from fastsac import SAC, Policy, ReplayBuffer, SACConfig


def test_an_autocast_around_it_changes_nothing():
    """--precision says what it computes in."""

    def results(around):
        agent = SAC(3, 1, SACConfig(normalize_obs=True, hidden_sizes=(16, 16)), seed=1)
        replay = ReplayBuffer(64, 3, 1, seed=2)
        obs = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
        replay.add(obs, obs[:, :1].tanh(), obs[:, 0], torch.zeros(64), obs + 0.1)
        with around:
            agent.observe(obs)
            losses = agent.learn(replay, 16, 3) | agent.update(replay.sample(16))
            actions = agent.act(obs), Policy.snapshot(agent, "any")(obs)
        return [*losses.values(), *actions, agent.actor_flat, agent.critics_flat]

    plain, inside = results(nullcontext()), results(torch.autocast("cpu", dtype=torch.bfloat16))
    assert all(map(torch.equal, plain, inside))


def test_sizes_are_integers_of_any_type():
    agent, replay = SAC(np.int64(3), np.int32(1)), ReplayBuffer(np.int64(8), np.int8(3), 1)
    assert (type(agent.obs_dim), type(replay.capacity)) == (int, int)
    rows = torch.zeros(8, 3)
    replay.add(rows, rows[:, :1], rows[:, 0], rows[:, 0], rows)
    assert len(agent.learn(replay, np.int64(4)))
