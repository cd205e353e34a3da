"""categorical_td_loss against dense float64 formulas in numpy."""

import math

import numpy as np
import pytest
import torch

from fastsac.kernels import Atoms, Transitions, categorical_td_gradient, categorical_td_loss
from fastsac.kernels.categorical_td_loss import (
    fused,
    fused_gradient,
    reference,
    reference_gradient,
)

GAMMA, ALPHA = 0.97, 0.2
FLOAT32 = "float32 projection"
# (E, B, N): the kernel pads E and N to powers of two and takes 16 atoms at a time.
SHAPES = [
    (1, 1, 2), (2, 9, 2), (2, 3, 17), (1, 3, 51), (2, 9, 51), (10, 3, 51), (3, 3, 101), (2, 9, 101),
    (2, 1, 128), (1, 3, 255), (10, 1, 255),
]  # fmt: skip

# Masked lanes subtract infinities, which numpy says and a GPU does not.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
each = pytest.mark.parametrize("function", [fused, reference])
each_dtype = pytest.mark.parametrize(
    "function, kind",
    [(fused, FLOAT32), (reference, FLOAT32), (reference, "float64")],
    ids=["fused", "reference", "reference64"],
)
each_gradient = pytest.mark.parametrize(
    "function, kind",
    [(fused_gradient, FLOAT32), (reference_gradient, FLOAT32), (reference_gradient, "float64")],
    ids=["fused", "reference", "reference64"],
)
each_reduction = pytest.mark.parametrize("reduction", ["min", "mean"])


def inputs(shape, kind=FLOAT32, device="cpu", by_row=False):
    """Logits, next logits (E, B, N), transitions, and atoms that some rewards lie beyond."""
    members, batch, num = shape
    generator = torch.Generator().manual_seed(sum(shape))
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    logits, next_logits = 2 * draw(*shape), 2 * draw(*shape)
    # gamma^k, k = 1, 2, 3, of returns that end early.
    discount = GAMMA ** (1 + torch.arange(batch) % 3) if by_row else torch.tensor(GAMMA)
    rows = 8 * draw(batch), (draw(batch) > 0.5).double(), 4 * draw(batch)
    moved = (logits, next_logits, *rows, torch.tensor(ALPHA), discount)
    logits, next_logits, *rows = (x.to(device, getattr(torch, kind.split()[0])) for x in moved)
    return logits, next_logits, Transitions(*rows), Atoms(num, -10.0, 12.0)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def float64(*tensors):
    return [x.detach().double().cpu().numpy() for x in tensors]


def projected(next_logits, transitions, atoms, reduction):
    """The target (B, N): each pair of moved atom and atom by the triangular kernel."""
    r, terminated, log_prob, alpha, gamma = float64(*transitions)
    p = softmax(*float64(next_logits))
    z = np.linspace(atoms.v_min, atoms.v_max, atoms.num)
    if reduction == "mean":
        p = p.mean(0)
    else:
        p = np.take_along_axis(p, (p @ z).argmin(0)[None, :, None], 0)[0]
    soft = z[None, :] - (alpha * log_prob)[:, None]
    moved = r[:, None] + (gamma * (1 - terminated))[..., None] * soft
    moved = np.clip(moved, atoms.v_min, atoms.v_max)
    distance = np.abs(moved[:, :, None] - z) / (z[1] - z[0])
    return (p[:, :, None] * np.maximum(0, 1 - distance)).sum(1)


def expected(logits, *others):
    """The losses (E, B), and their gradients with respect to the logits (E, B, N)."""
    p, target = softmax(*float64(logits)), projected(*others)
    x = float64(logits)[0]
    log_p = x - x.max(-1, keepdims=True)
    log_p = log_p - np.log(np.exp(log_p).sum(-1, keepdims=True))
    return -(target * log_p).sum(-1), p - target


def unequal(loss):
    """Gradients of the losses (E, B), no two the same: members and rows cannot be mistaken."""
    weight = torch.arange(1.0, 1 + loss.numel(), device=loss.device).view(loss.t().shape).t()
    return (weight / loss.numel()).to(loss.dtype)


def check(function, given, kind, close):
    logits, *others = given
    loss = function(logits.requires_grad_(), *others)
    want, by_logits = expected(*given)
    close(loss, want, kind, "loss")
    weight = unequal(loss)
    (gradient,) = torch.autograd.grad(loss, logits, weight)
    assert gradient.dtype == loss.dtype == logits.dtype
    close(gradient, float64(weight)[0][..., None] * by_logits, kind, "gradient")


@pytest.mark.parametrize("by_row", [False, True], ids=["gamma", "gamma a row"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@each_reduction
@each_dtype
def test_losses_and_gradients_equal_the_formula(
    function, kind, reduction, shape, by_row, device, close
):
    given = inputs(shape, kind, device, by_row)
    kept = [x.clone() for x in (*given[:2], *given[2])]
    check(function, (*given, reduction), kind, close)
    assert all(torch.equal(a, b) for a, b in zip(kept, (*given[:2], *given[2]), strict=True))


@each_reduction
@each
def test_strided_inputs(function, reduction, device, close):
    logits, next_logits, transitions, atoms = inputs((3, 5, 51), device=device, by_row=True)
    logits = logits.transpose(0, 1).contiguous().transpose(0, 1)
    next_logits = next_logits.transpose(1, 2).contiguous().transpose(1, 2)
    strided = (x.repeat_interleave(2, -1)[::2] if x.dim() else x for x in transitions)
    assert not logits.is_contiguous() and not next_logits.is_contiguous()
    check(
        function, (logits, next_logits, Transitions(*strided), atoms, reduction), "float32", close
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@each_reduction
@each_gradient
def test_both_in_one_equal_the_formula(function, kind, reduction, shape, device, close):
    given = inputs(shape, kind, device, by_row=True)
    loss_grad = unequal(given[0][..., 0])
    kept = [x.clone() for x in (loss_grad, *given[:2], *given[2])]
    loss, gradient = function(loss_grad, *given, reduction)
    want, by_logits = expected(*given, reduction)
    assert gradient.dtype == loss.dtype == given[0].dtype
    close(loss, want, kind, "loss")
    close(gradient, float64(loss_grad)[0][..., None] * by_logits, kind, "gradient")
    now = (loss_grad, *given[:2], *given[2])
    assert all(torch.equal(a, b) for a, b in zip(kept, now, strict=True))


@each_reduction
@each_gradient
def test_both_in_one_are_autograds(function, kind, reduction, device, close):
    logits, *others = inputs((3, 5, 51), kind, device)
    logits = logits.transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    share = unequal(logits[:1, :, 0]).expand(3, 5)  # stride 0: a row's weight is all critics'
    want = reference(logits, *others, reduction)
    (by_logits,) = torch.autograd.grad(want, logits, share)
    with torch.no_grad():
        loss, gradient = function(share, logits, *others, reduction)
    close(loss, want, kind)
    close(gradient, by_logits, kind)


def by_hand(device):
    """One transition and three atoms -1, 0, 1, of which p = (0.2, 0.3, 0.5) is the next state's.

    The soft values are z + 0.2 * 0.5, and 0.25 + 0.5 (z + 0.1) is -0.2, 0.3 and 0.8:
    0.2 gives 0.04 to -1 and 0.16 to 0; 0.3 gives 0.21 to 0 and 0.09 to 1; 0.5 gives 0.1 and 0.4.
    """
    rows = torch.tensor([[0.25], [0.0], [-0.5]], device=device)
    transitions = Transitions(*rows, *torch.tensor([0.2, 0.5], device=device))
    next_logits = torch.tensor([0.2, 0.3, 0.5], device=device).log().view(1, 1, 3)
    logits = torch.tensor([1.0, 2.0, 5.0], device=device).log().view(1, 1, 3)
    return logits, next_logits, transitions, Atoms(3, -1.0, 1.0)


TARGET = (0.04, 0.47, 0.49)


@each_reduction
@each
def test_one_transition_by_hand(function, reduction, device, close):
    logits, *others = by_hand(device)
    loss = function(logits.requires_grad_(), *others, reduction)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    # softmax(logits) is (1, 2, 5) / 8.
    want = -sum(t * math.log(n / 8) for t, n in zip(TARGET, (1, 2, 5), strict=True))
    close(loss, [[want]], FLOAT32)
    close(gradient, [[[0.125 - 0.04, 0.25 - 0.47, 0.625 - 0.49]]], FLOAT32)


@each
def test_min_takes_the_least_mean_and_mean_averages(function, device, close):
    # Means 0.3 and -0.8; nothing moves, so that the target is p itself.
    p = torch.tensor([[0.2, 0.3, 0.5], [0.85, 0.1, 0.05]], device=device)[:, None]
    logits, _, transitions, atoms = by_hand(device)
    zeros = torch.zeros(1, device=device)
    still = Transitions(zeros, zeros, zeros, transitions.alpha, torch.ones((), device=device))
    logits = logits.expand(2, 1, 3).clone().requires_grad_()
    for next_p in (p, p.flip(0)):
        for reduction, target in (("min", p[1]), ("mean", p.mean(0))):
            loss = function(logits, next_p.log(), still, atoms, reduction)
            (gradient,) = torch.autograd.grad(loss.sum(), logits)
            close(gradient, logits.softmax(-1) - target, FLOAT32)


def target_of(function, logits, *others):
    """The target (B, N), from the gradient softmax(logits) - target."""
    logits = logits.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(function(logits, *others).sum(), logits)
    assert torch.isfinite(gradient).all()
    return (logits.softmax(-1) - gradient).detach()


@each_reduction
@each_dtype
def test_probability_is_conserved(function, kind, reduction, device, close):
    logits, next_logits, transitions, atoms = inputs((2, 3, 101), kind, device)
    for scale in (0, 1, 30, 1e6):  # far beyond the ends too
        moved = transitions._replace(reward=scale * transitions.reward)
        target = target_of(function, logits, next_logits, moved, atoms, reduction)
        close(target.sum(-1), np.ones((2, 3)), kind)
        assert target.min() > -1e-6


@pytest.mark.parametrize("num", [2, 51, 101, 255])
@each
def test_beyond_the_support_all_is_at_its_end(function, num, device, close):
    logits, next_logits, transitions, atoms = inputs((2, 4, num), device=device)
    # At the ends, each 22 from the other, and as far beyond as next values reach.
    reward = torch.tensor([-1e4, atoms.v_min, atoms.v_max, 1e4], device=device)
    ends = transitions._replace(reward=reward, terminated=torch.ones_like(reward))
    log_p = torch.log_softmax(logits.double(), -1)
    want = torch.stack([-log_p[:, i, (0, 0, -1, -1)[i]] for i in range(4)], 1)
    close(function(logits, next_logits, ends, atoms, "min"), want, FLOAT32)
    far = ends._replace(terminated=torch.zeros_like(reward))
    outer = function(logits, next_logits, far, atoms, "min")[:, [0, 3]]
    close(outer, want[:, [0, 3]], FLOAT32)


@each_reduction
@each
def test_at_an_end_only_the_reward_counts(function, reduction, device, close):
    logits, next_logits, transitions, atoms = inputs((2, 3, 23), device=device)
    # Atoms -10, -9, ..., 12: a reward of -9.25 lies between the first two.
    reward = torch.tensor([-9.25, 0.0, 2.5], device=device)
    ends = transitions._replace(reward=reward, terminated=torch.ones_like(reward))
    target = target_of(function, logits, 50 * next_logits, ends, atoms, reduction)
    want = np.zeros((2, 3, 23))
    want[:, 0, :2] = 0.25, 0.75
    want[:, 1, 10] = 1
    want[:, 2, 12:14] = 0.5
    close(target, want, FLOAT32)


@each_dtype
def test_saturated_logits_lose_no_more_than_their_rounding(function, kind, device, close):
    logits, next_logits, *others = inputs((2, 9, 51), kind, device)
    given = (1e4 * logits).requires_grad_(), 1e4 * next_logits, *others, "min"
    loss = function(*given)
    (gradient,) = torch.autograd.grad(loss.sum(), given[0])
    want, by_logits = expected(*given)
    close(loss / 1e4, want / 1e4, kind)  # of up to 1e5
    close(gradient, by_logits, kind)


@each_dtype
def test_a_common_part_of_the_logits_takes_no_digits(function, kind, device, close):
    logits, *others = inputs((2, 9, 51), kind, device)
    shifted = (logits.double() + 1000).to(logits.dtype).requires_grad_()
    want, by_logits = expected(shifted, *others, "min")
    loss = function(shifted, *others, "min")
    close(loss, want, kind)
    close(torch.autograd.grad(loss.sum(), shifted)[0], by_logits, kind)


@pytest.mark.parametrize("member", [0, 1, 2])
@each_reduction
@each
def test_a_critic_that_diverged_shows(function, reduction, member, device):
    logits, next_logits, transitions, atoms = inputs((3, 5, 51), device=device)
    next_logits[member, 2, 7] = torch.nan
    loss = function(logits, next_logits, transitions, atoms, reduction)
    assert torch.argwhere(loss.isnan()).tolist() == [[0, 2], [1, 2], [2, 2]]
    logits[member, 3, 7] = torch.nan
    loss = function(logits, logits.nan_to_num(), transitions, atoms, reduction)
    assert torch.argwhere(loss.isnan()).tolist() == [[member, 3]]


@pytest.mark.parametrize("name", ["reward", "next_log_prob"])
@each
def test_a_transition_that_is_not_a_number_shows(function, name, device):
    # A GPU's plain maximum would move it to the support's end.
    logits, next_logits, transitions, atoms = inputs((2, 5, 51), device=device)
    transitions.terminated.zero_()
    getattr(transitions, name)[1] = torch.nan
    loss = function(logits, next_logits, transitions, atoms, "min")
    assert torch.argwhere(loss.isnan()).tolist() == [[0, 1], [1, 1]]


@each_gradient
def test_what_is_not_a_number_stays_in_its_row(function, kind, device):
    logits, next_logits, transitions, atoms = inputs((2, 5, 7), kind, device)
    transitions.terminated.zero_()
    transitions.reward[1], next_logits[1, 3] = torch.nan, torch.nan
    loss, gradient = function(
        torch.ones_like(logits[..., 0]), logits, next_logits, transitions, atoms, "mean"
    )
    assert torch.argwhere(loss.isnan()).tolist() == [[e, b] for e in (0, 1) for b in (1, 3)]
    assert torch.equal(gradient.isnan().any(-1), loss.isnan())


@each_reduction
def test_gradcheck(reduction):
    logits, *others = inputs((2, 3, 7), "float64")
    assert torch.autograd.gradcheck(
        lambda x: reference(x, *others, reduction), logits.requires_grad_(), eps=1e-6, atol=1e-7
    )


@each
def test_the_target_is_held_constant(function, device):
    logits, next_logits, transitions, atoms = inputs((2, 3, 51), device=device)
    leaves = [x.requires_grad_() for x in (logits, next_logits, *transitions)]
    loss = function(logits, next_logits, transitions, atoms, "min").sum()
    grads = torch.autograd.grad(loss, leaves, allow_unused=True)
    assert grads[0].any() and grads[1:] == (None,) * 6


@each_reduction
@each_dtype
def test_the_tolerance_notices_one_percent(function, kind, reduction, device, close):
    logits, next_logits, transitions, atoms = inputs((2, 3, 51), kind, device)
    want, by_logits = expected(logits, next_logits, transitions, atoms, reduction)
    changes = [(1.01 * logits, next_logits, transitions), (logits, 1.01 * next_logits, transitions)]
    for name in ("reward", "next_log_prob", "alpha", "discount"):
        changed = transitions._replace(**{name: 1.01 * getattr(transitions, name)})
        changes.append((logits, next_logits, changed))
    for x, *others in changes:
        loss = function(x.requires_grad_(), *others, atoms, reduction)
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        for got, wanted in ((loss, want), (gradient, by_logits)):
            with pytest.raises(AssertionError):
                close(got, wanted, kind)


def test_the_entries_take_the_minimum_by_default():
    given = inputs((2, 9, 51))
    assert torch.equal(categorical_td_loss(*given), reference(*given, "min"))
    share = unequal(given[0][..., 0])
    both = categorical_td_gradient(share, given[0].requires_grad_(), *given[1:])
    assert not any(x.requires_grad for x in both)
    assert all(map(torch.equal, both, reference_gradient(share, *given, "min")))


@pytest.mark.parametrize("shape", [(4,), (1, 4), (4, 2), (2, 4, 1), ()], ids=str)
def test_a_loss_gradient_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"loss_grad must be \(2, 4\) torch.float32"):
        categorical_td_gradient(torch.ones(shape), *inputs((2, 4, 5)))


@pytest.mark.parametrize(
    "at, wrong, part",
    [
        (0, torch.ones(2, 4, 6), r"logits must be \(E, B, 5\), got \(2, 4, 6\)"),
        (0, torch.ones(4, 5), r"logits must be \(E, B, 5\), got \(4, 5\)"),
        (
            1,
            torch.ones(1, 4, 5),
            r"next_logits must be \(2, 4, 5\) .* got \(1, 4, 5\)",
        ),  # torch would broadcast
        (3, Atoms(1, -1.0, 1.0), "atoms must be at least two"),
        (3, Atoms(5, 1.0, 1.0), "v_min below v_max"),
        (3, Atoms(5, math.nan, 1.0), "v_min below v_max"),
        (4, "max", "reduction must be 'min' or 'mean', got 'max'"),
        ("reward", torch.ones(1), r"reward must be \(4,\) .* got \(1,\)"),
        ("terminated", torch.ones(4, 1), r"terminated must be \(4,\) .* got \(4, 1\)"),
        ("next_log_prob", torch.ones(5), r"next_log_prob must be \(4,\) .* got \(5,\)"),
        ("alpha", torch.ones(4), r"alpha must be .* got \(4,\)"),
        ("reward", torch.ones(4).double(), r"reward must be .* got \(4,\) torch.float64"),
        ("discount", torch.ones(1), r"discount must be \(4,\) .* got \(1,\)"),
    ],
)
def test_what_does_not_fit_is_refused(at, wrong, part):
    given = [*inputs((2, 4, 5)), "min"]
    if isinstance(at, str):
        at, wrong = 2, given[2]._replace(**{at: wrong})
    given[at] = wrong
    with pytest.raises(ValueError, match=part):
        categorical_td_loss(*given)
