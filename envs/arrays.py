"""The arrays that an env takes and hands out: torch's, numpy's or jax's. All conversion is here."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

from fastsac.envs.dlpack import to_jax, to_torch


class Arrays(NamedTuple):
    """A kind of arrays.

    Attributes:
        take: an action as users give it -> torch.float32 tensor, shape and device as they are.
        give: a tensor on the env's device -> the user's array, of the same memory where it can be;
            None hands out the tensor itself.
    """

    take: Callable[[Any], torch.Tensor]
    give: Callable[[torch.Tensor], Any] | None


def _as_it_is(action: Any) -> torch.Tensor:
    if not isinstance(action, torch.Tensor) or action.dtype != torch.float32:
        kind = action.dtype if isinstance(action, torch.Tensor) else type(action).__name__
        others = (
            "" if isinstance(action, torch.Tensor) else '; make(..., array="numpy") takes arrays'
        )
        raise TypeError(f"action must be a torch.float32 tensor, got {kind}{others}")
    return action


def _of_numpy(action: Any) -> torch.Tensor:
    array = np.asarray(action)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"action must hold real numbers, got {array.dtype}")
    return torch.from_numpy(np.array(array, np.float32))


def _of_jax(action: Any) -> torch.Tensor:
    if isinstance(action, jax.core.Tracer):
        raise TypeError("action is traced: an env steps outside of jax.jit and its like")
    array = action if isinstance(action, jax.Array) else jnp.asarray(_of_numpy(action).numpy())
    if not jnp.issubdtype(array.dtype, jnp.floating) | jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"action must hold real numbers, got {array.dtype}")
    return to_torch(array.astype(jnp.float32))


ARRAYS = {
    "torch": Arrays(_as_it_is, None),
    "numpy": Arrays(_of_numpy, lambda tensor: tensor.numpy()),
    "jax": Arrays(_of_jax, to_jax),
}
