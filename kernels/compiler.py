"""What kernels are written with: Triton if installed, an argument's check, kernel or reference."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch

try:
    import triton
    import triton.language as tl
except ImportError:  # it has wheels for Linux alone; the torch references need none
    triton = tl = None

__all__ = [
    "cdiv",
    "has_failed",
    "jit",
    "next_power_of_2",
    "require",
    "run",
    "runs_on",
    "strict_kernels",
    "tl",
]

T = TypeVar("T")
_strict = ContextVar("strict_kernels", default=False)
_failed: set[str] = set()  # modules whose kernels did not run


def jit(function: Callable[..., Any]) -> Any:
    """Triton's jit; without Triton the function stays what nothing calls."""
    return function if triton is None else triton.jit(function)


def runs_on(tensor: torch.Tensor, dtypes: tuple[torch.dtype, ...] = (torch.float32,)) -> bool:
    """Whether kernels take this tensor: of the dtypes on a CUDA device, with Triton installed."""
    return tensor.is_cuda and tensor.dtype in dtypes and triton is not None


def has_failed(module: str) -> bool:
    """Whether one of a module's kernels did not run in this process."""
    return module in _failed


@contextmanager
def strict_kernels(strict: bool = True) -> Iterator[None]:
    """Within it a kernel that fails raises instead of leaving its place to torch's operations."""
    token = _strict.set(strict)
    try:
        yield
    finally:
        _strict.reset(token)


def run(
    like: torch.Tensor,
    fused: Callable[..., T],
    reference: Callable[..., T],
    *arguments: Any,
    dtypes: tuple[torch.dtype, ...] = (torch.float32,),
) -> T:
    """Calls fused where kernels take tensors like ``like``, and otherwise the reference.

    Where a kernel does not compile or launch (no C compiler for Triton's launcher, an unknown GPU)
    the reference takes its place, and that of the module's other kernels, until the process ends;
    one warning says so. fused must have written to none of its arguments when it raises. What a
    GPU reports later than at the launch, and the backward pass of autograd's, raise all the same.

    Raises:
        Exception: what fused raises, within ``strict_kernels`` or a CUDA graph's capture.
        torch.OutOfMemoryError: fused found no memory for what it returns.
    """
    if not runs_on(like, dtypes):
        return reference(*arguments)
    strict = _strict.get()
    if fused.__module__ in _failed and not strict:
        return reference(*arguments)
    try:
        return fused(*arguments)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        # In a capture it may be another call's fault, and nothing can take its place there.
        if strict or (like.is_cuda and torch.cuda.is_current_stream_capturing()):
            raise
        _failed.add(fused.__module__)
        logging.getLogger("fastsac").warning(
            "%s runs as operations of torch, more slowly: its kernel failed with %s: %s",
            fused.__module__,
            type(error).__name__,
            error,
        )
    return reference(*arguments)


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
