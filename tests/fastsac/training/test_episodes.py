"""EpisodeReturns by hand."""

import pytest
import torch

from fastsac.training.episodes import EpisodeReturns


def add(episodes, reward, done=None, valid=None):
    count = len(reward)
    episodes.add(
        torch.tensor(reward),
        torch.tensor(done or [0] * count).bool(),
        torch.tensor(valid or [1] * count).bool(),
    )


def mean(episodes):
    value = episodes.take_mean().item()
    return None if value != value else value


def test_the_mean_is_over_the_episodes_that_ended_since_the_last_call():
    episodes = EpisodeReturns(torch.zeros(3, dtype=torch.int64))
    assert mean(episodes) is None
    add(episodes, [1.0, 10.0, 100.0])
    assert mean(episodes) is None
    add(episodes, [2.0, 20.0, 200.0], done=[1, 0, 1])  # returns 3 and 300
    add(episodes, [4.0, 40.0, 400.0], done=[0, 1, 0])  # return 70
    assert mean(episodes) == pytest.approx((3 + 300 + 70) / 3)
    assert mean(episodes) is None
    add(episodes, [8.0, 80.0, 800.0], done=[1, 0, 0])  # return 4 + 8
    assert mean(episodes) == pytest.approx(12)


def test_episodes_of_one_step_count():
    episodes = EpisodeReturns(torch.zeros(2, dtype=torch.int64))
    add(episodes, [0.25, 0.5], done=[1, 1])
    add(episodes, [0.75, 0.5], done=[1, 0])
    assert mean(episodes) == pytest.approx((0.25 + 0.5 + 0.75) / 3)


def test_first_episodes_that_began_before_do_not_count():
    # World 0 starts at its episode's beginning, world 1 in its middle, world 2 one step from it.
    episodes = EpisodeReturns(torch.tensor([0, 500, 1]))
    add(episodes, [1.0, 1.0, 1.0], done=[0, 1, 0])
    assert mean(episodes) is None
    add(episodes, [1.0, 5.0, 1.0], done=[0, 0, 1])
    assert mean(episodes) is None
    add(episodes, [1.0, 6.0, 7.0], done=[1, 1, 1])  # 3 from world 0, then 11 and 7 from new ones
    assert mean(episodes) == pytest.approx((3 + 11 + 7) / 3)


def test_an_episode_that_ends_invalid_does_not_count_and_the_next_one_does():
    episodes = EpisodeReturns(torch.zeros(2, dtype=torch.int64))
    add(episodes, [1.0, 1.0])
    add(episodes, [50.0, 1.0], done=[1, 1], valid=[0, 1])
    assert mean(episodes) == pytest.approx(2)
    add(episodes, [3.0, 4.0], done=[1, 0])
    assert mean(episodes) == pytest.approx(3)


def test_a_partial_first_episode_that_ends_invalid_is_followed_by_one_that_counts():
    episodes = EpisodeReturns(torch.tensor([7]))
    add(episodes, [1.0], done=[1], valid=[0])
    add(episodes, [2.0], done=[1])
    assert mean(episodes) == pytest.approx(2)


def test_extreme_rewards_are_remembered():
    episodes = EpisodeReturns(torch.zeros(2, dtype=torch.int64))
    add(episodes, [0.5, 3.0], done=[1, 1])
    assert (episodes.lowest.item(), episodes.highest.item()) == (0, 3)
    add(episodes, [-2.0, 1.0])
    assert (episodes.lowest.item(), episodes.highest.item()) == (-2, 3)


def test_inputs_are_left_alone():
    clocks = torch.tensor([0, 3])
    episodes = EpisodeReturns(clocks)
    reward, done, valid = torch.tensor([1.0, 2.0]), torch.tensor([True, True]), torch.ones(2).bool()
    episodes.add(reward, done, valid)
    assert clocks.tolist() == [0, 3] and reward.tolist() == [1, 2]
    assert done.all() and valid.all()


def test_long_episodes_keep_their_precision():
    # 1000 steps of 0.9: float32 sums to within 1e-3 of 900.
    episodes = EpisodeReturns(torch.zeros(1, dtype=torch.int64))
    for step in range(1000):
        add(episodes, [0.9], done=[step == 999])
    assert mean(episodes) == pytest.approx(900, abs=1e-2)
