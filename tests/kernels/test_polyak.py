"""polyak_ against the float64 formula."""

import numpy as np
import pytest
import torch

from fastsac.kernels import polyak_
from fastsac.kernels.polyak import fused, reference

SIZES = (1, 3, 64, 255, 1023, 2049)  # a program takes 1,024
TAU = 0.005

each = pytest.mark.parametrize("function", [fused, reference])
each_dtype = pytest.mark.parametrize(
    "function, kind",
    [(fused, "float32"), (reference, "float32"), (reference, "float64")],
    ids=["fused", "reference", "reference64"],
)


def pair(size, kind="float32", device="cpu"):
    generator = torch.Generator().manual_seed(size)
    drawn = torch.randn(2, size, generator=generator, dtype=torch.float64)
    target, source = drawn.to(device, getattr(torch, kind))
    return target.clone(), source.clone()


def formula(target, source, tau):
    target, source = (x.double().cpu().numpy() for x in (target, source))
    return target + tau * (source - target)


@pytest.mark.parametrize("tau", [0.0, TAU, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("on_device", [False, True], ids=["float tau", "tensor tau"])
@each_dtype
def test_equals_the_formula_in_place(function, kind, on_device, size, tau, device, close):
    target, source = pair(size, kind, device)
    want, kept = formula(target, source, tau), source.clone()
    function(target, source, torch.full_like(target[0], tau) if on_device else tau)
    close(target, want, kind)
    assert torch.equal(source, kept)


def test_the_entry_returns_the_target_itself():
    target, source = pair(3)
    assert polyak_(target, source, TAU) is target


@each
def test_the_ends_are_exact(function, device):
    target, source = pair(1023, device=device)
    before = target.clone()
    function(target, source, 0.0)
    assert torch.equal(target, before)
    function(target, source, 1.0)
    assert torch.equal(target, source)


@each
@pytest.mark.parametrize("offset", [1, 8])  # 8 floats keep the alignment that kernels like
def test_a_slice_moves_and_its_neighbours_do_not(function, offset, device, close):
    whole, source = pair(1100, device=device)
    before, part = whole.clone(), slice(offset, offset + 1025)
    function(whole[part], source[part], TAU)
    close(whole[part], formula(before[part], source[part], TAU), "float32")
    assert torch.equal(whole[:offset], before[:offset])
    assert torch.equal(whole[part.stop :], before[part.stop :])


@each
def test_a_strided_source_is_read_as_it_is(function, device, close):
    target, source = pair(510, device=device)
    target, source = target[:255], source[::2]
    want = formula(target, source, 0.3)
    function(target, source, 0.3)
    close(target, want, "float32")


@each_dtype
def test_many_updates_approach_the_source_geometrically(function, kind, device, close):
    target, source = pair(255, kind, device)
    want = source.double() + (1 - TAU) ** 200 * (target.double() - source.double())
    tau = torch.full_like(target[0], TAU)
    for _ in range(200):
        function(target, source, tau)
    close(target, want, kind)


@each_dtype
def test_the_tolerance_notices_one_percent(function, kind, device, close):
    # The target moves by 0.5%, of which a hundredth is 5e-5 of a weight.
    target, source = pair(1023, kind, device)
    want = formula(target, source, TAU)
    function(target, source, 1.01 * TAU)
    with pytest.raises(AssertionError):
        close(target, want, kind)


def test_views_of_it_move_and_autograd_does_not_see_it():
    target, source = pair(64)
    view = target[10:20].view(2, 5)
    source.requires_grad_()
    assert not polyak_(target, source, 0.5).requires_grad
    assert torch.equal(view.reshape(-1), target[10:20]) and source.grad is None


@each
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # inf - inf of the other branch
@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_a_parameter_that_is_not_finite_does_not_spread(function, value, device):
    target, source = pair(64, device=device)
    source[5] = value
    function(target, source, TAU)
    assert np.flatnonzero(~np.isfinite(target.cpu().numpy())).tolist() == [5]


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


def test_a_target_that_is_not_contiguous_is_refused():
    target = torch.ones(8)
    with pytest.raises(ValueError, match="contiguous: it is written in place"):
        polyak_(target[::2], torch.zeros(4), TAU)
    assert torch.equal(target, torch.ones(8))
