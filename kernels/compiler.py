"""What kernels are written with: Triton where it is installed, and the check of an argument."""

from collections.abc import Callable
from typing import Any

import torch

try:
    import triton
    import triton.language as tl
except ImportError:  # it has wheels for Linux alone; the torch references need none
    triton = tl = None

__all__ = ["cdiv", "jit", "next_power_of_2", "require", "runs_on", "tl"]


def jit(function: Callable[..., Any]) -> Any:
    """Triton's jit; without Triton the function stays what nothing calls."""
    return function if triton is None else triton.jit(function)


def runs_on(tensor: torch.Tensor) -> bool:
    """Whether kernels take this tensor: float32 on a CUDA device, with Triton installed."""
    return tensor.is_cuda and tensor.dtype == torch.float32 and triton is not None


def require(name: str, tensor: torch.Tensor, shape: tuple[int, ...], like: torch.Tensor) -> None:
    """Refuses a tensor of another shape, or of another dtype or device than ``like``.

    Raises:
        ValueError: with what was wanted and what was got.
    """
    if tensor.shape != shape or tensor.dtype != like.dtype or tensor.device != like.device:
        raise ValueError(
            f"{name} must be {tuple(shape)} {like.dtype} on {like.device}, "
            f"got {tuple(tensor.shape)} {tensor.dtype} on {tensor.device}"
        )


def cdiv(a: int, b: int) -> int:
    """Returns a / b rounded up."""
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    """Returns the least power of two that is at least n >= 1."""
    return 1 << (n - 1).bit_length()
