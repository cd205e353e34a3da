"""RunningNorm against numpy over everything that it was shown."""

import numpy as np
import pytest
import torch

from fastsac.learner.normalizer import RunningNorm

DIM = 5


def data(count, offset=0.0, seed=0):
    rng = np.random.default_rng(seed)
    scales = np.array([1.0, 0.01, 30.0, 1.0, 5.0])
    return (offset + scales * rng.standard_normal((count, DIM)) + np.arange(DIM)).astype(np.float32)


def shown(x, sizes):
    norm, start = RunningNorm(DIM), 0
    for size in sizes:
        norm.update(torch.from_numpy(x[start : start + size]))
        start += size
    assert start == len(x)
    return norm


@pytest.mark.parametrize(
    "sizes",
    [[1000], [1] * 1000, [500, 500], [1, 999], [999, 1], [3, 64, 255, 678], [10] * 100],
    ids=["at once", "one by one", "halves", "one first", "one last", "uneven", "tens"],
)
def test_equals_mean_and_variance_of_all_that_was_shown(sizes, close):
    x = data(1000)
    norm = shown(x, sizes)
    mean, var = x.astype(np.float64).mean(0), x.astype(np.float64).var(0)
    scale = np.sqrt(var)
    close(norm.mean.numpy() / scale, mean / scale, "running statistics", "mean, in deviations")
    close(norm.var.numpy() / var, np.ones(DIM), "running statistics", "variance")
    assert norm.count.item() == 1000
    want = (x - mean) / np.sqrt(var + 1e-8)
    close(norm(torch.from_numpy(x)), want, "running statistics", "normalised")


def test_standardised_data_has_mean_zero_and_variance_one():
    x = data(4096, seed=1)
    z = shown(x, [256] * 16)(torch.from_numpy(x)).double()
    assert (z.mean(0).abs() < 1e-3).all() and ((z.var(0, correction=0) - 1).abs() < 1e-3).all()


def test_it_is_the_identity_before_the_first_update():
    x = torch.from_numpy(data(7))
    torch.testing.assert_close(RunningNorm(DIM)(x), x, rtol=1e-7, atol=0)


def test_using_it_changes_nothing():
    norm = shown(data(100), [100])
    before = [b.clone() for b in norm.buffers()]
    x = torch.from_numpy(data(3, seed=2))
    kept = x.clone()
    assert torch.equal(norm(x), norm(x)) and torch.equal(x, kept)
    assert all(torch.equal(a, b) for a, b in zip(before, norm.buffers(), strict=True))


@pytest.mark.parametrize("batch", [1, 16, 1000])
@pytest.mark.parametrize("offset", [1e3, -1e4])
def test_large_offsets_do_not_swamp_the_variance(offset, batch):
    # float32 near 1e4 has a resolution of 1e-3. Accepted: 2% of a deviation in the mean and 2% of
    # the deviation, for deviations of 1 and more.
    x = data(4000, offset)[:, [0, 2, 3, 4, 0]]
    norm = shown(x, [batch] * (4000 // batch))
    mean, std = x.astype(np.float64).mean(0), x.astype(np.float64).std(0)
    assert (np.abs(norm.mean.numpy() - mean) < 0.02 * std).all()
    assert (np.abs(np.sqrt(norm.var.numpy()) - std) < 0.02 * std).all()


@pytest.mark.parametrize("seen", [0, 100])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])  # the square of 1e30 is infinite
def test_a_batch_that_is_not_finite_does_not_count(bad, seen):
    norm, x = shown(data(seen), [seen] if seen else []), torch.from_numpy(data(50, seed=1))
    twin = shown(data(seen), [seen] if seen else [])
    poisoned = x.clone()
    poisoned[49, 4] = bad
    norm.update(poisoned)
    assert all(torch.equal(a, b) for a, b in zip(norm.buffers(), twin.buffers(), strict=True))
    norm.update(x), twin.update(x)
    assert all(torch.equal(a, b) for a, b in zip(norm.buffers(), twin.buffers(), strict=True))
    assert norm.count == seen + 50


def test_a_constant_observation_becomes_zero():
    x = torch.full((10, DIM), 1234.5)
    norm = RunningNorm(DIM)
    for _ in range(50):
        norm.update(x)
        norm.update(x[:1])
    assert torch.equal(norm(x), torch.zeros(10, DIM))


def test_its_state_is_all_there_is():
    norm = shown(data(100), [60, 40])
    other = RunningNorm(DIM)
    other.load_state_dict(norm.state_dict())
    for one in (norm, other):
        one.update(torch.from_numpy(data(50, seed=3)))
    assert all(torch.equal(a, b) for a, b in zip(norm.buffers(), other.buffers(), strict=True))
    assert not list(norm.parameters())


def test_the_tolerance_notices_one_percent(close):
    x = data(1000)
    norm = shown(x, [1000])
    with pytest.raises(AssertionError):
        close(1.01 * norm.var.numpy() / x.var(0), np.ones(DIM), "running statistics")
