"""The one place where jax meets torch's and numpy's memory: through DLPack, without a copy.

torch.from_dlpack passes torch's current stream to jax, so that the export is ordered on the GPU
and the host does not wait. A tensor made here shares the jax array's memory: never write to it.
"""

import math
from typing import Any

import jax
import numpy as np
import torch


def to_torch(array: jax.Array) -> torch.Tensor:
    """Returns a torch view of a jax array, on the same device."""
    return torch.from_dlpack(array)


def to_jax(tensor: torch.Tensor) -> jax.Array:
    """Returns a jax view of a torch tensor, which must be contiguous and stay unchanged."""
    return jax.dlpack.from_dlpack(tensor.detach())


def aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Returns uninitialised memory that begins at a multiple of 64 bytes, as ``aliased`` wants."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start:][:size].view(dtype).reshape(shape)


def aliased(array: np.ndarray) -> jax.Array:
    """Returns an array through which a compiled function reads whatever the memory then holds.

    Unlike every other jax array, its values change: pass it to functions whose results are waited
    for, and to nothing whose result could share its memory.

    Raises:
        ValueError: the array is not aligned to 64 bytes.
        jax.errors.JaxRuntimeError: it is strided.
    """
    with jax.enable_x64(True):  # else 64 bits become 32
        return jax.dlpack.from_dlpack(array, device=jax.devices("cpu")[0], copy=False)
