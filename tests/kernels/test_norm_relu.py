"""norm_relu against the formula in float64, and against autograd's gradients of it."""

import sys

import pytest
import torch

from fastsac.kernels import norm_relu, norm_relu_gradient
from fastsac.kernels.norm_relu import fused, fused_gradient, reference, reference_gradient

MODULE = sys.modules[norm_relu.__module__]
WIDTHS = (1, 3, 255, 256, 512, 1000)
BATCHES = (1, 3, 64, 255)
GRADIENT = {fused: fused_gradient, reference: reference_gradient}

each = pytest.mark.parametrize("function", [fused, reference])
each_dtype = pytest.mark.parametrize(
    "function, kind",
    [
        (fused, "float32"),
        (reference, "float32"),
        (reference, "float64"),
        (fused, "bfloat16"),
        (reference, "bfloat16"),
    ],
    ids=["fused", "reference", "reference64", "fused16", "reference16"],
)


def inputs(members, batch, width, kind="float32", device="cpu", seed=0):
    """x (E, B, H), bias (E, 1, H) and the gradient of y."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    x, bias = 2 * draw(members, batch, width) + 0.5, draw(members, 1, width)
    if width < 8:  # a few numbers may lie so close together that their deviation has lost digits
        x += 8 * ((torch.arange(width) + torch.arange(batch)[:, None]) % width)
    drawn = x, bias, draw(members, batch, width)
    return tuple(x.to(getattr(torch, kind)).to(device) for x in drawn)


def expected(x, bias, by_y):
    """y, mean, rstd, and autograd's gradients of x and bias, in float64 on the CPU."""
    x, bias, by_y = (t.detach().double().cpu() for t in (x, bias, by_y))
    x.requires_grad_(), bias.requires_grad_()
    s = x + bias
    mean = s.sum(2, keepdim=True) / s.shape[2]
    rstd = (((s - mean) ** 2).sum(2, keepdim=True) / s.shape[2] + 1e-5) ** -0.5
    n = (s - mean) * rstd
    y = torch.where(n > 0, n, 0)
    by_x, by_bias = torch.autograd.grad(y, (x, bias), by_y)
    assert x.shape[2] == 1 or n.abs().min() > 1e-7
    found = {"y": y, "mean": mean, "rstd": rstd, "by x": by_x, "by bias": by_bias}
    return {name: tensor.detach() for name, tensor in found.items()}


def statistics(kind):
    return "float64" if kind == "float64" else "float32"


def check(function, x, bias, by_y, kind, close):
    """Compares values, autograd's gradients and those at once, with and without the bias's."""
    want, wide = expected(x, bias, by_y), getattr(torch, statistics(kind))
    kept = [t.clone() for t in (x, bias, by_y)]
    y, mean, rstd = function(
        x.detach().requires_grad_(),
        bias.detach(),
    )
    assert y.dtype == x.dtype and mean.dtype == rstd.dtype == wide
    assert not mean.requires_grad and not rstd.requires_grad
    close(y.to(wide), want["y"], kind, "y")
    for name, got in (("mean", mean), ("rstd", rstd)):
        close(got, want[name], statistics(kind), name)
    for needed in ([True, True], [True, False], [False, True]):
        leaves = [t.detach().requires_grad_(n) for t, n in zip((x, bias), needed, strict=True)]
        asked = [t for t in leaves if t.requires_grad]
        grads = iter(torch.autograd.grad(function(*leaves)[0], asked, by_y))
        for name, leaf, n in zip(("by x", "by bias"), leaves, needed, strict=True):
            if n:
                got = next(grads)
                assert got.dtype == leaf.dtype and got.shape == leaf.shape
                close(got.to(wide), want[name], kind, name)
    for into in (torch.full(bias.shape, torch.nan, dtype=wide, device=x.device), None):
        by_x = GRADIENT[function](by_y, x, bias, mean, rstd, into)
        assert by_x.dtype == x.dtype
        close(by_x.to(wide), want["by x"], kind, "by x at once")
        if into is not None:
            close(into, want["by bias"], statistics(kind), "by bias at once")
    assert all(torch.equal(*pair) for pair in zip(kept, (x, bias, by_y), strict=True))


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("width", WIDTHS)
@each_dtype
def test_values_and_gradients_equal_the_formula(function, kind, width, batch, device, close):
    if batch > 64 and width > 256:
        batch = 33
    check(function, *inputs(2, batch, width, kind, device), kind, close)


@pytest.mark.parametrize("members", [1, 3, 10])
@each_dtype
def test_each_network_has_its_own_bias(function, kind, members, device, close):
    check(function, *inputs(members, 5, 24, kind, device), kind, close)


@pytest.mark.parametrize("programs", [1, 2, 7])
@pytest.mark.parametrize("batch", [1, 8, 9, 70])
@pytest.mark.parametrize("function", [fused])
def test_a_program_may_have_many_tiles(function, programs, batch, device, close, monkeypatch):
    monkeypatch.setattr(MODULE, "_PROGRAMS", programs)
    monkeypatch.setattr(MODULE, "_TILE", 128)  # four rows of 24
    check(function, *inputs(2, batch, 24, device=device), "float32", close)


@pytest.mark.parametrize("layout", ["flat views", "columns", "every other row", "later rows"])
@each
def test_strided_inputs(function, layout, device, close):
    x, bias, by_y = inputs(2, 9, 12, device=device)
    if layout == "flat views":  # as FlatWeights has them, at an odd address
        flat = torch.cat([torch.ones(5, device=device), bias.flatten(), bias.flatten()])
        bias = flat[5:29].view(2, 1, 12)
    elif layout == "columns":
        x, by_y = (t.mT.contiguous().mT for t in (x, by_y))
        bias = bias.expand(2, 3, 12).mT.contiguous().mT[:, 1:2]
    elif layout == "every other row":
        x, by_y = (t.repeat_interleave(2, 1)[:, ::2] for t in (x, by_y))
        bias = bias.repeat_interleave(2, 2)[..., ::2]
    else:
        x, by_y = (torch.cat([t.flip(1), t], 1)[:, 9:] for t in (x, by_y))
        bias = torch.cat([bias, bias], 1)[:, 1:]
    check(function, x, bias, by_y, "float32", close)


@each
def test_the_statistics_of_later_rows_are_taken_as_they_lie(function, device, close):
    x, bias, by_y = inputs(2, 9, 12, device=device)
    _, mean, rstd = function(x, bias)
    got = GRADIENT[function](*(t[:, 4:] for t in (by_y, x)), bias, mean[:, 4:], rstd[:, 4:], None)
    close(got, expected(x, bias, by_y)["by x"][:, 4:], "float32")


@each
def test_the_biass_gradient_goes_where_it_shall(function, device, close):
    x, bias, by_y = inputs(2, 9, 12, device=device)
    flat = torch.full((5 + 24 + 7,), 9.0, device=device)
    _, mean, rstd = function(x, bias)
    GRADIENT[function](by_y, x, bias, mean, rstd, flat[5:29].view(2, 1, 12))
    close(flat[5:29].view(2, 1, 12), expected(x, bias, by_y)["by bias"], "float32")
    assert (flat[:5] == 9).all() and (flat[29:] == 9).all()


def test_it_equals_torchs_layer_norm(close):
    x, bias, _ = inputs(2, 9, 12)
    want = torch.nn.functional.layer_norm(x + bias, (12,)).relu()
    assert torch.equal(norm_relu(x, bias)[0], want)


def test_gradcheck():
    x, bias, _ = inputs(2, 4, 5, "float64")
    arguments = x.requires_grad_(), bias.requires_grad_()
    assert torch.autograd.gradcheck(lambda *a: reference(*a)[0], arguments)


@each
def test_used_twice_and_without_a_graph(function, device, close):
    x, bias, by_y = inputs(2, 5, 6, device=device)
    with torch.no_grad():
        assert not function(x.requires_grad_(), bias)[0].requires_grad
    y = function(x, bias)[0]
    (once,) = torch.autograd.grad(y, x, by_y, retain_graph=True)
    (twice,) = torch.autograd.grad(y + y, x, by_y)
    close(twice, 2 * once, "float32")


@each
def test_sums_that_are_equal_and_far_from_zero(function, device, close):
    """The variance is that about the mean: squares of sums near 1,000 would have no digits left."""
    x, bias, by_y = inputs(2, 5, 64, device=device)
    want = expected(x + 1000, bias, by_y)["y"]
    assert (function(x + 1000, bias)[0].double().cpu() - want).abs().max() < 1e-3
    y, _, rstd = function(torch.full_like(x, 3.0), torch.zeros_like(bias))
    assert not y.any()
    close(rstd, torch.full_like(rstd, 1e-5**-0.5), "float32")


@pytest.mark.parametrize("nan", [torch.nan, torch.inf])
@each
def test_a_nan_stays_in_its_row_and_shows(function, nan, device):
    x, bias, by_y = inputs(2, 9, 12, device=device)
    x[1, 4, 7] = nan
    y, mean, rstd = function(x, bias)
    into = torch.empty_like(bias)
    by_x = GRADIENT[function](by_y, x, bias, mean, rstd, into)
    for got in (y, by_x):
        rows = got.isnan().any(2)
        assert torch.argwhere(rows).tolist() == [[1, 4]] and got[1, 4].isnan().all()
    assert into[1].isnan().all() and not into[0].isnan().any()


@each
def test_a_nan_in_the_gradient_shows(function, device):
    x, bias, by_y = inputs(2, 9, 12, device=device)
    y, mean, rstd = function(x, bias)
    member, row, column = torch.argwhere(y > 0)[20].tolist()
    by_y[member, row, column] = torch.nan
    by_x = GRADIENT[function](by_y, x, bias, mean, rstd, None)
    assert torch.argwhere(by_x.isnan().any(2)).tolist() == [[member, row]]


@each
def test_no_run_differs_from_another(function, device):
    x, bias, by_y = inputs(2, 255, 64, device=device)
    _, mean, rstd = function(x, bias)
    results = []
    for _ in range(2):
        into = torch.empty_like(bias)
        results.append((GRADIENT[function](by_y, x, bias, mean, rstd, into), into))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


@each_dtype
def test_the_tolerance_notices_one_percent(function, kind, device, close):
    x, bias, by_y = inputs(2, 33, 64, kind, device)
    want, wide = expected(x, bias, by_y), getattr(torch, statistics(kind))
    y, mean, rstd = function(x, bias)
    into = torch.empty(bias.shape, dtype=wide, device=x.device)
    by_x = GRADIENT[function](by_y, x, bias, mean, rstd, into)
    for factor in (0.99, 1.01):
        for got, name in ((y, "y"), (by_x, "by x")):
            with pytest.raises(AssertionError):
                close(got.to(wide) * factor, want[name], kind)
        for got, name in ((mean, "mean"), (rstd, "rstd"), (into, "by bias")):
            with pytest.raises(AssertionError):
                close(got * factor, want[name], statistics(kind))
        for x_factor, bias_factor in ((1, factor), (factor, 1)):
            with pytest.raises(AssertionError):
                close(function(x * x_factor, bias * bias_factor)[0].to(wide), want["y"], kind)
        wrong = GRADIENT[function](by_y, x, bias, mean, rstd * factor, into)
        with pytest.raises(AssertionError):
            close(wrong.to(wide), want["by x"], kind)


def test_wider_rows_than_a_program_holds_are_torchs(monkeypatch, close):
    monkeypatch.setattr(MODULE, "_MAX_WIDTH", 11)
    monkeypatch.setattr(MODULE, "run", None)
    x, bias, by_y = inputs(2, 3, 12)
    y, mean, rstd = norm_relu(x, bias)
    want = expected(x, bias, by_y)
    close(y, want["y"], "float32")
    close(norm_relu_gradient(by_y, x, bias, mean, rstd), want["by x"], "float32")


@pytest.mark.parametrize(
    "name, wrong",
    [
        ("x", torch.zeros(3, 4)),
        ("x", torch.zeros(2, 3, 0)),
        ("bias", torch.zeros(2, 4)),
        ("bias", torch.zeros(1, 1, 4)),
        ("bias", torch.zeros(2, 1, 4, dtype=torch.bfloat16)),
        ("result_grad", torch.zeros(2, 1, 4)),
        ("mean", torch.zeros(2, 3)),
        ("rstd", torch.zeros(2, 3, 1, dtype=torch.float64)),
        ("by_bias", torch.zeros(2, 4)),
    ],
)
def test_what_does_not_fit_is_refused(name, wrong):
    given = {n: torch.zeros(2, 3, 4) for n in ("result_grad", "x")}
    given |= {n: torch.zeros(2, 3, 1) for n in ("mean", "rstd")}
    given |= {n: torch.zeros(2, 1, 4) for n in ("bias", "by_bias")}
    assert not norm_relu_gradient(**given).any()
    with pytest.raises(ValueError, match=f"{name} must be"):
        norm_relu_gradient(**given | {name: wrong})
    if name in ("x", "bias"):
        with pytest.raises(ValueError, match=f"{name} must be"):
            norm_relu(**{"x": given["x"], "bias": given["bias"]} | {name: wrong})
