"""One AdamW step of a flat parameter, its gradient zeroed, its target moved: one pass over memory.

    m     <- beta1 m + (1 - beta1) g
    v     <- beta2 v + (1 - beta2) g^2
    p     <- (1 - lr weight_decay) p - lr m' / (sqrt(v') + epsilon)
    g     <- 0
    target <- target + tau (p - target)

with m' = m / (1 - beta1^t), v' = v / (1 - beta2^t) at step t (AdamW, arXiv 1711.05101, algorithm 2,
in torch.optim's parametrisation; Polyak average, arXiv 1812.05905, algorithm 1). No gradient.

Where sum g^2 is not finite, the step is skipped: all but g stays as it was, and t does not count
it. That is a NaN or an infinity in g, and also a norm above 1.8e19 (1.3e154 in float64), whose
squares would make v infinite for ever.

All tensors (P,), float32, or float64 on a CPU; step, lr and tau are scalars on the device, so that
a captured CUDA graph sees them change. The kernels take float32, read g once for its sum and then
read and write each tensor once; torch's own fused AdamW, the reference, leaves gradient and target
to two more passes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from fastsac.kernels.compiler import cdiv, jit, require, run, tl
from fastsac.kernels.polyak import moved

_BLOCK = 1024
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8  # Adam's own, which every SAC uses


class AdamState(NamedTuple):
    """What Adam remembers: its moments (P,), and float32 scalars.

    Attributes:
        exp_avg: m.
        exp_avg_sq: v.
        step: steps done.
        skipped: steps skipped because the gradient was not finite.
        skipped_in_a_row: those since the last step done.
    """

    exp_avg: torch.Tensor
    exp_avg_sq: torch.Tensor
    step: torch.Tensor
    skipped: torch.Tensor
    skipped_in_a_row: torch.Tensor

    @classmethod
    def of(cls, parameter: torch.Tensor) -> AdamState:
        """Returns the state before the first step."""
        zeros = torch.zeros_like(parameter, requires_grad=False)
        step = torch.zeros((), dtype=torch.float32, device=parameter.device)
        return cls(zeros, zeros.clone(), step, step.clone(), step.clone())


@jit
def _square_sums(
    gradient,  # (P,)
    sums,  # out, one a program
    size,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    g = tl.load(gradient + at, at < size, other=0.0)
    tl.store(sums + tl.program_id(0), tl.sum(g * g, axis=0))


@jit
def _count(
    sums,  # (num_sums,)
    step,  # () float32, as are those below
    skipped,
    skipped_in_a_row,
    counted,  # out (3,): what the three will be
    num_sums,
    BLOCK: tl.constexpr,
):
    total = tl.zeros([BLOCK], tl.float32)
    for first in range(0, num_sums, BLOCK):
        at = first + tl.arange(0, BLOCK)
        total += tl.load(sums + at, at < num_sums, other=0.0)
    # Not >=: no comparison with a NaN is true.
    skip = tl.where(tl.sum(total, axis=0) < float("inf"), 0.0, 1.0)
    tl.store(counted, tl.load(step) + 1.0 - skip)
    tl.store(counted + 1, tl.load(skipped) + skip)
    tl.store(counted + 2, (tl.load(skipped_in_a_row) + 1.0) * skip)


@jit
def _forward(
    parameter,  # in and out (P,), as are all but the scalars
    gradient,
    exp_avg,
    exp_avg_sq,
    target,  # the parameter again where there is none
    counted,  # (3,) what the next three will be, () float32 and out
    step,
    skipped,
    skipped_in_a_row,
    learning_rate,  # () float32
    tau,  # () float32
    weight_decay,
    size,
    LOG_BETA1: tl.constexpr,
    LOG_BETA2: tl.constexpr,
    BETA1: tl.constexpr,
    BETA2: tl.constexpr,
    EPSILON: tl.constexpr,
    HAS_TARGET: tl.constexpr,
    ZERO_GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < size
    number, in_a_row = tl.load(counted), tl.load(counted + 2)
    if tl.program_id(0) == 0:
        tl.store(step, number)
        tl.store(skipped, tl.load(counted + 1))
        tl.store(skipped_in_a_row, in_a_row)
    moves = at < tl.where(in_a_row > 0.0, 0, size)
    # 1 - 0.999^t has 4 digits in float32.
    t = number.to(tl.float64)
    correction1 = (1.0 - tl.exp(t * LOG_BETA1)).to(tl.float32)
    correction2 = tl.sqrt((1.0 - tl.exp(t * LOG_BETA2)).to(tl.float32))
    rate = tl.load(learning_rate)
    p = tl.load(parameter + at, mask, other=0.0)
    g = tl.load(gradient + at, mask, other=0.0)
    m = tl.load(exp_avg + at, mask, other=0.0)
    v = tl.load(exp_avg_sq + at, mask, other=0.0)
    m = m + (1.0 - BETA1) * (g - m)
    v = BETA2 * v + (1.0 - BETA2) * g * g
    p = p - rate * weight_decay * p
    p = p - rate / correction1 * m / (tl.sqrt(v) / correction2 + EPSILON)
    tl.store(parameter + at, p, moves)
    tl.store(exp_avg + at, m, moves)
    tl.store(exp_avg_sq + at, v, moves)
    if ZERO_GRADIENT:
        tl.store(gradient + at, tl.zeros([BLOCK], tl.float32), mask)
    if HAS_TARGET:
        share = tl.load(tau)
        old = tl.load(target + at, mask, other=0.0)
        tl.store(target + at, moved(old, p, share), moves)


def fused(
    parameter: torch.Tensor,
    gradient: torch.Tensor,
    state: AdamState,
    learning_rate: torch.Tensor,
    weight_decay: float,
    target: torch.Tensor | None,
    tau: torch.Tensor | None,
    zero_gradient: bool,
) -> None:
    """The kernels, on a GPU or in Triton's interpreter; in place."""
    size = parameter.numel()
    programs = cdiv(size, _BLOCK)
    sums = torch.empty(programs, dtype=torch.float32, device=parameter.device)
    _square_sums[(programs,)](gradient, sums, size, BLOCK=_BLOCK)
    counted = torch.empty(3, dtype=torch.float32, device=parameter.device)
    _count[(1,)](sums, *state[2:], counted, programs, BLOCK=_BLOCK)
    # The first to write to what it was given: should one not compile, nothing has changed.
    _forward[(programs,)](
        parameter,
        gradient,
        state.exp_avg,
        state.exp_avg_sq,
        parameter if target is None else target,
        counted,
        *state[2:],
        learning_rate,
        learning_rate if tau is None else tau,
        weight_decay,
        size,
        LOG_BETA1=math.log(_BETA1),
        LOG_BETA2=math.log(_BETA2),
        BETA1=_BETA1,
        BETA2=_BETA2,
        EPSILON=_EPSILON,
        HAS_TARGET=target is not None,
        ZERO_GRADIENT=zero_gradient,
        BLOCK=_BLOCK,
    )


def reference(
    parameter: torch.Tensor,
    gradient: torch.Tensor,
    state: AdamState,
    learning_rate: torch.Tensor,
    weight_decay: float,
    target: torch.Tensor | None,
    tau: torch.Tensor | None,
    zero_gradient: bool,
) -> None:
    """The formulas by torch's own fused AdamW, in place."""
    skip = _skip(gradient)
    state.step.add_(1).sub_(skip)
    state.skipped.add_(skip)
    torch.addcmul(skip, state.skipped_in_a_row, skip, out=state.skipped_in_a_row)
    # What torch.optim.AdamW(fused=True) calls, which itself takes a CPU another 60 us a step.
    torch._fused_adamw_(
        [parameter],
        [gradient],
        [state.exp_avg],
        [state.exp_avg_sq],
        [],
        [state.step],
        lr=learning_rate,
        beta1=_BETA1,
        beta2=_BETA2,
        weight_decay=weight_decay,
        eps=_EPSILON,
        amsgrad=False,
        maximize=False,
        found_inf=skip,
    )
    if zero_gradient:
        gradient.zero_()
    if target is not None and tau is not None:
        # Moved by a share of 0 where skipped, which leaves every number, though -0 may become 0.
        target.lerp_(parameter, torch.addcmul(tau, tau, skip, value=-1))


def traced(
    parameter: torch.Tensor,
    gradient: torch.Tensor,
    state: AdamState,
    learning_rate: torch.Tensor,
    weight_decay: float,
    target: torch.Tensor | None,
    tau: torch.Tensor | None,
    zero_gradient: bool,
) -> None:
    """The formulas in elementwise operations, which Inductor makes two loops; in place."""
    skip = _skip(gradient)
    state.step.add_(1 - skip)
    state.skipped.add_(skip)
    state.skipped_in_a_row.copy_(skip * (state.skipped_in_a_row + 1))
    t = state.step.double()
    first, second = 1 - _BETA1**t, 1 - _BETA2**t
    both = torch.stack([learning_rate / first, second.sqrt()]).to(parameter.dtype)
    # What is strided is stored. Else Inductor takes both powers anew for each 16 weights, which was
    # more than half of the loops' time: 0.46 and 0.22 ms for the weights of critics and actor, not
    # 0.20 and 0.09.
    step_size, root = (both.as_strided((), (), at) for at in range(2))
    m = state.exp_avg.lerp(gradient, 1 - _BETA1)
    v = _BETA2 * state.exp_avg_sq + (1 - _BETA2) * gradient * gradient
    moved_to = parameter * (1 - learning_rate * weight_decay)
    moved_to = moved_to - step_size * m / (v.sqrt() / root + _EPSILON)
    is_taken = skip == 0
    if target is not None and tau is not None:
        target.copy_(torch.where(is_taken, target.lerp(moved_to, tau), target))
    for tensor, new in ((parameter, moved_to), (state.exp_avg, m), (state.exp_avg_sq, v)):
        tensor.copy_(torch.where(is_taken, new, tensor))
    if zero_gradient:
        gradient.zero_()


def _skip(gradient: torch.Tensor) -> torch.Tensor:
    """Returns 1 where the sum of squares is not finite, else 0: a float32 scalar."""
    flat = gradient.view(-1)
    total = flat.dot(flat)
    # Three operations that a CPU does in 1.3 us each; with a number instead of a tensor 3 to 6.
    difference = total.sub_(total)  # 0, or NaN
    return difference.ne_(difference).float()


@torch.no_grad()
def adam_polyak_(
    parameter: torch.Tensor,
    gradient: torch.Tensor,
    state: AdamState,
    learning_rate: torch.Tensor,
    weight_decay: float = 0.0,
    target: torch.Tensor | None = None,
    tau: torch.Tensor | None = None,
    zero_gradient: bool = True,
) -> None:
    """Takes one AdamW step, zeroes the gradient and moves the target, all in place.

    A gradient that is not finite moves nothing and is counted; it is zeroed all the same.

    Args:
        parameter: (P,) contiguous, float32, or float64 on a CPU.
        gradient: (P,).
        state: Adam's, of the same parameter.
        learning_rate: 0-d tensor on the device.
        weight_decay: decoupled; 0 is Adam.
        target: (P,) Polyak average of the parameter, or None.
        tau: 0-d tensor on the device, the target's share; needed with a target.
        zero_gradient: False leaves the gradient as it is, for a caller who overwrites it.

    Raises:
        ValueError: a tensor differs from the parameter in shape, dtype or device, is not
            contiguous, or target and tau do not come together.
    """
    if (target is None) != (tau is None):
        raise ValueError("target and tau come together or not at all")
    tensors = {"gradient": gradient, "exp_avg": state.exp_avg, "exp_avg_sq": state.exp_avg_sq}
    if target is not None and tau is not None:
        tensors["target"] = target
        require("tau", tau, (), parameter)
    require("learning_rate", learning_rate, (), parameter)
    for name, tensor in {"parameter": parameter, **tensors}.items():
        require(name, tensor, parameter.shape, parameter)
        if not tensor.is_contiguous():
            raise ValueError(f"{name} must be contiguous: it is read and written as one block")
    arguments = (parameter, gradient, state, learning_rate, weight_decay, target, tau)
    # Inductor takes no _fused_adamw_, and makes one loop of what the reference does in four.
    formulas = traced if torch.compiler.is_compiling() else reference
    run(parameter, fused, formulas, *arguments, zero_gradient)
