"""polyak_ against the float64 formula."""

import numpy as np
import pytest
import torch

from fastsac.kernels import polyak_
from fastsac.kernels.polyak import reference

SIZES = (1, 3, 64, 255, 1023)
TAU = 0.005


def pair(size, dtype=torch.float32):
    generator = torch.Generator().manual_seed(size)
    target, source = torch.randn(2, size, generator=generator, dtype=torch.float64).to(dtype)
    return target.clone(), source.clone()


def formula(target, source, tau):
    target, source = target.double().numpy(), source.double().numpy()
    return target + tau * (source - target)


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("tau", [0.0, TAU, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("on_device", [False, True], ids=["float tau", "tensor tau"])
@pytest.mark.parametrize("function", [polyak_, reference])
def test_equals_the_formula_in_place(function, on_device, size, tau, kind, close):
    target, source = pair(size, getattr(torch, kind))
    want, kept = formula(target, source, tau), source.clone()
    address = target.data_ptr()
    result = function(target, source, torch.tensor(tau, dtype=target.dtype) if on_device else tau)
    assert target.data_ptr() == address and (result is target or function is reference)
    close(target, want, kind)
    assert torch.equal(source, kept)


def test_the_ends_are_exact():
    target, source = pair(1023)
    before = target.clone()
    assert torch.equal(polyak_(target, source, 0.0), before)
    assert torch.equal(polyak_(target, source, 1.0), source)


def test_many_updates_approach_the_source_geometrically(close):
    target, source = pair(255, torch.float64)
    want = source + (1 - TAU) ** 200 * (target - source)
    for _ in range(200):
        polyak_(target, source, TAU)
    close(target, want, "float64")


def test_the_tolerance_notices_one_percent(close):
    # The target moves by 0.5%, of which a hundredth is 5e-5 of a weight.
    target, source = pair(1023)
    want = formula(target, source, TAU)
    with pytest.raises(AssertionError):
        close(polyak_(target, source, 1.01 * TAU), want, "float32")


def test_views_of_it_move_and_autograd_does_not_see_it():
    target, source = pair(64)
    view = target[10:20].view(2, 5)
    source.requires_grad_()
    assert not polyak_(target, source, 0.5).requires_grad
    assert torch.equal(view.reshape(-1), target[10:20]) and source.grad is None


def test_a_parameter_that_is_not_finite_does_not_spread():
    target, source = pair(64)
    source[5] = torch.inf
    polyak_(target, source, TAU)
    assert np.flatnonzero(~np.isfinite(target.numpy())).tolist() == [5]


@pytest.mark.parametrize(
    "source, part",
    [
        (torch.zeros(1), r"\(1,\)"),  # torch would broadcast it
        (torch.zeros(5), r"\(5,\)"),
        (torch.zeros(4, 1), r"\(4, 1\)"),
        (torch.zeros(4, dtype=torch.float64), "float64"),
        (torch.zeros(4, device="meta"), "meta"),
    ],
)
def test_tensors_that_disagree_are_refused_and_nothing_moves(source, part):
    target = torch.ones(4)
    with pytest.raises(ValueError, match=part):
        polyak_(target, source, TAU)
    assert torch.equal(target, torch.ones(4))
