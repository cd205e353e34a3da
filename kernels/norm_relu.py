"""A hidden layer behind its matmul: bias, layer normalisation and ReLU in one pass over memory.

    s = x + bias
    n = (s - mean(s)) rstd,     rstd = 1 / sqrt(mean((s - mean(s))^2) + 1e-5)
    y = max(0, n)

(arXiv 1607.06450, eq. 3 without gain and bias, which the learner's networks do not have; torch's
layer_norm.) Means are over the units of a row. Gradient, with g that of y where n > 0 and 0
elsewhere:

    d/dx    = rstd (g - mean(g) - n mean(g n))
    d/dbias = sum_rows d/dx

Shapes: x, y (E, B, H), bias (E, 1, H), mean and rstd (E, B, 1). float32, bfloat16 or, by the
reference, float64; all is computed in float32 where the tensors are bfloat16, and mean, rstd and
the gradient of the bias are float32 there. The backward pass reads x and recomputes n. Its sums
over rows are those of a fixed number of programs, added in a fixed order: no atomics.
"""

from __future__ import annotations

from typing import Any

import torch

from fastsac.kernels.compiler import cdiv, jit, next_power_of_2, require, run, tl

EPSILON = 1e-5  # torch's
_TILE = 2048  # elements a program has in its registers, 16 a thread; a row at least
_PROGRAMS = (
    512  # of the backward pass, four for each of an H100's multiprocessors; a sum of rows each
)
_MAX_WIDTH = 4096  # of a row in registers; at twice that they spill


@jit
def _forward(
    x,  # (E, B, H) contiguous, as are all
    bias,  # (E, H)
    result,  # out (E, B, H)
    mean,  # out (E, B) float32
    rstd,  # out (E, B) float32
    batch,
    EPSILON: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    member = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    mask = (row < batch)[:, None] & (column < WIDTH)[None, :]
    flat = member * batch + row
    here = flat[:, None] * WIDTH + column[None, :]
    shift = tl.load(bias + member * WIDTH + column, column < WIDTH, other=0.0).to(tl.float32)
    s = tl.load(x + here, mask, other=0.0).to(tl.float32) + shift[None, :]
    centre = tl.sum(s, axis=1) / WIDTH
    s = tl.where(mask, s - centre[:, None], 0.0)
    scale = tl.rsqrt(tl.sum(s * s, axis=1) / WIDTH + EPSILON)
    y = tl.maximum(s * scale[:, None], 0.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(result + here, y, mask)
    tl.store(mean + flat, centre, row < batch)
    tl.store(rstd + flat, scale, row < batch)


@jit
def _backward(
    result_grad,  # (E, B, H) contiguous, as are all
    x,  # (E, B, H)
    bias,  # (E, H)
    mean,  # (E, B) float32
    rstd,  # (E, B) float32
    x_grad,  # out (E, B, H)
    row_sums,  # out (E, P, H) float32, of x_grad, one a program; unused without BY_BIAS
    batch,
    BY_BIAS: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    member = tl.program_id(1).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    shift = tl.load(bias + member * WIDTH + column, column < WIDTH, other=0.0).to(tl.float32)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(tl.program_id(0) * ROWS, batch, tl.num_programs(0) * ROWS):
        row = start + tl.arange(0, ROWS).to(tl.int64)
        mask = (row < batch)[:, None] & (column < WIDTH)[None, :]
        flat = member * batch + row
        here = flat[:, None] * WIDTH + column[None, :]
        g = tl.load(result_grad + here, mask, other=0.0).to(tl.float32)
        s = tl.load(x + here, mask, other=0.0).to(tl.float32) + shift[None, :]
        scale = tl.load(rstd + flat, row < batch, other=0.0)[:, None]
        n = tl.where(mask, s - tl.load(mean + flat, row < batch, other=0.0)[:, None], 0.0) * scale
        g = tl.where(n <= 0.0, 0.0, g)  # not n > 0: no comparison with a NaN is true
        along = tl.sum(g * n, axis=1) / WIDTH
        by_x = scale * (g - (tl.sum(g, axis=1) / WIDTH)[:, None] - n * along[:, None])
        tl.store(x_grad + here, by_x, mask)
        if BY_BIAS:
            total += by_x  # 0 beyond the batch, where scale is
    if BY_BIAS:
        slot = member * tl.num_programs(0) + tl.program_id(0)
        tl.store(row_sums + slot * WIDTH + column, tl.sum(total, axis=0), column < WIDTH)


def _tile(width: int) -> dict[str, int]:
    columns = next_power_of_2(width)
    return {"WIDTH": width, "ROWS": max(1, _TILE // columns), "COLUMNS": columns}


def _launch_forward(x: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Returns y (E, B, H) and mean and rstd (E, B, 1)."""
    members, batch, width = x.shape
    result = torch.empty_like(x)
    mean = torch.empty(members, batch, 1, dtype=torch.float32, device=x.device)
    rstd = torch.empty_like(mean)
    tile = _tile(width)
    grid = (cdiv(batch, tile["ROWS"]), members)
    _forward[grid](x, bias, result, mean, rstd, batch, EPSILON=EPSILON, **tile)
    return result, mean, rstd


class _NormRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, bias: torch.Tensor) -> Any:
        x, bias = x.contiguous(), bias.contiguous()
        result, mean, rstd = _launch_forward(x, bias)
        ctx.save_for_backward(x, bias, mean, rstd)
        ctx.mark_non_differentiable(mean, rstd)
        return result, mean, rstd

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, result_grad: torch.Tensor, *_: Any) -> Any:
        x, bias, mean, rstd = ctx.saved_tensors
        by_bias = torch.empty_like(bias, dtype=mean.dtype) if ctx.needs_input_grad[1] else None
        by_x = fused_gradient(result_grad, x, bias, mean, rstd, by_bias)
        return by_x, None if by_bias is None else by_bias.to(bias.dtype)


def fused(x: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The kernels, on a GPU or in Triton's interpreter."""
    return _NormRelu.apply(x, bias)


def fused_gradient(
    result_grad: torch.Tensor,
    x: torch.Tensor,
    bias: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    by_bias: torch.Tensor | None,
) -> torch.Tensor:
    """The backward kernel, on a GPU or in Triton's interpreter."""
    members, batch, width = x.shape
    x = x.contiguous()
    x_grad, tile = torch.empty_like(x), _tile(width)
    programs = min(cdiv(batch, tile["ROWS"]), cdiv(_PROGRAMS, members))
    row_sums = mean  # anything
    if by_bias is not None:
        shape = (members, programs, width)
        row_sums = torch.empty(shape, dtype=torch.float32, device=x.device)
    _backward[(programs, members)](
        result_grad.contiguous(),
        x,
        bias.contiguous(),
        mean.contiguous(),
        rstd.contiguous(),
        x_grad,
        row_sums,
        batch,
        BY_BIAS=by_bias is not None,
        **tile,
    )
    if by_bias is not None:
        torch.sum(row_sums, dim=1, keepdim=True, out=by_bias)
    return x_grad


def reference(x: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The formula in torch; autograd differentiates it."""
    s = _wide(x) + _wide(bias)
    result, mean, rstd = torch.native_layer_norm(s, s.shape[-1:], None, None, EPSILON)
    return result.relu_().to(x.dtype), mean.detach(), rstd.detach()


def reference_gradient(
    result_grad: torch.Tensor,
    x: torch.Tensor,
    bias: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    by_bias: torch.Tensor | None,
) -> torch.Tensor:
    """The gradient by torch's own of the layer normalisation."""
    s = _wide(x) + _wide(bias)
    g = torch.where(s <= mean, 0, _wide(result_grad))
    # Which reads mean and rstd as if they were contiguous.
    saved = (mean.contiguous(), rstd.contiguous(), None, None, [True, False, False])
    by_x = torch.ops.aten.native_layer_norm_backward(g, s, s.shape[-1:], *saved)[0]
    if by_bias is not None:
        torch.sum(by_x, dim=1, keepdim=True, out=by_bias)
    return by_x.to(x.dtype)


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x.to(_statistics_dtype(x))


def _statistics_dtype(x: torch.Tensor) -> torch.dtype:
    return torch.float32 if x.dtype == torch.bfloat16 else x.dtype


def norm_relu(x: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Returns the hidden layer's output, differentiably, and what its gradient needs besides.

    Args:
        x: (E, B, H), a batched product; float32, bfloat16 or float64.
        bias: (E, 1, H).

    Returns:
        y (E, B, H), and without gradients mean and rstd (E, B, 1), float32 where x is bfloat16.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit.
    """
    _check(x, bias)
    if x.shape[2] > _MAX_WIDTH:
        return reference(x, bias)
    return run(_like_statistics(x), fused, reference, x, bias)


@torch.no_grad()
def norm_relu_gradient(
    result_grad: torch.Tensor,
    x: torch.Tensor,
    bias: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    by_bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Returns the gradient of x (E, B, H), without autograd's graph.

    Args:
        result_grad: (E, B, H), the gradient of y.
        x: (E, B, H) as norm_relu got it, like the bias.
        bias: (E, 1, H).
        mean: (E, B, 1) as norm_relu returned it, like rstd.
        rstd: (E, B, 1).
        by_bias: (E, 1, H) of mean's dtype, where the bias's gradient goes; without, none is
            computed.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit.
    """
    _check(x, bias)
    require("result_grad", result_grad, x.shape, x)
    like = _like_statistics(x)
    for name, tensor in (("mean", mean), ("rstd", rstd)):
        require(name, tensor, (*x.shape[:2], 1), like)
    if by_bias is not None:
        require("by_bias", by_bias, bias.shape, like)
    arguments = (result_grad, x, bias, mean, rstd, by_bias)
    if x.shape[2] > _MAX_WIDTH:
        return reference_gradient(*arguments)
    return run(like, fused_gradient, reference_gradient, *arguments)


def _like_statistics(x: torch.Tensor) -> torch.Tensor:
    """Returns a tensor of the device and the dtype that x is computed in."""
    return x if x.dtype != torch.bfloat16 else x.new_empty((), dtype=torch.float32)


def _check(x: torch.Tensor, bias: torch.Tensor) -> None:
    if x.dim() != 3 or not x.shape[2]:
        raise ValueError(f"x must be (E, B, H) with H > 0, got {tuple(x.shape)}")
    require("bias", bias, (len(x), 1, x.shape[2]), x)
