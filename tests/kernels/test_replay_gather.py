"""replay_gather against numpy's indexing, and the replay whose rows it reads."""

import numpy as np
import pytest
import torch

from fastsac.kernels import replay_gather
from fastsac.kernels.replay_gather import fused, reference
from fastsac.learner.replay import Batch, ReplayBuffer

CAPACITY = 37
BATCHES = (1, 3, 64, 255, 1023)
DIMS = [(batch, o, a) for batch in BATCHES for o, a in ((1, 1), (3, 2), (17, 6))]

each = pytest.mark.parametrize("function", [fused, reference])
each_dtype = pytest.mark.parametrize(
    "function, kind",
    [(fused, "float32"), (reference, "float32"), (reference, "float64")],
    ids=["fused", "reference", "reference64"],
)


def inputs(batch, obs_dim, action_dim, kind="float32", device="cpu"):
    """Rows, an index with the first row, the last and repetitions, mean and variance."""
    generator = torch.Generator().manual_seed(batch)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    rows = 2 * draw(CAPACITY, 2 * obs_dim + action_dim + 4) + 1
    index = torch.randint(CAPACITY, (batch,), generator=generator)
    index[:1], index[-1:] = 0, CAPACITY - 1
    numbers = rows, draw(obs_dim), draw(obs_dim).square() + 0.1
    rows, mean, var = (x.to(device, getattr(torch, kind)) for x in numbers)
    return rows, index.to(device), mean, var


def parts(rows, index, action_dim, mean=None, var=None):
    """The parts in numpy float64."""
    chosen, a = rows.double().cpu().numpy()[index.cpu().numpy()], action_dim
    o = (chosen.shape[1] - a - 4) // 2
    obs, next_obs = chosen[:, :o], chosen[:, o + a + 2 : 2 * o + a + 2]
    if mean is not None:
        mean, var = (x.double().cpu().numpy() for x in (mean, var))
        obs, next_obs = ((x - mean) / np.sqrt(var + 1e-8) for x in (obs, next_obs))
    return Batch(
        obs=obs,
        action=chosen[:, o : o + a],
        reward=chosen[:, o + a],
        terminated=chosen[:, o + a + 1],
        next_obs=next_obs,
        weight=chosen[:, 2 * o + a + 2],
        steps=chosen[:, 2 * o + a + 3],
    )


@pytest.mark.parametrize("batch, obs_dim, action_dim", [*DIMS, (64, 67, 21)])
@each_dtype
def test_parts_are_exact_and_observations_normalized(
    function, kind, batch, obs_dim, action_dim, device, close
):
    rows, index, mean, var = inputs(batch, obs_dim, action_dim, kind, device)
    kept = rows.clone()
    plain, normalized = (
        Batch(*function(rows, index, action_dim, *statistics))
        for statistics in ((None, None), (mean, var))
    )
    raw, want = parts(rows, index, action_dim), parts(rows, index, action_dim, mean, var)
    for name in Batch._fields:
        assert np.array_equal(getattr(plain, name).cpu().numpy(), getattr(raw, name)), name
        got = getattr(normalized, name)
        assert got.dtype == rows.dtype
        if "obs" in name:
            close(got, getattr(want, name), kind, name)
        else:
            assert np.array_equal(got.cpu().numpy(), getattr(raw, name)), name
    assert torch.equal(rows, kept)


@pytest.mark.parametrize("obs_dim, action_dim", [(255, 129), (256, 1), (257, 3), (300, 300)])
@each
def test_wide_rows(function, obs_dim, action_dim, device, close):  # the kernel copies 256 at a time
    rows, index, mean, var = inputs(5, obs_dim, action_dim, device=device)
    want = parts(rows, index, action_dim, mean, var)
    got = Batch(*function(rows, index, action_dim, mean, var))
    for name in Batch._fields:
        close(getattr(got, name), getattr(want, name), "float32", name)


@each
def test_one_row_many_times(function, device):
    rows, _, _, _ = inputs(1, 3, 2, device=device)
    index = torch.full((33,), CAPACITY - 1, device=device)
    for got, want in zip(function(rows, index, 2, None, None), parts(rows, index, 2), strict=True):
        assert np.array_equal(got.cpu().numpy(), want)


@each
def test_one_transition_by_hand(function, device, close):
    # obs (1, 2), action 3, reward 4, terminated 0, next_obs (5, 6), weight 1, steps 7.
    rows = torch.tensor([[9.0] * 9, [1, 2, 3, 4, 0, 5, 6, 1, 7]], device=device)
    mean, var = torch.tensor([[1.0, 0.0], [4.0, 0.25]], device=device)
    got = Batch(*function(rows, torch.tensor([1], device=device), 1, mean, var))
    close(got.obs, [[0, 4]], "float32")
    close(got.next_obs, [[2, 12]], "float32")
    others = got.action, got.reward, got.terminated, got.weight, got.steps
    assert [x.item() for x in others] == [3, 4, 0, 1, 7]


@each
def test_an_observation_that_never_changed_stays_finite(function, device, close):
    rows, index, mean, _ = inputs(9, 3, 2, device=device)
    var = torch.zeros_like(mean)
    close(function(rows, index, 2, mean, var)[0] / 1e4, parts(rows, index, 2, mean, var).obs / 1e4,
          "float32")  # fmt: skip


@each
def test_strided_statistics(function, device, close):
    rows, index, mean, var = inputs(9, 5, 2, device=device)
    want = parts(rows, index, 2, mean, var)
    mean, var = torch.stack([mean, var], 1).unbind(1)
    assert not mean.is_contiguous()
    close(function(rows, index, 2, mean, var)[0], want.obs, "float32")


@each
def test_a_value_that_is_not_finite_stays_in_its_row(function, device):
    rows, _, mean, var = inputs(1, 3, 2, device=device)
    rows[4, 1] = torch.nan
    index = torch.arange(CAPACITY, device=device)
    obs, *others = function(rows, index, 2, mean, var)
    assert torch.argwhere(obs.isnan()).tolist() == [[4, 1]]
    assert all(x.isfinite().all() for x in others)


@each_dtype
def test_the_tolerance_notices_one_percent(function, kind, device, close):
    rows, index, mean, var = inputs(64, 5, 2, kind, device)
    want = parts(rows, index, 2, mean, var)
    for changed in ((1.01 * rows, mean, var), (rows, 1.01 * mean, var), (rows, mean, 1.01 * var)):
        got = Batch(*function(changed[0], index, 2, *changed[1:]))
        for name in ("obs", "next_obs"):
            with pytest.raises(AssertionError):
                close(getattr(got, name), getattr(want, name), kind)


def test_the_rows_are_those_of_the_replay_and_any_index_is_taken():
    replay = ReplayBuffer(8, 3, 2)
    batch = Batch(
        *(torch.rand(*shape) for shape in ((8, 3), (8, 2), (8,), (8,), (8, 3), (8,), (8,)))
    )
    replay.add(*batch)
    index = torch.tensor([7, 0, 0, 1, 3, 2])[::2]
    for got, want in zip(replay_gather(replay.rows, index, 2), batch, strict=True):
        assert torch.equal(got, want[index])


@pytest.mark.parametrize(
    "changes, part",
    [
        ({"rows": torch.ones(4, 13)}, r"\(C, 2 O \+ 2 \+ 4\), got \(4, 13\)"),
        ({"rows": torch.ones(4, 5)}, r"got \(4, 5\)"),  # no observation
        ({"rows": torch.ones(12)}, r"got \(12,\)"),
        ({"rows": torch.ones(12, 4).t()}, "rows must be contiguous"),
        (
            {"index": torch.zeros(2, 1, dtype=torch.int64)},
            r"index must be \(B,\) int64, got \(2, 1\)",
        ),
        ({"index": torch.zeros(2, dtype=torch.int32)}, "got .* torch.int32"),
        ({"mean": torch.ones(3)}, "mean and var come together"),
        ({"var": torch.ones(3)}, "mean and var come together"),
        ({"mean": torch.ones(3), "var": torch.ones(1)}, r"var must be \(3,\) .* got \(1,\)"),
        ({"mean": torch.ones(4), "var": torch.ones(3)}, r"mean must be \(3,\) .* got \(4,\)"),
    ],
)
def test_what_does_not_fit_is_refused(changes, part):
    given = {"rows": torch.ones(4, 12), "index": torch.zeros(2, dtype=torch.int64)}
    with pytest.raises(ValueError, match=part):
        replay_gather(action_dim=2, **given | changes)
