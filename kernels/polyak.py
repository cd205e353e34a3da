"""Polyak averaging of one flat parameter tensor, in place.

    target <- target + tau (source - target)        (arXiv 1812.05905, algorithm 1)

No gradient. Both tensors (P,), float32 or float64.
"""

import torch


def reference(target: torch.Tensor, source: torch.Tensor, tau: float | torch.Tensor) -> None:
    """The formula in torch, in place on target."""
    target.lerp_(source, tau)


@torch.no_grad()
def polyak_(target: torch.Tensor, source: torch.Tensor, tau: float | torch.Tensor) -> torch.Tensor:
    """Moves target (P,) towards source (P,) by the share tau, in place, and returns it.

    Args:
        target: (P,) contiguous, float32 or float64.
        source: (P,) of the same dtype and device.
        tau: in [0, 1], a float or a 0-d tensor on the same device.

    Raises:
        ValueError: shapes, dtypes or devices differ.
    """
    if target.shape != source.shape or target.dtype != source.dtype:
        raise ValueError(
            f"target {tuple(target.shape)} {target.dtype} and source "
            f"{tuple(source.shape)} {source.dtype} must agree"
        )
    if target.device != source.device:
        raise ValueError(f"target is on {target.device}, source on {source.device}")
    reference(target, source, tau)
    return target
