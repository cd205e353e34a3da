"""Point mass to bring to the middle of the plane. Port of dm_control.suite.point_mass."""

from functools import partial

import jax
import jax.numpy as jnp

from fastsac.envs.physics import Physics
from fastsac.envs.registry import GEOMS_DO_NOT_COLLIDE, Task, add
from fastsac.envs.rewards import tolerance


def mass_to_target(physics: Physics) -> jax.Array:
    """Distance, m."""
    return jnp.linalg.norm(physics.geom("target").xpos - physics.geom("pointmass").xpos)


def observe(physics: Physics) -> dict[str, jax.Array]:
    return {"position": physics.qpos, "velocity": physics.qvel}


def reward(physics: Physics) -> jax.Array:
    size = physics.model.geom_size[physics.model.geom("target").id, 0]
    near_target = tolerance(mass_to_target(physics), bounds=(0, size), margin=size)
    effort = tolerance(physics.ctrl, margin=1, value_at_margin=0, sigmoid="quadratic").mean()
    return near_target * (effort + 4) / 5


_point_mass = partial(
    Task, domain="point_mass", observe=observe, reward=reward, deviations=(GEOMS_DO_NOT_COLLIDE,)
)
add(_point_mass(name="easy"))
add(
    _point_mass(
        name="hard",
        randomised=("wrap_prm",),
        warp_refusal="it keeps one wrap_prm for all worlds",
    )
)
