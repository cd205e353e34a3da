"""The suite's soft indicator function (dm_control.utils.rewards) in jax.numpy."""

import math
from typing import Any

import jax
import jax.numpy as jnp

Number = float | jax.Array

SIGMOIDS = (
    "gaussian",
    "hyperbolic",
    "long_tail",
    "reciprocal",
    "cosine",
    "linear",
    "quadratic",
    "tanh_squared",
)
_ZERO_AT_MARGIN = ("cosine", "linear", "quadratic")


def _sigmoid(x: jax.Array, value_at_1: float, sigmoid: str) -> jax.Array:
    """Falls from 1 at x == 0 to value_at_1 at x == 1."""
    inside = lambda scaled, value: jnp.where(jnp.abs(scaled) < 1, value, 0.0)  # noqa: E731
    match sigmoid:
        case "gaussian":
            return jnp.exp(-0.5 * (x * math.sqrt(-2 * math.log(value_at_1))) ** 2)
        case "hyperbolic":
            return 1 / jnp.cosh(x * math.acosh(1 / value_at_1))
        case "long_tail":
            return 1 / ((x * math.sqrt(1 / value_at_1 - 1)) ** 2 + 1)
        case "reciprocal":
            return 1 / (jnp.abs(x) * (1 / value_at_1 - 1) + 1)
        case "cosine":
            scaled = x * (math.acos(2 * value_at_1 - 1) / math.pi)
            return inside(scaled, (1 + jnp.cos(math.pi * scaled)) / 2)
        case "linear":
            scaled = x * (1 - value_at_1)
            return inside(scaled, 1 - scaled)
        case "quadratic":
            scaled = x * math.sqrt(1 - value_at_1)
            return inside(scaled, 1 - scaled**2)
        case _:
            return 1 - jnp.tanh(x * math.atanh(math.sqrt(1 - value_at_1))) ** 2


def _traced(*values: Any) -> bool:
    return any(isinstance(v, jax.core.Tracer) for v in values)


def tolerance(
    x: jax.Array,
    bounds: tuple[Number, Number] = (0.0, 0.0),
    margin: Number = 0.0,
    sigmoid: str = "gaussian",
    value_at_margin: float = 0.1,
) -> jax.Array:
    """Returns 1 where x lies within bounds and falls to 0 outside, elementwise.

    Args:
        x: any shape.
        bounds: inclusive (lower, upper); may be infinite or equal.
        margin: distance from the nearest bound at which the value is value_at_margin; with 0 the
            value is 0 everywhere outside.
        sigmoid: one of SIGMOIDS, the shape of the fall.
        value_at_margin: in (0, 1); 0 is allowed for cosine, linear and quadratic.

    Raises:
        ValueError: bounds reversed, negative margin, unknown sigmoid or value_at_margin out of
            range. (dm_control.utils.rewards.tolerance)
    """
    lower, upper = bounds
    # Bounds and margin are traced where they come from a model field that is per world.
    if not _traced(lower, upper) and lower > upper:
        raise ValueError(f"bounds must be (lower, upper) with lower <= upper, got {bounds}")
    if not _traced(margin) and margin < 0:
        raise ValueError(f"margin must be non-negative, got {margin}")
    if sigmoid not in SIGMOIDS:
        raise ValueError(f"unknown sigmoid {sigmoid!r}; there are {', '.join(SIGMOIDS)}")
    x = jnp.asarray(x)
    in_bounds = (lower <= x) & (x <= upper)
    if not _traced(margin) and margin == 0:
        return jnp.where(in_bounds, 1.0, 0.0)
    least_allowed = value_at_margin >= 0 if sigmoid in _ZERO_AT_MARGIN else value_at_margin > 0
    if not (least_allowed and value_at_margin < 1):
        raise ValueError(f"value_at_margin {value_at_margin} is out of range for {sigmoid!r}")
    distance = jnp.where(x < lower, lower - x, x - upper) / margin
    return jnp.where(in_bounds, 1.0, _sigmoid(distance, value_at_margin, sigmoid))
