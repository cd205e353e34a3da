"""Polyak averaging of one flat parameter tensor, in place.

    target <- target + tau (source - target)        (arXiv 1812.05905, algorithm 1)

For tau >= 1/2 it is computed as source - (1 - tau) (source - target), so that tau = 1 is exact. No
gradient. Both tensors (P,), float32 or float64; the kernel takes float32.
"""

from __future__ import annotations

import torch

from fastsac.kernels.compiler import cdiv, jit, require, run, tl

_BLOCK = 256


@jit
def moved(old, new, share):
    """Returns old moved towards new by the share; also what adam_polyak does to its target."""
    return tl.where(share < 0.5, old + share * (new - old), new - (1.0 - share) * (new - old))


@jit
def _forward(
    target,  # in and out (P,)
    source,  # (P,)
    tau,  # () on the device
    size,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < size
    share = tl.load(tau)
    old = tl.load(target + at, mask)
    new = tl.load(source + at, mask)
    tl.store(target + at, moved(old, new, share), mask)


def fused(target: torch.Tensor, source: torch.Tensor, tau: float | torch.Tensor) -> None:
    """The kernel, on a GPU or in Triton's interpreter; in place on target."""
    if not isinstance(tau, torch.Tensor):
        tau = torch.full((), tau, dtype=torch.float32, device=target.device)
    size = target.numel()
    _forward[(cdiv(size, _BLOCK),)](target, source.contiguous(), tau, size, BLOCK=_BLOCK)


def reference(target: torch.Tensor, source: torch.Tensor, tau: float | torch.Tensor) -> None:
    """The formula in torch, in place on target."""
    target.lerp_(source, tau)


@torch.no_grad()
def polyak_(target: torch.Tensor, source: torch.Tensor, tau: float | torch.Tensor) -> torch.Tensor:
    """Moves target (P,) towards source (P,) by the share tau, in place, and returns it.

    Args:
        target: (P,) contiguous, float32 or float64.
        source: (P,) of the same dtype and device.
        tau: in [0, 1], a float or a 0-d tensor of the same dtype on the same device.

    Raises:
        ValueError: shapes, dtypes or devices differ, or target is not contiguous.
    """
    require("source", source, target.shape, target)
    if isinstance(tau, torch.Tensor):
        require("tau", tau, (), target)
    if not target.is_contiguous():
        raise ValueError("target must be contiguous: it is written in place")
    run(target, fused, reference, target, source, tau)
    return target
