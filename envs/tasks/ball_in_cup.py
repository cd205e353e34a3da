"""Ball on a string, to be caught in a cup. Port of dm_control.suite.ball_in_cup."""

import jax
import jax.numpy as jnp

from fastsac.envs.physics import Physics
from fastsac.envs.registry import Task, add


def ball_to_target(physics: Physics) -> jax.Array:
    """Horizontal and vertical distance, m."""
    return (physics.site("target").xpos - physics.body("ball").xpos)[::2]


def observe(physics: Physics) -> dict[str, jax.Array]:
    return {"position": physics.qpos, "velocity": physics.qvel}


def reward(physics: Physics) -> jax.Array:
    """1 while the whole ball is in the target."""
    target = physics.model.site_size[physics.model.site("target").id, ::2]
    ball = physics.model.geom_size[physics.model.geom("ball").id, 0]
    return (jnp.abs(ball_to_target(physics)) < target - ball).all().astype(float)


add(Task(domain="ball_in_cup", name="catch", observe=observe, reward=reward))
