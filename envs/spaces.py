"""What an env's observations look like to its user: flat, in dm_control's parts, or pictures."""

from typing import Any

import gymnasium
import numpy as np

from fastsac.envs.suite import Suite


def observation_space(suite: Suite, flatten: bool) -> gymnasium.Space[Any]:
    """Returns the space of one world's observations, as ``observed`` gives them."""
    low, high = (0, 255) if suite.are_pictures else (-np.inf, np.inf)

    def box(shape: tuple[int, ...]) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(low, high, shape, suite.dtype)

    if not flatten:
        return gymnasium.spaces.Dict([(name, box(shape)) for name, shape in suite.shapes.items()])
    return box(suite.shapes["pixels"] if suite.are_pictures else (suite.obs_dim,))


def observed(suite: Suite, flatten: bool, obs: Any) -> Any:
    """Returns an engine's observations (..., obs_dim), in any kind of array, for the user."""
    if not flatten:
        return suite.split(obs)
    return suite.split(obs)["pixels"] if suite.are_pictures else obs
