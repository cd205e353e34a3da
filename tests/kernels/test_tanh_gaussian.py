"""tanh_gaussian against float64 formulas that are not its own."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from fastsac.kernels import tanh_gaussian, tanh_gaussian_gradient
from fastsac.kernels.tanh_gaussian import fused, fused_gradient, reference, reference_gradient

BATCHES = (1, 3, 64, 255, 1023)
CLAMPS = LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0

GRADIENT = {fused: fused_gradient, reference: reference_gradient}

each = pytest.mark.parametrize("function", [fused, reference])
each_dtype = pytest.mark.parametrize(
    "function, kind",
    [(fused, "float32"), (reference, "float32"), (reference, "float64")],
    ids=["fused", "reference", "reference64"],
)


def inputs(batch, actions, kind="float32", device="cpu", seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(batch, actions, generator=generator, dtype=torch.float64)  # noqa: E731
    drawn = 1.5 * draw(), draw() - 0.5, draw()
    return tuple(x.to(device, getattr(torch, kind)) for x in drawn)


def expected(mean, log_std, noise, low=LOG_STD_MIN, high=LOG_STD_MAX):
    """Action (B, A), log prob (B,) and, per component, their derivatives; numpy float64.

    log(1 - tanh(u)^2) = log 4 - 2|u| - 2 log(1 + exp(-2|u|)), which never cancels.
    """
    mean, log_std, noise = (x.detach().double().cpu().numpy() for x in (mean, log_std, noise))
    s = np.clip(log_std, low, high)
    inside = (log_std >= low) & (log_std <= high)
    u = mean + np.exp(s) * noise
    log_jacobian = math.log(4) - 2 * np.abs(u) - 2 * np.log1p(np.exp(-2 * np.abs(u)))
    log_prob = (-(noise**2) / 2 - s - math.log(2 * math.pi) / 2 - log_jacobian).sum(-1)
    du_ds = np.exp(s) * noise * inside
    sech2 = np.exp(log_jacobian)
    return {
        "action": np.tanh(u),
        "log_prob": log_prob,
        "action_by_mean": sech2,
        "action_by_log_std": sech2 * du_ds,
        "log_prob_by_mean": 2 * np.tanh(u),
        "log_prob_by_log_std": 2 * np.tanh(u) * du_ds - inside,
    }


def check(function, mean, log_std, noise, kind, close):
    """Compares values, and the gradients of unequal weights, which no two entries share."""
    mean.requires_grad_()
    log_std.requires_grad_()
    action, log_prob = function(mean, log_std, noise, *CLAMPS)
    assert action.shape == mean.shape and log_prob.shape == mean.shape[:1]
    assert action.dtype == log_prob.dtype == mean.dtype
    want = expected(mean, log_std, noise)
    close(action, want["action"], kind, "action")
    close(log_prob, want["log_prob"], kind, "log_prob")
    weights = inputs(*mean.shape, kind, mean.device, seed=7)
    g, h = weights[0].t().contiguous().t(), weights[2][:, 0]  # both strided
    for name, output, weight in (("action", action, g), ("log_prob", log_prob, h)):
        grads = torch.autograd.grad(output, (mean, log_std), weight, retain_graph=True)
        weight = (weight if name == "action" else weight[:, None]).double().cpu().numpy()
        for by, grad in zip(("mean", "log_std"), grads, strict=True):
            close(grad, weight * want[f"{name}_by_{by}"], kind, f"d {name} / d {by}")
    with torch.no_grad():
        at_once = GRADIENT[function](mean, log_std, noise, g, h, *CLAMPS)
    g, h = g.double().cpu().numpy(), h[:, None].double().cpu().numpy()
    for by, grad in zip(("mean", "log_std"), at_once, strict=True):
        total = g * want[f"action_by_{by}"] + h * want[f"log_prob_by_{by}"]
        close(grad, total, kind, f"both by {by}")


@pytest.mark.parametrize("actions", [1, 3, 21])
@pytest.mark.parametrize("batch", BATCHES)
@each_dtype
def test_values_and_gradients_equal_the_formula(function, kind, batch, actions, device, close):
    check(function, *inputs(batch, actions, kind, device), kind, close)


@pytest.mark.parametrize("actions", [127, 128, 129, 300])  # the kernel takes 128 at a time
@each_dtype
def test_wide_actions(function, kind, actions, device, close):
    check(function, *inputs(5, actions, kind, device), kind, close)


@pytest.mark.parametrize("layout", ["halves", "transposed", "every other row", "one row for all"])
@pytest.mark.parametrize("actions", [1, 3])
@each
def test_strided_inputs(function, layout, actions, device, close):
    def strided(x):
        if layout == "halves":
            return torch.cat([x, x.flip(0)], 1)[:, :actions]
        if layout == "transposed":
            return x.t().contiguous().t()
        if layout == "every other row":
            return x.repeat_interleave(2, 0)[::2]
        return x[:1].expand_as(x)

    mean, log_std, noise = (strided(x) for x in inputs(33, actions, device=device))
    check(function, mean.detach(), log_std.detach().contiguous(), noise, "float32", close)
    assert not mean.is_contiguous() or (layout == "transposed" and actions == 1)
    check(function, mean.detach(), log_std.detach(), noise, "float32", close)


@each
def test_both_outputs_at_once_and_inputs_kept(function, device, close):
    mean, log_std, noise = inputs(33, 3, device=device)
    both = torch.cat([mean, log_std], dim=-1).requires_grad_()
    kept, want = both.detach().clone(), expected(mean, log_std, noise)
    action, log_prob = function(*both.chunk(2, dim=-1), noise, *CLAMPS)
    (2 * action.sum() - 3 * log_prob.sum()).backward()
    parts = [
        2 * want[f"action_by_{by}"] - 3 * want[f"log_prob_by_{by}"] for by in ("mean", "log_std")
    ]
    close(both.grad, np.concatenate(parts, 1), "float32")
    assert torch.equal(both, kept), "an input was overwritten"


def test_log_prob_equals_torch_distributions(close):
    mean, log_std, noise = inputs(64, 6, "float64")
    log_std = log_std.clamp(max=LOG_STD_MAX)
    action, log_prob = tanh_gaussian(mean, log_std, noise)
    squashed = TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform())
    # atanh loses digits near 1; compare where it does not.
    safe = action.abs().amax(-1) < 0.999
    assert safe.sum() > 10
    theirs = squashed.log_prob(action).sum(-1)
    close(log_prob[safe], theirs[safe], "float64")


def test_density_integrates_to_one():
    # 1e5 points of u; p(a) da = exp(log_prob) (1 - tanh(u)^2) du.
    u = torch.linspace(-9, 9, 100_001, dtype=torch.float64)
    mean, log_std = torch.tensor([0.3, -0.2], dtype=torch.float64)
    noise = (u - mean) / log_std.exp()
    shape = torch.ones_like(u)[:, None]
    action, log_prob = tanh_gaussian(mean * shape, log_std * shape, noise[:, None])
    density = log_prob.exp() * (1 - action[:, 0] ** 2)
    assert torch.trapezoid(density, u).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("clamps", [(-20.0, 2.0), (-1.0, 0.5)])
def test_gradcheck(clamps):
    mean, log_std, noise = inputs(5, 3, "float64", seed=1)
    # Keep away from the kink of the clamp, where no derivative exists.
    for clamp in clamps:
        log_std[(log_std - clamp).abs() < 1e-2] += 0.1
    mean.requires_grad_()
    log_std.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda m, s: reference(m, s, noise, *clamps), (mean, log_std), eps=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("size", [5.0, 10.0, 20.0, 100.0, 1e4])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
@each_dtype
def test_saturated_means_are_exact(function, kind, size, sign, device, close):
    noise = torch.tensor([[0.5, -1.0], [2.0, -0.1], [0.0, 1.0]], device=device)
    log_std = torch.tensor([[-3.0, 0.0], [1.0, 2.0], [-20.0, 0.5]], device=device)
    mean = torch.full_like(noise, sign * size)
    check(function, *(x.to(getattr(torch, kind)) for x in (mean, log_std, noise)), kind, close)
    assert (function(mean, log_std, noise, *CLAMPS)[0].abs() <= 1).all()


@pytest.mark.parametrize(
    "raw, clamped", [(-20.5, -20.0), (-1e4, -20.0), (2.5, 2.0), (1e4, 2.0), (3e38, 2.0)]
)
@each_dtype
def test_beyond_the_clamp(function, kind, raw, clamped, device):
    mean, _, noise = inputs(7, 3, kind, device)
    log_std = torch.full_like(mean, raw).requires_grad_()
    action, log_prob = function(mean, log_std, noise, *CLAMPS)
    at_clamp = function(mean, torch.full_like(mean, clamped), noise, *CLAMPS)
    assert torch.equal(action, at_clamp[0]) and torch.equal(log_prob, at_clamp[1])
    (gradient,) = torch.autograd.grad(action.sum() + log_prob.sum(), log_std)
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("clamp", CLAMPS)
@each_dtype
def test_at_the_clamp_the_gradient_is_that_of_the_inside(function, kind, clamp, device, close):
    mean, _, noise = inputs(7, 3, kind, device)
    check(function, mean, torch.full_like(mean, clamp), noise, kind, close)


@each
def test_clamps_are_arguments(function, device, close):
    mean, log_std, noise = inputs(64, 3, device=device)
    action, log_prob = function(mean, log_std, noise, -1.0, -0.25)
    want = expected(mean, log_std, noise, -1.0, -0.25)
    close(action, want["action"], "float32")
    close(log_prob, want["log_prob"], "float32")


@pytest.mark.parametrize("diverged", [0, 1], ids=["mean", "log_std"])
@each
def test_a_network_that_diverged_shows(function, diverged, device):
    # A GPU's plain maximum would turn a NaN into the clamp.
    tensors = inputs(5, 3, device=device)
    tensors[diverged][1, 2] = torch.nan
    action, log_prob = function(*tensors, *CLAMPS)
    assert torch.argwhere(action.isnan()).tolist() == [[1, 2]]
    assert torch.argwhere(log_prob.isnan()).tolist() == [[1]]


@each
def test_zero_noise_is_the_mode(function, device, close):
    mean, log_std, noise = inputs(9, 4, device=device)
    action, _ = function(mean, log_std, torch.zeros_like(noise), *CLAMPS)
    close(action, torch.tanh(mean.double()), "float32")


@each_dtype
def test_the_tolerance_notices_one_percent(function, kind, device, close):
    mean, log_std, noise = inputs(64, 3, kind, device)
    want = expected(mean, log_std, noise)
    mean.requires_grad_()
    for factor in (0.99, 1.01):
        action, _ = function(mean * factor, log_std, noise, *CLAMPS)
        _, log_prob = function(mean, log_std * factor, noise, *CLAMPS)
        (gradient,) = torch.autograd.grad(log_prob.sum(), mean)
        for got, name in (
            (action, "action"),
            (log_prob, "log_prob"),
            (gradient, "log_prob_by_mean"),
        ):
            with pytest.raises(AssertionError):
                close(got, want[name], kind)
    with pytest.raises(AssertionError):
        close(np.where(want["action"] > 0.5, np.nan, want["action"]), want["action"], kind)


def test_the_entry_clamps_as_the_paper_of_sac_by_default():
    tensors = inputs(64, 3)
    tensors[1][:2] = torch.tensor([[-30.0], [5.0]])
    for got, want in zip(tanh_gaussian(*tensors), reference(*tensors, *CLAMPS), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize(
    "log_std, noise, part",
    [
        (torch.zeros(4, 2), torch.zeros(4, 3), r"\(4, 2\)"),
        (torch.zeros(4, 3), torch.zeros(3), r"\(3,\)"),
        (torch.zeros(1, 3), torch.zeros(4, 3), r"\(1, 3\)"),
        (torch.zeros(4, 3, dtype=torch.float64), torch.zeros(4, 3), "float64"),
        (torch.zeros(4, 3), torch.zeros(4, 3, dtype=torch.float16), "float16"),
    ],
)
def test_tensors_that_disagree_are_refused(log_std, noise, part):
    with pytest.raises(ValueError, match=part) as caught:
        tanh_gaussian(torch.zeros(4, 3), log_std, noise)
    assert "must be (4, 3) torch.float32" in str(caught.value)


@pytest.mark.parametrize(
    "name, wrong",
    [
        ("log_std", torch.zeros(4, 2)),
        ("action_grad", torch.zeros(1, 3)),
        ("log_prob_grad", torch.zeros(4, 1)),
        ("log_prob_grad", torch.zeros(4, dtype=torch.float64)),
    ],
)
def test_the_gradient_refuses_what_does_not_fit(name, wrong):
    names = ("mean", "log_std", "noise", "action_grad")
    given = {n: torch.zeros(4, 3) for n in names} | {"log_prob_grad": torch.zeros(4)}
    with pytest.raises(ValueError, match=f"{name} must be"):
        tanh_gaussian_gradient(**given | {name: wrong})
    for gradient in tanh_gaussian_gradient(**given):
        assert torch.equal(gradient, torch.zeros(4, 3))
