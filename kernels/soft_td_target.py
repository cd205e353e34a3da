"""The soft temporal-difference target of scalar critics.

    y = r + discount (1 - terminated) (reduce_i Q_i(s', a') - alpha log pi(a'|s'))

(arXiv 1812.05905, eq. 2, 3 and 5). reduce is the minimum over the critics or their mean; discount
is gamma, or gamma^k a transition for returns over k steps. A truncated episode is not a terminated
one: its last state is bootstrapped from. No gradient: a target is held constant.

Shapes: next_q (E, B); all else, the target among it, (B,); alpha (). float32 or float64; the kernel
takes float32.
"""

from __future__ import annotations

from typing import Literal

import torch

from fastsac.kernels.compiler import cdiv, jit, require, run, tl

Reduction = Literal["min", "mean"]
_BLOCK = 256


@jit
def _forward(
    reward,  # (B,)
    terminated,  # (B,) 0 or 1
    next_q,  # (E, B), members member_stride apart
    next_log_prob,  # (B,)
    alpha,  # ()
    discount,  # (B,), or () with discount_stride 0
    target,  # out (B,)
    batch,
    member_stride,
    discount_stride,
    MEMBERS: tl.constexpr,
    MEAN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < batch
    value = tl.load(next_q + at, mask, other=0.0)
    for member in tl.static_range(1, MEMBERS):
        q = tl.load(next_q + member * member_stride + at, mask, other=0.0)
        # tl.minimum alone would pass over a NaN, torch's minimum does not.
        value = value + q if MEAN else tl.minimum(value, q, propagate_nan=tl.PropagateNan.ALL)
    if MEAN:
        value = value / MEMBERS
    value = value - tl.load(alpha) * tl.load(next_log_prob + at, mask, other=0.0)
    alive = 1.0 - tl.load(terminated + at, mask, other=0.0)
    share = tl.load(discount + at * discount_stride, mask, other=0.0)
    tl.store(target + at, tl.load(reward + at, mask, other=0.0) + share * alive * value, mask)


def fused(
    reward: torch.Tensor,
    terminated: torch.Tensor,
    next_q: torch.Tensor,
    next_log_prob: torch.Tensor,
    alpha: torch.Tensor,
    discount: torch.Tensor,
    reduction: Reduction,
) -> torch.Tensor:
    """The kernel, on a GPU or in Triton's interpreter."""
    members, batch = next_q.shape
    next_q = next_q if next_q.stride(1) == 1 else next_q.contiguous()
    target = reward.new_empty(batch)
    _forward[(cdiv(batch, _BLOCK),)](
        reward.contiguous(),
        terminated.contiguous(),
        next_q,
        next_log_prob.contiguous(),
        alpha,
        discount.contiguous(),
        target,
        batch,
        next_q.stride(0),
        discount.dim(),
        MEMBERS=members,
        MEAN=reduction == "mean",
        BLOCK=_BLOCK,
    )
    return target


def reference(
    reward: torch.Tensor,
    terminated: torch.Tensor,
    next_q: torch.Tensor,
    next_log_prob: torch.Tensor,
    alpha: torch.Tensor,
    discount: torch.Tensor,
    reduction: Reduction,
) -> torch.Tensor:
    """The formula in torch."""
    value = next_q.mean(dim=0) if reduction == "mean" else next_q.amin(dim=0)
    return reward + discount * (1 - terminated) * (value - alpha * next_log_prob)


@torch.no_grad()
def soft_td_target(
    reward: torch.Tensor,
    terminated: torch.Tensor,
    next_q: torch.Tensor,
    next_log_prob: torch.Tensor,
    alpha: torch.Tensor,
    discount: torch.Tensor,
    reduction: Reduction = "min",
) -> torch.Tensor:
    """Returns the target (B,) of Q(s, a), without a gradient.

    Args:
        reward: (B,), summed and discounted over the steps of the return.
        terminated: (B,) 0 or 1, float; truncation is not termination.
        next_q: (E, B) of the target critics, at an action of the current policy.
        next_log_prob: (B,) of that action.
        alpha: () temperature, on the device.
        discount: () gamma, or (B,) gamma^k for returns over k steps.
        reduction: over the critics; "min" is clipped double Q.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, or no such reduction.
    """
    if reduction not in ("min", "mean"):
        raise ValueError(f"reduction must be 'min' or 'mean', got {reduction!r}")
    if next_q.dim() != 2:
        raise ValueError(f"next_q must have shape (E, B), got {tuple(next_q.shape)}")
    rows = {"reward": reward, "terminated": terminated, "next_log_prob": next_log_prob}
    for name, tensor in rows.items():
        require(name, tensor, next_q.shape[1:], next_q)
    require("alpha", alpha, (), next_q)
    require("discount", discount, next_q.shape[1:] if discount.dim() else (), next_q)
    arguments = (reward, terminated, next_q, next_log_prob, alpha, discount, reduction)
    return run(next_q, fused, reference, *arguments)
