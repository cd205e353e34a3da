"""soft_td_target against the float64 formula."""

import numpy as np
import pytest
import torch

from fastsac.kernels import soft_td_target
from fastsac.kernels.soft_td_target import fused, reference

BATCHES = (1, 3, 64, 255, 1023)  # a program takes 256
GAMMA, ALPHA = 0.99, 0.2

each = pytest.mark.parametrize("function", [fused, reference])
each_dtype = pytest.mark.parametrize(
    "function, kind",
    [(fused, "float32"), (reference, "float32"), (reference, "float64")],
    ids=["fused", "reference", "reference64"],
)
each_reduction = pytest.mark.parametrize("reduction", ["min", "mean"])


def inputs(batch, members, kind="float32", device="cpu", by_row=False):
    """Reward, terminated, next_q (E, B), next_log_prob, alpha and discount."""
    generator = torch.Generator().manual_seed(batch)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    terminated = (draw(batch) > 0.5).double()
    # gamma^k, k = 1, 2, 3, of returns that end early.
    discount = GAMMA ** (1 + torch.arange(batch) % 3) if by_row else torch.tensor(GAMMA)
    drawn = draw(batch), terminated, 3 * draw(members, batch), 2 * draw(batch)
    moved = (*drawn, torch.tensor(ALPHA), discount)
    return tuple(x.to(device, getattr(torch, kind)) for x in moved)


def formula(reward, terminated, next_q, next_log_prob, alpha, discount, reduction):
    tensors = (reward, terminated, next_q, next_log_prob, alpha, discount)
    r, d, q, log_prob, alpha, gamma = (x.double().cpu().numpy() for x in tensors)
    value = {"min": np.min, "mean": np.mean}[reduction](q, axis=0)
    return r + gamma * (1 - d) * (value - alpha * log_prob)


@pytest.mark.parametrize("by_row", [False, True], ids=["gamma", "gamma a row"])
@pytest.mark.parametrize("members", [1, 2, 3, 10])
@pytest.mark.parametrize("batch", BATCHES)
@each_reduction
@each_dtype
def test_equals_the_formula(function, kind, reduction, batch, members, by_row, device, close):
    given = inputs(batch, members, kind, device, by_row)
    kept = [x.clone() for x in given]
    target = function(*given, reduction)
    assert target.shape == (batch,) and target.dtype == given[0].dtype
    close(target, formula(*kept, reduction), kind)
    assert all(torch.equal(a, b) for a, b in zip(given, kept, strict=True)), "an input changed"


@each
def test_three_transitions_by_hand(function, device, close):
    # The middle row ends; the last is cut off by the time limit, which is no end.
    # min:  1 + 0.9 (2 - 0.5 * -1) = 3.25;  2;  -1 + 0.9 (-4 - 0.5 * 2) = -5.5
    # mean: 1 + 0.9 (3 - 0.5 * -1) = 4.15;  2;  -1 + 0.9 (-3 - 0.5 * 2) = -4.6
    reward, log_prob = torch.tensor([[1.0, 2.0, -1.0], [-1.0, 7.0, 2.0]], device=device)
    terminated = torch.tensor([0.0, 1.0, 0.0], device=device)
    next_q = torch.tensor([[2.0, 9.0, -2.0], [4.0, 5.0, -4.0]], device=device)
    alpha, gamma = torch.tensor([0.5, 0.9], device=device)
    for reduction, want in (("min", [3.25, 2, -5.5]), ("mean", [4.15, 2, -4.6])):
        given = reward, terminated, next_q, log_prob, alpha, gamma
        close(function(*given, reduction), want, "float32")


@pytest.mark.parametrize("layout", ["transposed", "wider rows", "every other", "one for all"])
@each_reduction
@each
def test_strided_inputs(function, reduction, layout, device, close):
    def strided(x):
        if layout == "transposed":
            return x.t().contiguous().t()
        if layout == "wider rows":  # a slice of each member's
            return torch.cat([x, x + 1], -1)[..., : x.shape[-1]] if x.dim() else x
        if layout == "every other":
            return x.repeat_interleave(2, -1)[..., ::2] if x.dim() else x
        return x[..., :1].expand_as(x) if x.dim() else x

    given = [strided(x) for x in inputs(255, 3, device=device, by_row=True)]
    assert not given[2].is_contiguous()
    close(function(*given, reduction), formula(*given, reduction), "float32")


@pytest.mark.parametrize("member", [0, 1, 2])
@each_reduction
@each
def test_a_critic_that_diverged_shows(function, reduction, member, device):
    given = inputs(64, 3, device=device)
    given[1].zero_()
    given[2][member, 5] = torch.nan
    assert torch.argwhere(function(*given, reduction).isnan()).tolist() == [[5]]


@each
def test_at_an_end_the_target_is_the_reward(function, device):
    reward, _, next_q, *others = inputs(255, 2, device=device)
    ends = function(reward, torch.ones_like(reward), 1e6 * next_q, *others, "min")
    assert torch.equal(ends, reward)
    continued = function(reward, torch.zeros_like(reward), next_q, *others, "min")
    assert (continued != reward).all()


@each_dtype
@each_reduction
def test_the_tolerance_notices_one_percent(function, kind, reduction, device, close):
    given = inputs(64, 3, kind, device)
    want = formula(*given, reduction)
    for at in (0, 2, 3, 4, 5):
        changed = [1.01 * x if i == at else x for i, x in enumerate(given)]
        with pytest.raises(AssertionError):
            close(function(*changed, reduction), want, kind)


def test_the_entry_takes_the_minimum_by_default_and_gives_no_gradient():
    given = [x.requires_grad_() for x in inputs(9, 2)]
    target = soft_td_target(*given)
    assert not target.requires_grad
    assert torch.equal(target, reference(*given, "min"))


@pytest.mark.parametrize(
    "at, wrong, part",
    [
        (0, torch.ones(1), r"reward must be \(4,\) .* got \(1,\)"),  # torch would broadcast
        (1, torch.ones(4, 1), r"terminated must be \(4,\) .* got \(4, 1\)"),
        (2, torch.ones(4), r"next_q must have shape \(E, B\), got \(4,\)"),
        (2, torch.ones(4, 2), r"reward must be \(2,\) .* got \(4,\)"),
        (3, torch.ones(5), r"next_log_prob must be \(4,\) .* got \(5,\)"),
        (4, torch.ones(4), r"alpha must be \(\) .* got \(4,\)"),
        (3, torch.ones(4).double(), r"next_log_prob must be .* got \(4,\) torch.float64"),
        (5, torch.ones(1), r"discount must be \(4,\) .* got \(1,\)"),
        (6, "max", "reduction must be 'min' or 'mean', got 'max'"),
    ],
)
def test_what_does_not_fit_is_refused(at, wrong, part):
    given = [*inputs(4, 2), "min"]
    given[at] = wrong
    with pytest.raises(ValueError, match=part):
        soft_td_target(*given)
