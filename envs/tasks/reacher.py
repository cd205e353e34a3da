"""Two-link arm that reaches a random target. Port of dm_control.suite.reacher."""

from functools import partial

import jax
import jax.numpy as jnp

from fastsac.envs.physics import Physics
from fastsac.envs.registry import GEOMS_DO_NOT_COLLIDE, Task, add
from fastsac.envs.rewards import tolerance


def finger_to_target(physics: Physics) -> jax.Array:
    """Vector from finger to target in the plane, m."""
    return (physics.geom("target").xpos - physics.geom("finger").xpos)[:2]


def observe(physics: Physics) -> dict[str, jax.Array]:
    return {
        "position": physics.qpos,
        "to_target": finger_to_target(physics),
        "velocity": physics.qvel,
    }


def reward(physics: Physics) -> jax.Array:
    size = physics.model.geom_size
    radii = sum(size[physics.model.geom(name).id, 0] for name in ("target", "finger"))
    return tolerance(jnp.linalg.norm(finger_to_target(physics)), (0, radii))


_reacher = partial(
    Task, domain="reacher", observe=observe, reward=reward, deviations=(GEOMS_DO_NOT_COLLIDE,)
)
add(_reacher(name="easy", randomised=("geom_pos",)))
add(_reacher(name="hard", randomised=("geom_pos",)))
