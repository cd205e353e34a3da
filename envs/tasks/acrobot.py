"""Two-link pendulum driven at the elbow. Port of dm_control.suite.acrobot."""

from functools import partial

import jax
import jax.numpy as jnp

from fastsac.envs.physics import Physics
from fastsac.envs.registry import ENERGY_OFF, GEOMS_DO_NOT_COLLIDE, Task, add
from fastsac.envs.rewards import tolerance


def orientations(physics: Physics) -> jax.Array:
    """Sines, then cosines, of the two links' angles from the vertical."""
    links = [physics.body(name).xmat for name in ("upper_arm", "lower_arm")]
    return jnp.stack([link[0, 2] for link in links] + [link[2, 2] for link in links])


def tip_to_target(physics: Physics) -> jax.Array:
    """Distance, m."""
    return jnp.linalg.norm(physics.site("target").xpos - physics.site("tip").xpos)


def observe(physics: Physics) -> dict[str, jax.Array]:
    return {"orientations": orientations(physics), "velocity": physics.qvel}


def reward(physics: Physics, margin: float) -> jax.Array:
    radius = physics.model.site_size[physics.model.site("target").id, 0]
    return tolerance(tip_to_target(physics), (0, radius), margin)


_acrobot = partial(
    Task, domain="acrobot", observe=observe, deviations=(ENERGY_OFF, GEOMS_DO_NOT_COLLIDE)
)
add(_acrobot(name="swingup", reward=partial(reward, margin=1.0)))
add(_acrobot(name="swingup_sparse", reward=partial(reward, margin=0.0)))
