"""What every rank of a torchrun runs in test_ranks.py: updates of small learners, dumped."""

import sys
from pathlib import Path

import torch

import fastsac
from fastsac.training.ranks import joined

OBS, ACTION, BATCH, UPDATES = 5, 2, 8, 100
SEED = 3  # of the weights
NAN_UPDATE, NAN_OBS = 50, 10  # numbers of a batch and of observations that rank 1 has with a NaN
CONFIGS = {
    "plain": fastsac.SACConfig(hidden_sizes=(16, 16)),
    "whole": fastsac.SACConfig(
        hidden_sizes=(16, 16),
        layer_norm=True,
        normalize_obs=True,
        num_atoms=11,
        policy_delay=3,
        critic_reduction="mean",
    ),
}


def generator(*numbers):
    return torch.Generator().manual_seed(sum(n * 1000**i for i, n in enumerate(numbers)) + 1)


def observations(rank, number):
    """Far from 0, where float32's squares would cancel; each rank's of another mean."""
    obs = 1000 + rank + torch.randn(BATCH, OBS, generator=generator(rank, number, 1))
    if (rank, number) == (1, NAN_OBS):
        obs[0, 0] = torch.nan
    return obs


def batch(rank, number, far=0.0):
    def draw(*shape):
        return torch.randn(shape, generator=source)

    source = generator(rank, number, 2)
    obs, action, reward = draw(BATCH, OBS) + far, draw(BATCH, ACTION).tanh(), draw(BATCH)
    if (rank, number) == (1, NAN_UPDATE):
        reward[0] = torch.nan
    terminated, weight = (draw(BATCH) > 1).float(), (draw(BATCH) > -1).float()
    return fastsac.Batch(
        obs, action, reward, terminated, draw(BATCH, OBS) + far, weight, torch.ones(BATCH)
    )


def updated(name, ranks):
    """Returns the state of a learner after updates on this rank's batches."""
    agent = fastsac.SAC(OBS, ACTION, CONFIGS[name], seed=SEED, peers=ranks.peers)
    agent.generator.manual_seed(ranks.rank)
    for number in range(UPDATES):
        agent.observe(observations(ranks.rank, number))
        agent.update(batch(ranks.rank, number, far=1000.0 if agent.normalizer else 0.0))
    return agent.state_dict()


def learned(name, ranks, device):
    """Returns the same after blocks of updates from this rank's replay, on a GPU in a graph."""
    sizes = OBS, ACTION
    agent = fastsac.SAC(*sizes, CONFIGS[name], device, SEED, strict=True, peers=ranks.peers)
    replay = fastsac.ReplayBuffer(64, *sizes, device, ranks.seed(SEED))
    for number in range(8):
        rows = batch(ranks.rank, number)
        replay.add(*(x.to(device) for x in rows[:6]))
        agent.observe(rows.obs.to(device))
    for _ in range(UPDATES // 4):
        agent.observe(replay.sample(4).obs)  # a collective between the graph's
        agent.learn(replay, BATCH, num_updates=4)
    captures = sum(call.captures for call in agent._graphed.values())
    state = agent.state_dict() | {"captures": captures}
    agent.close()
    return state


if __name__ == "__main__":
    out, torch_device = Path(sys.argv[1]), sys.argv[2]
    with joined() as these:
        for each in CONFIGS:
            if torch_device == "cpu":
                torch.save(updated(each, these), out / f"updated-{each}-{these.rank}.pt")
            state_dict = learned(each, these, torch_device)
            torch.save(state_dict, out / f"learned-{each}-{these.rank}.pt")
