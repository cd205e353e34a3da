"""One AdamW step of a flat parameter, its gradient zeroed, its target moved: one pass over memory.

    m     <- beta1 m + (1 - beta1) g
    v     <- beta2 v + (1 - beta2) g^2
    p     <- (1 - lr weight_decay) p - lr m' / (sqrt(v') + epsilon)
    g     <- 0
    target <- target + tau (p - target)

with m' = m / (1 - beta1^t), v' = v / (1 - beta2^t) at step t (AdamW, arXiv 1711.05101, algorithm 2,
in torch.optim's parametrisation; Polyak average, arXiv 1812.05905, algorithm 1). No gradient.

All tensors (P,), float32, or float64 on a CPU; step, lr and tau are scalars on the device, so that
a captured CUDA graph sees them change. The kernel takes float32 and reads and writes each tensor
once; torch's own fused AdamW, the reference, leaves gradient and target to two more passes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from fastsac.kernels.compiler import cdiv, jit, require, runs_on, tl
from fastsac.kernels.polyak import moved

_BLOCK = 1024
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8  # Adam's own, which every SAC uses


class AdamState(NamedTuple):
    """What Adam remembers: its moments (P,), and the steps done, a float32 scalar."""

    exp_avg: torch.Tensor
    exp_avg_sq: torch.Tensor
    step: torch.Tensor

    @classmethod
    def of(cls, parameter: torch.Tensor) -> AdamState:
        """Returns the state before the first step."""
        zeros = torch.zeros_like(parameter, requires_grad=False)
        step = torch.zeros((), dtype=torch.float32, device=parameter.device)
        return cls(zeros, zeros.clone(), step)


@jit
def _forward(
    parameter,  # in and out (P,), as are all but the scalars
    gradient,
    exp_avg,
    exp_avg_sq,
    target,  # the parameter again where there is none
    step,  # () float32, the number of this step
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
    # 1 - 0.999^t has 4 digits in float32.
    t = tl.load(step).to(tl.float64)
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
    tl.store(parameter + at, p, mask)
    tl.store(exp_avg + at, m, mask)
    tl.store(exp_avg_sq + at, v, mask)
    if ZERO_GRADIENT:
        tl.store(gradient + at, tl.zeros([BLOCK], tl.float32), mask)
    if HAS_TARGET:
        share = tl.load(tau)
        old = tl.load(target + at, mask, other=0.0)
        tl.store(target + at, moved(old, p, share), mask)


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
    """The kernel, on a GPU or in Triton's interpreter; in place."""
    state.step.add_(1)
    size = parameter.numel()
    _forward[(cdiv(size, _BLOCK),)](
        parameter,
        gradient,
        state.exp_avg,
        state.exp_avg_sq,
        parameter if target is None else target,
        state.step,
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
    state.step.add_(1)
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
    )
    if zero_gradient:
        gradient.zero_()
    if target is not None and tau is not None:
        target.lerp_(parameter, tau)


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
    implementation = fused if runs_on(parameter) else reference
    scalars = (learning_rate, weight_decay)
    implementation(parameter, gradient, state, *scalars, target, tau, zero_gradient)
