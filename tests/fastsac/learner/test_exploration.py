"""Held noise: each step's is standard normal, held for k steps as often as 1 / k^2 says."""

import copy
import math

import torch

import fastsac
from fastsac.learner.exploration import HeldNoise
from fastsac.training.state import TrainingState

CPU = torch.device("cpu")


def steps(noise, count):
    return torch.stack([noise.next() for _ in range(count)])


def test_each_step_is_standard_normal():
    drawn = steps(HeldNoise(2000, 3, 16, CPU, 0), 60)[40]
    assert drawn.shape == (2000, 3) and drawn.dtype == torch.float32
    assert drawn.mean().abs() < 0.05 and (drawn.std() - 1).abs() < 0.05
    assert torch.corrcoef(drawn.T).fill_diagonal_(0).abs().max() < 0.08


def test_it_is_held_as_often_as_it_should_be():
    most, count = 16, 400
    drawn = steps(HeldNoise(500, 1, most, CPU, 1), count)[..., 0]
    changes = (drawn[1:] != drawn[:-1]).T.nonzero()
    worlds, times = changes.T
    same = worlds[1:] == worlds[:-1]
    lengths = (times[1:] - times[:-1])[same]
    share = torch.bincount(lengths, minlength=most + 1)[1:] / len(lengths)
    expected = torch.arange(1, most + 1) ** -2.0
    torch.testing.assert_close(share, expected / expected.sum(), atol=0.01, rtol=0.1)
    assert lengths.max() == most


def test_one_step_is_the_usual_noise():
    drawn = steps(HeldNoise(50, 2, 1, CPU, 2), 20)
    assert (drawn[1:] != drawn[:-1]).all()


def test_it_goes_on_where_it_was():
    ours = HeldNoise(5, 2, 8, CPU, 3)
    steps(ours, 7)
    again = HeldNoise(5, 2, 8, CPU, 4)
    again.load_state_dict({k: v.clone() for k, v in ours.state_dict().items()})
    assert torch.equal(steps(again, 20), steps(ours, 20))


def test_a_training_acts_by_it():
    """Uniform actions at first, then the policy's, each made of what the world holds."""
    config = fastsac.TrainConfig(
        "reacher_easy", num_envs=400, noise_steps=16, learning_starts=2_000, batch_size=16
    )
    state = TrainingState(config)
    try:
        state.start()
        twin = HeldNoise(400, 2, 16, CPU, 0)
        twin.load_state_dict(copy.deepcopy(state._noise.state_dict()))
        drawn = steps(twin, 20)
        first = torch.stack([state.action() for _ in range(20)])
        torch.testing.assert_close(first, torch.erf(drawn / math.sqrt(2)))
        shares = torch.quantile(first.flatten(), torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9]))
        uniform = torch.tensor([-0.8, -0.5, 0, 0.5, 0.8])
        torch.testing.assert_close(shares, uniform, atol=0.05, rtol=0)
        assert (first[1:] == first[:-1]).all(dim=-1).float().mean() > 0.3
        state.steps = 2_000
        assert torch.equal(state.action(), state.agent.act(state.obs, noise=twin.next()))
    finally:
        state.close()
