"""Returns over several steps against sums over each world's whole history."""

import pytest
import torch

from fastsac import Batch, ReplayBuffer
from fastsac.learner.n_step import NStepReturns

STEPS, WORLDS, OBS, ACT, GAMMA = 300, 5, 3, 2, 0.9
FIELDS = ("obs", "action", "reward", "terminated", "ends", "final_obs", "valid")


def history(seed=0):
    """What each world does, each (STEPS, WORLDS, ...); rewards and observations are unique."""
    g = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(STEPS, WORLDS, *shape, generator=g).double()  # noqa: E731
    chance = lambda p: torch.rand(STEPS, WORLDS, generator=g) < p  # noqa: E731
    terminated, truncated, valid = chance(0.1), chance(0.1), ~chance(0.05)
    reward = normal().where(valid, torch.nan)
    ends = terminated | truncated | ~valid
    columns = normal(OBS), normal(ACT), reward, terminated & valid, ends, normal(OBS), valid
    return dict(zip(FIELDS, columns, strict=True))


def expected(of, start, world, n):
    """The transition that a world began at a step."""
    reward, weight, count = 0.0, 1.0, 0
    for at in range(start, start + n):
        reward += GAMMA**count * of["reward"][at, world].item()
        weight *= of["valid"][at, world].item()
        count += 1
        if of["ends"][at, world]:
            break
    obs, action = (of[name][start, world].tolist() for name in ("obs", "action"))
    terminated, next_obs = (of[name][at, world].tolist() for name in ("terminated", "final_obs"))
    return Batch(obs, action, reward, terminated, next_obs, weight, count)


def results(of, n):
    """What each step returns."""
    returns = NStepReturns(n, GAMMA)
    return [returns.add(**{name: x[t] for name, x in of.items()}) for t in range(STEPS)]


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_transitions_are_sums_over_the_history(n, close):
    of = history(n)
    kept = {name: x.clone() for name, x in of.items()}
    found = results(of, n)
    assert found[: n - 1] == [None] * (n - 1)
    wanted = [expected(kept, t, w, n) for t in range(STEPS - n + 1) for w in range(WORLDS)]
    got, want = (
        Batch(*map(torch.cat, zip(*found[n - 1 :], strict=True))),
        Batch(*zip(*wanted, strict=True)),
    )
    assert got.weight.tolist() == list(want.weight) and got.steps.tolist() == list(want.steps)
    assert set(want.steps) == set(range(1, n + 1))
    taught = got.weight == 1
    assert 0 < (~taught).sum() < len(taught) / 2
    for name in Batch._fields:  # where a step was invalid its reward is not a number
        want_here = torch.tensor(getattr(want, name), dtype=torch.float64)[taught]
        close(getattr(got, name)[taught], want_here, "float64", name)


def test_two_episodes_by_hand(close):
    """Rewards 1, 2, 4, 8, 16, 32, of which the second step's ends an episode, with gamma 1/2.

    1 + 2/2 = 2; 2; 4 + 8/2 + 16/4 = 12; 8 + 16/2 + 32/4 = 24.
    """
    returns, found = NStepReturns(3, 0.5), []
    for t in range(6):
        obs, final_obs = torch.tensor([[10.0 * t]]), torch.tensor([[10.0 * t + 9]])
        end = torch.tensor([t == 1])
        step = (obs, -obs, torch.tensor([2.0**t]), end, end, final_obs, torch.tensor([True]))
        found.append(returns.add(*step))
    assert found[:2] == [None, None]
    rows = [[x.item() for x in batch] for batch in found[2:]]
    # obs, action, reward, terminated, next_obs, weight, steps
    close(
        rows,
        [
            [0, 0, 2, 1, 19, 1, 2],
            [10, -10, 2, 1, 19, 1, 1],
            [20, -20, 12, 0, 49, 1, 3],
            [30, -30, 24, 0, 59, 1, 3],
        ],
        "float32",
    )


def test_one_step_is_itself():
    of = history()
    for t, batch in enumerate(results(of, 1)):
        names = ("obs", "action", "reward", "terminated", "final_obs", "valid")
        for got, name in zip(batch, names, strict=False):
            assert got.dtype == torch.float64
            torch.testing.assert_close(got, of[name][t].double(), rtol=0, atol=0, equal_nan=True)
        assert batch.steps.tolist() == [1] * WORLDS


def test_the_replay_takes_them_as_they_are():
    replay = ReplayBuffer(WORLDS, OBS, ACT)
    batch = results({name: x.nan_to_num() for name, x in history().items()}, 3)[-1]
    replay.add(*batch)
    kept = torch.cat([x.view(WORLDS, -1) for x in batch], 1).float()
    assert torch.equal(replay.rows, kept) and len(set(batch.steps.tolist())) > 1
