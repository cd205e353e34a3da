"""tolerance against dm_control's own."""

import jax
import numpy as np
import pytest
from dm_control.utils import rewards as dm_rewards

from fastsac.envs.rewards import SIGMOIDS, tolerance

X = np.concatenate([np.linspace(-30, 30, 241), [0.0, 1.0, -1.0, 1e6, -1e6]])
BOUNDS = [(0.0, 0.0), (-1.0, 2.5), (1.2, float("inf")), (float("-inf"), 0.0)]


@pytest.mark.parametrize("sigmoid", SIGMOIDS)
@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("margin", [0.0, 0.7, 5.0])
@pytest.mark.parametrize("value_at_margin", [0.1, 0.5])
def test_equals_dm_control(sigmoid, bounds, margin, value_at_margin):
    theirs = dm_rewards.tolerance(X, bounds, margin, sigmoid, value_at_margin)
    with jax.enable_x64(True):
        ours = tolerance(X, bounds, margin, sigmoid, value_at_margin)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("sigmoid", ["cosine", "linear", "quadratic"])
def test_zero_at_the_margin(sigmoid):
    theirs = dm_rewards.tolerance(X, (0, 1), 2.0, sigmoid, 0.0)
    with jax.enable_x64(True):
        ours = tolerance(X, (0, 1), 2.0, sigmoid, 0.0)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_value_at_the_margin_by_hand():
    # gaussian: exp(-0.5 (1 * sqrt(-2 ln 0.1))^2) = 0.1 one margin away from the bound.
    np.testing.assert_allclose(tolerance(3.0, (0.0, 1.0), 2.0), 0.1, rtol=1e-6)


@pytest.mark.parametrize(
    "arguments",
    [
        dict(bounds=(1.0, 0.0)),
        dict(margin=-1.0),
        dict(margin=1.0, sigmoid="parabola"),
        dict(margin=1.0, value_at_margin=0.0),
        dict(margin=1.0, value_at_margin=1.0),
        dict(margin=1.0, sigmoid="linear", value_at_margin=-0.1),
    ],
)
def test_refuses_what_dm_control_refuses(arguments):
    with pytest.raises(ValueError):
        tolerance(0.5, **arguments)
    with pytest.raises(ValueError):
        dm_rewards.tolerance(0.5, **arguments)
