"""Arrays of several shapes in one memory a dtype, which torch takes over at once.

To hand an array from jax to torch costs the host some 45 us whatever its size, to slice one 2.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import torch

from fastsac.envs.dlpack import to_torch


class Packing:
    """Where each of some arrays lies among those of its dtype; bool lies among uint8.

    Args:
        like: name -> shape and dtype.
    """

    def __init__(self, like: Mapping[str, tuple[tuple[int, ...], torch.dtype]]):
        self._like = dict(like)
        self._kinds: dict[str, list[str]] = {}  # jax's name of a dtype -> the arrays' names
        for name, (_, dtype) in like.items():
            kind = "uint8" if dtype == torch.bool else str(dtype).removeprefix("torch.")
            self._kinds.setdefault(kind, []).append(name)

    def pack(self, arrays: Mapping[str, jax.Array]) -> list[jax.Array]:
        """Returns a vector for each dtype there is, arrays in row-major order; to be jitted."""
        return [
            jnp.concatenate([arrays[k].ravel().astype(kind) for k in names])
            for kind, names in self._kinds.items()
        ]

    def unpack(self, packed: list[jax.Array]) -> dict[str, torch.Tensor]:
        """Returns torch's views of the arrays, never to be written to."""
        views = {}
        for names, vector in zip(self._kinds.values(), packed, strict=True):
            shapes = [self._like[k][0] for k in names]
            parts = to_torch(vector).split([math.prod(shape) for shape in shapes])
            for name, shape, part in zip(names, shapes, parts, strict=True):
                views[name] = part.view(self._like[name][1]).view(shape)
        return views
