"""The one place where jax and torch meet: tensors cross without a copy, through DLPack.

torch.from_dlpack passes torch's current stream to jax, so that the export is ordered on the GPU
and the host does not wait. A tensor made here shares the jax array's memory: never write to it.
"""

import jax
import torch


def to_torch(array: jax.Array) -> torch.Tensor:
    """Returns a torch view of a jax array, on the same device."""
    return torch.from_dlpack(array)


def to_jax(tensor: torch.Tensor) -> jax.Array:
    """Returns a jax view of a torch tensor, which must be contiguous and stay unchanged."""
    return jax.dlpack.from_dlpack(tensor.detach())
