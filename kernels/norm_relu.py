"""A hidden layer's bias, layer normalisation and ReLU, in one pass over its matmul's result.

    s = product + bias
    n = (s - mean s) / sqrt(var s + epsilon)      over the layer's units, or n = s
    y = max(n, 0)

(arXiv 1607.06450, without gain and bias: the next layer and this one's bias have their part.)
Gradient, with g that of y where n is above 0 and 0 elsewhere:

    d/ds = (g - mean g - n mean(g n)) / sqrt(var s + epsilon), or g

Shapes: product, n, y (E, B, H); bias (E, 1, H); rstd, 1 / sqrt(var s + epsilon), (E, B, 1).
float32, or bfloat16, computed in float32 and rounded once, with rstd in float32; float64 by the
reference. Not differentiable by autograd.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from fastsac.kernels.compiler import (
    has_failed,
    jit,
    next_power_of_2,
    require,
    run,
    runs_on,
    tl,
)

EPSILON = 1e-5
_UNITS_A_WARP = 128  # four a thread: float32's 16 bytes; not measured
_MOST_WARPS = 8
_DTYPES = (torch.float32, torch.bfloat16)


class NormReLU(NamedTuple):
    """What the gradient is computed from.

    Attributes:
        normalized: (E, B, H), n; without a normalisation y, which is 0 where n is not above 0.
        rstd: (E, B, 1), or None without a normalisation.
    """

    normalized: torch.Tensor
    rstd: torch.Tensor | None

    def rows_from(self, first: int) -> NormReLU:
        """Returns that of the batch's rows number first and up."""
        rest = None if self.rstd is None else self.rstd[:, first:]
        return NormReLU(self.normalized[:, first:], rest)


@jit
def _forward(
    product,  # (E, B, H)
    bias,  # (E, H)
    activated,  # out (E, B, H)
    normalized,  # out (E, B, H), where NORMALIZE and SAVE
    rstd,  # out (E, B), likewise
    batch,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    NORMALIZE: tl.constexpr,
    SAVE: tl.constexpr,
    EPSILON: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    inside = column < WIDTH
    at = row * WIDTH + column
    n = tl.load(product + at, inside, other=0.0).to(tl.float32)
    n += tl.load(bias + row // batch * WIDTH + column, inside, other=0.0).to(tl.float32)
    if NORMALIZE:
        n = tl.where(inside, n - tl.sum(n, axis=0) / WIDTH, 0.0)
        scale = 1.0 / tl.sqrt(tl.sum(n * n, axis=0) / WIDTH + EPSILON)
        n = n * scale
        if SAVE:
            tl.store(rstd + row, scale)
            tl.store(normalized + at, n, inside)
    tl.store(activated + at, tl.maximum(n, 0.0, propagate_nan=tl.PropagateNan.ALL), inside)


@jit
def _backward(
    gradient,  # (E, B, H), of y
    normalized,  # (E, B, H)
    rstd,  # (E, B), where NORMALIZE
    by_sums,  # out (E, B, H)
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    NORMALIZE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    inside = column < WIDTH
    at = row * WIDTH + column
    n = tl.load(normalized + at, inside, other=0.0).to(tl.float32)
    g = tl.load(gradient + at, inside, other=0.0).to(tl.float32)
    g = tl.where(n <= 0.0, 0.0, g)  # as torch's: where n is no number the gradient stays
    if NORMALIZE:
        along = tl.sum(g * n, axis=0) / WIDTH
        g = (g - tl.sum(g, axis=0) / WIDTH - n * along) * tl.load(rstd + row)
    tl.store(by_sums + at, g, inside)


def _tile(width: int) -> dict[str, int]:
    columns = next_power_of_2(width)
    warps = min(max(columns // _UNITS_A_WARP, 1), _MOST_WARPS)
    return {"WIDTH": width, "COLUMNS": columns, "num_warps": warps}


def fused(
    product: torch.Tensor, bias: torch.Tensor, normalize: bool, save: bool = True
) -> tuple[torch.Tensor, NormReLU | None]:
    """The kernel, on a GPU or in Triton's interpreter."""
    members, batch, width = product.shape
    product = product.contiguous()
    activated = torch.empty_like(product)
    normalized, rstd = activated, None
    if normalize and save:
        normalized = torch.empty_like(product)
        rstd = product.new_empty((members, batch, 1), dtype=torch.float32)
    _forward[(members * batch,)](
        product,
        bias.contiguous(),
        activated,
        normalized,
        activated if rstd is None else rstd,
        batch,
        NORMALIZE=normalize,
        SAVE=save,
        EPSILON=EPSILON,
        **_tile(width),
    )
    return activated, NormReLU(normalized, rstd) if save else None


def fused_gradient(gradient: torch.Tensor, saved: NormReLU) -> torch.Tensor:
    """The kernel, on a GPU or in Triton's interpreter."""
    members, batch, width = gradient.shape
    gradient, rstd = gradient.contiguous(), saved.rstd
    by_sums = torch.empty_like(gradient)
    _backward[(members * batch,)](
        gradient,
        saved.normalized.contiguous(),
        gradient if rstd is None else rstd.contiguous(),
        by_sums,
        NORMALIZE=rstd is not None,
        **_tile(width),
    )
    return by_sums


def reference(
    product: torch.Tensor, bias: torch.Tensor, normalize: bool, save: bool = True
) -> tuple[torch.Tensor, NormReLU | None]:
    """The formula in torch."""
    normalized, rstd = product + bias, None
    if normalize:
        shape = normalized.shape[-1:]
        normalized, _, rstd = torch.native_layer_norm(normalized, shape, None, None, EPSILON)
    activated = normalized.relu()
    return activated, NormReLU(normalized, rstd) if save else None


def reference_gradient(gradient: torch.Tensor, saved: NormReLU) -> torch.Tensor:
    """The gradient's formula in torch."""
    n, rstd = saved
    g = torch.ops.aten.threshold_backward(gradient, n, 0)
    if rstd is None:
        return g
    along = (g * n).mean(-1, keepdim=True)
    return ((g - g.mean(-1, keepdim=True) - n * along) * rstd).to(gradient.dtype)


def is_fused(tensor: torch.Tensor) -> bool:
    """Whether the kernels take such tensors, and none has failed here."""
    return runs_on(tensor, _DTYPES) and not has_failed(__name__)


@torch.no_grad()
def norm_relu(
    product: torch.Tensor, bias: torch.Tensor, normalize: bool, save: bool = True
) -> tuple[torch.Tensor, NormReLU | None]:
    """Returns a hidden layer's activations (E, B, H), and what their gradient needs.

    Args:
        product: (E, B, H), the inputs times the weights.
        bias: (E, 1, H).
        normalize: False leaves out the normalisation.
        save: False returns None for what the gradient needs.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit.
    """
    if product.dim() != 3:
        raise ValueError(f"product must have shape (E, B, H), got {tuple(product.shape)}")
    require("bias", bias, (product.shape[0], 1, product.shape[2]), product)
    return run(product, fused, reference, product, bias, normalize, save, dtypes=_DTYPES)


@torch.no_grad()
def norm_relu_gradient(gradient: torch.Tensor, saved: NormReLU) -> torch.Tensor:
    """Returns the gradient (E, B, H) of the product, and of the bias before its sum over B.

    Args:
        gradient: (E, B, H), that of the activations.
        saved: what ``norm_relu`` returned beside them.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit.
    """
    require("normalized", saved.normalized, gradient.shape, gradient)
    if saved.rstd is not None and saved.rstd.shape != (*gradient.shape[:2], 1):
        shape = (*gradient.shape[:2], 1)
        raise ValueError(f"rstd must have shape {shape}, got {tuple(saved.rstd.shape)}")
    return run(gradient, fused_gradient, reference_gradient, gradient, saved, dtypes=_DTYPES)
