"""tanh_gaussian against float64 formulas that are not its own."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from fastsac.kernels import tanh_gaussian
from fastsac.kernels.tanh_gaussian import reference

BATCHES = (1, 3, 64, 255, 1023)
LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0
KIND = {torch.float32: "float32", torch.float64: "float64"}


def inputs(batch, actions, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(batch, actions, generator=generator, dtype=torch.float64)  # noqa: E731
    return tuple(x.to(dtype) for x in (1.5 * draw(), draw() - 0.5, draw()))


def expected(mean, log_std, noise, low=LOG_STD_MIN, high=LOG_STD_MAX):
    """Action (B, A), log prob (B,) and, per component, their derivatives; numpy float64.

    log(1 - tanh(u)^2) = log 4 - 2|u| - 2 log(1 + exp(-2|u|)), which never cancels.
    """
    mean, log_std, noise = (x.detach().double().numpy() for x in (mean, log_std, noise))
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("actions", [1, 3, 21])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("function", [tanh_gaussian, reference])
def test_values_and_gradients_equal_the_formula(function, batch, actions, dtype, close):
    mean, log_std, noise = inputs(batch, actions, dtype)
    mean.requires_grad_()
    log_std.requires_grad_()
    action, log_prob = function(mean, log_std, noise, LOG_STD_MIN, LOG_STD_MAX)
    assert action.shape == (batch, actions) and log_prob.shape == (batch,)
    assert action.dtype == log_prob.dtype == dtype
    want = expected(mean, log_std, noise)
    close(action, want["action"], KIND[dtype], "action")
    close(log_prob, want["log_prob"], KIND[dtype], "log_prob")
    for name, output in (("action", action), ("log_prob", log_prob)):
        by_mean, by_log_std = torch.autograd.grad(output.sum(), (mean, log_std), retain_graph=True)
        close(by_mean, want[f"{name}_by_mean"], KIND[dtype], f"d {name} / d mean")
        close(by_log_std, want[f"{name}_by_log_std"], KIND[dtype], f"d {name} / d log_std")


def test_log_prob_equals_torch_distributions(close):
    mean, log_std, noise = inputs(64, 6, torch.float64)
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
    mean, log_std, noise = inputs(5, 3, torch.float64, seed=1)
    # Keep away from the kink of the clamp, where no derivative exists.
    for clamp in clamps:
        log_std[(log_std - clamp).abs() < 1e-2] += 0.1
    mean.requires_grad_()
    log_std.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda m, s: tanh_gaussian(m, s, noise, *clamps), (mean, log_std), eps=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("size", [5.0, 10.0, 20.0, 100.0, 1e4])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_saturated_means_have_the_exact_log_prob_and_gradient(size, sign, dtype, close):
    mean = torch.full((3, 2), sign * size, dtype=dtype, requires_grad=True)
    log_std = torch.tensor([[-3.0, 0.0], [1.0, 2.0], [-20.0, 0.5]], dtype=dtype).requires_grad_()
    noise = torch.tensor([[0.5, -1.0], [2.0, -0.1], [0.0, 1.0]], dtype=dtype)
    action, log_prob = tanh_gaussian(mean, log_std, noise)
    want = expected(mean, log_std, noise)
    assert (action.abs() <= 1).all()
    close(action, want["action"], KIND[dtype], "action")
    close(log_prob, want["log_prob"], KIND[dtype], "log_prob")
    by_mean, by_log_std = torch.autograd.grad(log_prob.sum(), (mean, log_std), retain_graph=True)
    close(by_mean, want["log_prob_by_mean"], KIND[dtype], "d log_prob / d mean")
    close(by_log_std, want["log_prob_by_log_std"], KIND[dtype], "d log_prob / d log_std")
    for gradient in torch.autograd.grad(action.sum(), (mean, log_std)):
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize(
    "raw, clamped", [(-20.5, -20.0), (-1e4, -20.0), (2.5, 2.0), (1e4, 2.0), (3e38, 2.0)]
)
def test_beyond_the_clamp_values_are_the_clamps_and_the_gradient_is_zero(raw, clamped, dtype):
    mean, _, noise = inputs(7, 3, dtype)
    log_std = torch.full_like(mean, raw).requires_grad_()
    action, log_prob = tanh_gaussian(mean, log_std, noise)
    at_clamp = tanh_gaussian(mean, torch.full_like(mean, clamped), noise)
    assert torch.equal(action, at_clamp[0]) and torch.equal(log_prob, at_clamp[1])
    (gradient,) = torch.autograd.grad(action.sum() + log_prob.sum(), log_std)
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("clamp", [-20.0, 2.0])
def test_at_the_clamp_everything_is_finite_and_the_gradient_is_one_sided(clamp, close):
    mean, _, noise = inputs(7, 3)
    log_std = torch.full_like(mean, clamp).requires_grad_()
    action, log_prob = tanh_gaussian(mean, log_std, noise)
    want = expected(mean, log_std, noise)
    close(action, want["action"], "float32")
    close(log_prob, want["log_prob"], "float32")
    (gradient,) = torch.autograd.grad(log_prob.sum(), log_std)
    if gradient.any():  # from inside; from outside it is zero
        close(gradient, want["log_prob_by_log_std"], "float32")


def test_clamps_are_arguments(close):
    mean, log_std, noise = inputs(64, 3)
    action, log_prob = tanh_gaussian(mean, log_std, noise, -1.0, -0.25)
    want = expected(mean, log_std, noise, -1.0, -0.25)
    close(action, want["action"], "float32")
    close(log_prob, want["log_prob"], "float32")


def test_zero_noise_is_the_mode_and_noise_gets_no_say_in_it():
    mean, log_std, noise = inputs(9, 4)
    action, _ = tanh_gaussian(mean, log_std, torch.zeros_like(noise))
    assert torch.equal(action, torch.tanh(mean))


def test_halves_of_one_network_output_are_taken_as_they_are():
    mean, log_std, noise = inputs(33, 3)
    both = torch.cat([mean, log_std], dim=-1)
    halves = both.chunk(2, dim=-1)
    assert not halves[0].is_contiguous()
    for got, want in zip(
        tanh_gaussian(*halves, noise), tanh_gaussian(mean, log_std, noise), strict=True
    ):
        assert torch.equal(got, want)
    assert torch.equal(both, torch.cat([mean, log_std], dim=-1)), "an input was overwritten"


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_the_tolerance_notices_one_percent(kind, close):
    mean, log_std, noise = inputs(64, 3, getattr(torch, kind))
    want = expected(mean, log_std, noise)
    for factor in (0.99, 1.01):
        with pytest.raises(AssertionError):
            close(tanh_gaussian(mean * factor, log_std, noise)[0], want["action"], kind)
        with pytest.raises(AssertionError):
            close(tanh_gaussian(mean, log_std * factor, noise)[1], want["log_prob"], kind)
    with pytest.raises(AssertionError):
        close(np.where(want["action"] > 0.5, np.nan, want["action"]), want["action"], kind)


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
    assert "mean (4, 3) torch.float32" in str(caught.value)
