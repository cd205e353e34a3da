"""The precision of matrix products in what jax compiles for an engine."""

import functools
from collections.abc import Callable
from typing import Any

import jax


def in_float32(traced: Callable[..., Any]) -> Callable[..., Any]:
    """Traces a function's matrix products at the precision of their numbers.

    By default XLA multiplies float32 in TF32 on Ampere and newer, with 10 bits: Newton's Hessian
    and the mass matrix are among them, and cheetah's observations then err by 7e-4 after a control
    step instead of 3e-5 (emulated). What the program around sets for itself stays.
    """

    @functools.wraps(traced)
    def wrapped(*args: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return traced(*args)

    return wrapped
