"""norm_relu and its gradient against float64: autograd's of the formula."""

import pytest
import torch
import torch.nn.functional as F

from fastsac.kernels import NormReLU, compiler, norm_relu, norm_relu_gradient
from fastsac.kernels.norm_relu import (
    EPSILON,
    fused,
    fused_gradient,
    is_fused,
    reference,
    reference_gradient,
)

# (E, B, H): one of each, an actor's and an ensemble's, widths that are no power of two.
SHAPES = [(1, 1, 1), (1, 5, 64), (2, 7, 12), (3, 4, 100), (2, 3, 300), (1, 2, 1100)]
FUNCTIONS = {fused: fused_gradient, reference: reference_gradient}

each = pytest.mark.parametrize("function", FUNCTIONS)
each_dtype = pytest.mark.parametrize(
    "function, kind",
    [
        (fused, "float32"),
        (reference, "float32"),
        (reference, "float64"),
        (reference, "bfloat16"),
        pytest.param(fused, "bfloat16", marks=pytest.mark.gpu),  # which the interpreter has not
    ],
    ids=["fused", "reference", "reference64", "reference bf16", "fused bf16"],
)
each_norm = pytest.mark.parametrize("normalize", [True, False], ids=["normalised", "plain"])


def inputs(shape, kind="float32", device="cpu"):
    """Product, bias and the activations' gradient; it is 0 where rounding may change a sign."""
    generator = torch.Generator().manual_seed(shape[2])
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    members, _, width = shape
    product, bias = 2 * draw(*shape) + 0.5, draw(members, 1, width)
    sums = product + bias
    is_clear = (sums.abs() > 0.1) & ((sums - sums.mean(-1, keepdim=True)).abs() > 0.2)
    numbers = product, bias, draw(*shape) * is_clear
    return tuple(x.to(device, getattr(torch, kind)) for x in numbers)


def formula(product, bias, gradient, normalize):
    """Activations and the gradient of the product, in float64."""
    product, bias, gradient = (x.double().cpu() for x in (product, bias, gradient))
    product.requires_grad_()
    sums = product + bias
    normalized = F.layer_norm(sums, sums.shape[-1:], eps=EPSILON) if normalize else sums
    activated = normalized.relu()
    return activated.detach(), torch.autograd.grad(activated, product, gradient)[0]


def tolerance(kind):
    return {"bfloat16": "bf16 network", "float32": "float32 layer"}.get(kind, kind)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@each_norm
@each_dtype
def test_equals_the_formula(function, kind, normalize, shape, device, close):
    product, bias, gradient = inputs(shape, kind, device)
    expected, by_product = formula(product, bias, gradient, normalize)
    given = product, bias, gradient
    kept = [x.clone() for x in given]
    activated, saved = function(product, bias, normalize)
    assert activated.dtype == product.dtype and activated.shape == shape
    assert (saved.rstd is not None) == normalize
    assert not normalize or saved.rstd.shape == (*shape[:2], 1)
    assert not normalize or function is reference or saved.rstd.dtype == torch.float32
    close(activated, expected, tolerance(kind))
    close(FUNCTIONS[function](gradient, saved), by_product, tolerance(kind))
    assert all(torch.equal(a, b) for a, b in zip(given, kept, strict=True)), "an input changed"


@each_norm
@each
def test_by_hand(function, normalize, device, close):
    # Of (-1, -4, 1, 4) + (-1, 2, 1, -2) = (-2, -2, 2, 2) the mean is 0 and the deviation 2.
    product = torch.tensor([[[-1.0, -4.0, 1.0, 4.0]]], device=device)
    bias = torch.tensor([[[-1.0, 2.0, 1.0, -2.0]]], device=device)
    activated, saved = function(product, bias, normalize)
    close(activated, [[[0, 0, 1, 1] if normalize else [0, 0, 2, 2]]], "float32 layer")
    # g = (0, 0, 4, 0), n = (-1, -1, 1, 1): mean g = mean g n = 1, so (0, 0, 2, -2) / 2.
    gradient = torch.tensor([[[7.0, 7.0, 4.0, 0.0]]], device=device)
    found = FUNCTIONS[function](gradient, saved)
    close(found, [[[0, 0, 1, -1] if normalize else [0, 0, 4, 0]]], "float32 layer")


@each_norm
@each
def test_the_rows_from_one_on_have_the_gradient_that_they_have_in_all(function, normalize, device):
    product, bias, gradient = inputs((2, 6, 33), device=device)
    _, saved = function(product, bias, normalize)
    whole = FUNCTIONS[function](gradient, saved)
    rest = FUNCTIONS[function](gradient[:, 4:], saved.rows_from(4))  # strided, all of them
    assert torch.equal(whole[:, 4:], rest)
    strided = torch.cat([product, bias.expand_as(product)], dim=2)[..., :33]
    assert torch.equal(function(strided, bias, normalize)[0], function(product, bias, normalize)[0])


@each_norm
@each
def test_what_nobody_differentiates_saves_nothing(function, normalize, device):
    product, bias, _ = inputs((2, 5, 20), device=device)
    activated, saved = function(product, bias, normalize, save=False)
    assert saved is None
    assert torch.equal(activated, function(product, bias, normalize)[0])


@each_norm
@each
def test_a_row_that_is_no_number_stays_one_and_spoils_no_other(function, normalize, device):
    product, bias, gradient = inputs((2, 5, 20), device=device)
    product[1, 3, 7] = torch.nan
    activated, saved = function(product, bias, normalize)
    assert activated[1, 3, 7].isnan()
    found = FUNCTIONS[function](gradient, saved)
    for x in (activated, found):
        bad = torch.argwhere(x.isnan().any(dim=2)).tolist()
        assert bad == ([[1, 3]] if normalize or x is activated else [])


@each_norm
@each_dtype
def test_the_tolerance_notices_one_percent(function, kind, normalize, device, close):
    product, bias, gradient = inputs((2, 7, 12), kind, device)
    expected, by_product = formula(product, bias, gradient, normalize)
    share = 1.5 if kind == "bfloat16" else 1.01
    _, saved = function(product, bias, normalize)
    wrong = [saved._replace(normalized=-saved.normalized)]
    wrong += [saved._replace(rstd=share * saved.rstd)] if normalize else []
    for got in (
        function(share * product, bias, normalize)[0],
        function(product, share * bias, normalize)[0],
    ):
        with pytest.raises(AssertionError):
            close(got, expected, tolerance(kind))
    for got in (
        FUNCTIONS[function](share * gradient, saved),
        *(FUNCTIONS[function](gradient, other) for other in wrong),
    ):
        with pytest.raises(AssertionError):
            close(got, by_product, tolerance(kind))


def test_the_entries_take_what_fits_alone():
    product, bias, gradient = inputs((2, 5, 8))
    activated, saved = norm_relu(product, bias, True)
    assert not activated.requires_grad and isinstance(saved, NormReLU)
    assert norm_relu_gradient(gradient, saved).shape == (2, 5, 8)
    with pytest.raises(ValueError, match=r"product must have shape \(E, B, H\), got \(5, 8\)"):
        norm_relu(product[0], bias, True)
    with pytest.raises(ValueError, match=r"bias must be \(2, 1, 8\) .* got \(2, 8\)"):
        norm_relu(product, bias[:, 0], True)
    with pytest.raises(ValueError, match=r"bias must be .* torch.float32 .* got .* torch.float64"):
        norm_relu(product, bias.double(), True)
    with pytest.raises(ValueError, match=r"normalized must be \(2, 4, 8\) .* got \(2, 5, 8\)"):
        norm_relu_gradient(gradient[:, 1:], saved)
    with pytest.raises(ValueError, match=r"rstd must have shape \(2, 5, 1\), got \(2, 5\)"):
        norm_relu_gradient(gradient, saved._replace(rstd=saved.rstd[..., 0]))


def test_the_kernels_take_float32_and_bfloat16(monkeypatch):
    """As is seen where a tensor says that it is on a GPU."""
    tensor = torch.ones(1, 2, 3)
    assert not is_fused(tensor)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    dtypes = (torch.float32, torch.bfloat16, torch.float64)
    assert [is_fused(tensor.to(dtype)) for dtype in dtypes] == [True, True, False]
    monkeypatch.setattr(compiler, "_failed", {"fastsac.kernels.norm_relu"})
    assert not is_fused(tensor)
