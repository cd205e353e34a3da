"""The squashed Gaussian policy's sample and its log-probability.

    u        = mean + exp(s) noise,             s = clamp(log_std, log_std_min, log_std_max)
    action   = tanh(u)
    log_prob = sum_i [ -noise_i^2 / 2 - s_i - log(2 pi) / 2 - log(1 - tanh(u_i)^2) ]

(arXiv 1812.05905, appendix C, eq. 26). The last term is log 4 - 2|u| - 2 log(1 + exp(-2|u|)), which
is exact where 1 - tanh(u)^2 rounds to zero.

Gradient, with g and h those of action and log_prob, and sech^2 = 1 - tanh^2 = 4e / (1 + e)^2 for
e = exp(-2|u|):

    d/du       = g sech^2(u) + 2 h tanh(u)
    d/dmean    = d/du
    d/dlog_std = d/du exp(s) noise - h  inside the clamps, 0 outside

Shapes: mean, log_std, noise, action (B, A); log_prob (B,). float32 or float64; the kernels take
float32 and recompute u in the backward pass instead of storing it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from fastsac.kernels.compiler import cdiv, jit, next_power_of_2, require, run, tl

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_MAX_COLUMNS = 128  # wider actions are summed in steps of that many
# Elements a program of one warp. On an H200 128 were fastest up to 2,048 rows of 21, 256 with a
# million (bench/results/h200.md); where between them the one overtakes the other is a guess.
_SMALL_TILE, _LARGE_TILE = 128, 256
_FEW_ROWS = 1 << 15


@jit
def _forward(
    mean,  # (B, A), rows mean_row apart
    log_std,  # (B, A), rows log_std_row apart
    noise,  # (B, A) contiguous, as are the outputs
    action,  # out (B, A)
    log_prob,  # out (B,)
    batch,
    mean_row,
    log_std_row,
    log_std_min,
    log_std_max,
    ACTIONS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros([ROWS], tl.float32)
    for start in range(0, ACTIONS, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        mask = (row < batch)[:, None] & (column < ACTIONS)[None, :]
        here = row[:, None] * ACTIONS + column[None, :]
        m = tl.load(mean + row[:, None] * mean_row + column[None, :], mask, other=0.0)
        s = tl.load(log_std + row[:, None] * log_std_row + column[None, :], mask, other=0.0)
        s = tl.clamp(s, log_std_min, log_std_max, propagate_nan=tl.PropagateNan.ALL)
        z = tl.load(noise + here, mask, other=0.0)
        u = m + tl.exp(s) * z
        e = tl.exp(-2.0 * tl.abs(u))
        tanh = (1.0 - e) / (1.0 + e)
        tl.store(action + here, tl.where(u < 0.0, -tanh, tanh), mask)
        log_sech2 = 1.3862943611198906 - 2.0 * tl.abs(u) - 2.0 * tl.log(1.0 + e)  # log 4
        term = -0.5 * z * z - s - 0.9189385332046727 - log_sech2  # log(2 pi) / 2
        total += tl.sum(tl.where(mask, term, 0.0), axis=1)
    tl.store(log_prob + row, total, row < batch)


@jit
def _backward(
    mean,  # (B, A), rows mean_row apart
    log_std,  # (B, A), rows log_std_row apart
    noise,  # (B, A) contiguous, as are the rest
    action_grad,  # (B, A)
    log_prob_grad,  # (B,)
    mean_grad,  # out (B, A)
    log_std_grad,  # out (B, A)
    batch,
    mean_row,
    log_std_row,
    log_std_min,
    log_std_max,
    ACTIONS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    h = tl.load(log_prob_grad + row, row < batch, other=0.0)[:, None]
    for start in range(0, ACTIONS, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        mask = (row < batch)[:, None] & (column < ACTIONS)[None, :]
        here = row[:, None] * ACTIONS + column[None, :]
        m = tl.load(mean + row[:, None] * mean_row + column[None, :], mask, other=0.0)
        raw = tl.load(log_std + row[:, None] * log_std_row + column[None, :], mask, other=0.0)
        s = tl.clamp(raw, log_std_min, log_std_max, propagate_nan=tl.PropagateNan.ALL)
        z = tl.load(noise + here, mask, other=0.0)
        g = tl.load(action_grad + here, mask, other=0.0)
        std_z = tl.exp(s) * z
        u = m + std_z
        e = tl.exp(-2.0 * tl.abs(u))
        tanh = (1.0 - e) / (1.0 + e)
        tanh = tl.where(u < 0.0, -tanh, tanh)
        by_u = g * 4.0 * e / ((1.0 + e) * (1.0 + e)) + 2.0 * h * tanh
        tl.store(mean_grad + here, by_u, mask)
        tl.store(log_std_grad + here, tl.where(raw == s, by_u * std_z - h, 0.0), mask)


def _launch(kernel: Any, shape: torch.Size, *arguments: Any) -> None:
    batch, actions = shape
    columns = min(next_power_of_2(actions), _MAX_COLUMNS)
    rows = (_SMALL_TILE if batch <= _FEW_ROWS else _LARGE_TILE) // columns
    kernel[(cdiv(batch, rows),)](
        *arguments, ACTIONS=actions, ROWS=rows, COLUMNS=columns, num_warps=1
    )


def _rows_dense(x: torch.Tensor) -> torch.Tensor:
    """Returns x (B, A) with neighbours in a row next to each other; a copy only if they are not."""
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()


class _TanhGaussian(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mean: Any, log_std: Any, noise: Any, low: float, high: float) -> Any:
        mean, log_std, noise = _rows_dense(mean), _rows_dense(log_std), noise.contiguous()
        action, log_prob = torch.empty_like(noise), noise.new_empty(len(noise))
        ctx.save_for_backward(mean, log_std, noise)
        ctx.clamps = low, high
        scalars = (len(mean), mean.stride(0), log_std.stride(0), low, high)
        _launch(_forward, mean.shape, mean, log_std, noise, action, log_prob, *scalars)
        return action, log_prob

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return *fused_gradient(*ctx.saved_tensors, *grads, *ctx.clamps), None, None, None


def fused(
    mean: torch.Tensor,
    log_std: torch.Tensor,
    noise: torch.Tensor,
    log_std_min: float,
    log_std_max: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The kernels, on a GPU or in Triton's interpreter."""
    return _TanhGaussian.apply(mean, log_std, noise, log_std_min, log_std_max)


def fused_gradient(
    mean: torch.Tensor,
    log_std: torch.Tensor,
    noise: torch.Tensor,
    action_grad: torch.Tensor,
    log_prob_grad: torch.Tensor,
    log_std_min: float,
    log_std_max: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The backward kernel, on a GPU or in Triton's interpreter."""
    mean, log_std, noise = _rows_dense(mean), _rows_dense(log_std), noise.contiguous()
    by_mean, by_log_std = torch.empty_like(noise), torch.empty_like(noise)
    grads = action_grad.contiguous(), log_prob_grad.contiguous()
    scalars = (len(mean), mean.stride(0), log_std.stride(0), log_std_min, log_std_max)
    _launch(_backward, mean.shape, mean, log_std, noise, *grads, by_mean, by_log_std, *scalars)
    return by_mean, by_log_std


def reference(
    mean: torch.Tensor,
    log_std: torch.Tensor,
    noise: torch.Tensor,
    log_std_min: float,
    log_std_max: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The formula in torch; autograd differentiates it."""
    log_std = log_std.clamp(log_std_min, log_std_max)
    u = mean + log_std.exp() * noise
    log_normal = -0.5 * noise.square() - log_std - _HALF_LOG_2PI
    log_jacobian = 2 * (math.log(2) - u - F.softplus(-2 * u))
    return torch.tanh(u), (log_normal - log_jacobian).sum(-1)


def reference_gradient(
    mean: torch.Tensor,
    log_std: torch.Tensor,
    noise: torch.Tensor,
    action_grad: torch.Tensor,
    log_prob_grad: torch.Tensor,
    log_std_min: float,
    log_std_max: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient's formula in torch."""
    clamped = log_std.clamp(log_std_min, log_std_max)
    std_noise = clamped.exp().mul_(noise)
    action = torch.tanh(mean + std_noise)
    h = log_prob_grad[:, None]
    by_mean = torch.ops.aten.tanh_backward(action_grad, action).addcmul_(h, action, value=2)
    by_log_std = (by_mean * std_noise).sub_(h)
    return by_mean, torch.where(log_std == clamped, by_log_std, 0)


def tanh_gaussian(
    mean: torch.Tensor,
    log_std: torch.Tensor,
    noise: torch.Tensor,
    log_std_min: float = -20.0,
    log_std_max: float = 2.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples tanh(mean + exp(log_std) noise) and its log-probability, differentiably.

    Args:
        mean: (B, A), float32 or float64.
        log_std: (B, A); clamped to [log_std_min, log_std_max], no gradient outside.
        noise: (B, A) standard normal, held constant; zeros give the mode.
        log_std_min: lower clamp.
        log_std_max: upper clamp.

    Returns:
        action (B, A) in [-1, 1] and log_prob (B,).

    Raises:
        ValueError: the three tensors differ in shape, dtype or device.
    """
    require("log_std", log_std, mean.shape, mean)
    require("noise", noise, mean.shape, mean)
    return run(mean, fused, reference, mean, log_std, noise, log_std_min, log_std_max)


@torch.no_grad()
def tanh_gaussian_gradient(
    mean: torch.Tensor,
    log_std: torch.Tensor,
    noise: torch.Tensor,
    action_grad: torch.Tensor,
    log_prob_grad: torch.Tensor,
    log_std_min: float = -20.0,
    log_std_max: float = 2.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the gradients of mean and log_std, each (B, A), without autograd's graph.

    Args:
        mean: (B, A) as tanh_gaussian got it, like log_std, noise and the clamps.
        log_std: (B, A).
        noise: (B, A).
        action_grad: (B, A), the gradient of the action.
        log_prob_grad: (B,), that of the log-probability.
        log_std_min: lower clamp.
        log_std_max: upper clamp.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit.
    """
    for name, tensor in (("log_std", log_std), ("noise", noise), ("action_grad", action_grad)):
        require(name, tensor, mean.shape, mean)
    require("log_prob_grad", log_prob_grad, mean.shape[:1], mean)
    arguments = (mean, log_std, noise, action_grad, log_prob_grad, log_std_min, log_std_max)
    return run(mean, fused_gradient, reference_gradient, *arguments)
