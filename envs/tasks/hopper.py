"""Planar one-legged hopper. Port of dm_control.suite.hopper."""

from functools import partial

import jax
import jax.numpy as jnp

from fastsac.envs.physics import Physics
from fastsac.envs.registry import Task, add
from fastsac.envs.rewards import tolerance

STAND_HEIGHT = 0.6  # m, of the torso over the foot
HOP_SPEED = 2.0  # m/s


def height(physics: Physics) -> jax.Array:
    """Of the torso's centre of mass over the foot's, m."""
    return physics.body("torso").xipos[2] - physics.body("foot").xipos[2]


def speed(physics: Physics) -> jax.Array:
    """Horizontal, of the centre of mass, m/s."""
    return physics.sensor("torso_subtreelinvel").data[0]


def observe(physics: Physics) -> dict[str, jax.Array]:
    return {
        "position": physics.qpos[1:],
        "velocity": physics.qvel,
        "touch": jnp.log1p(physics.sensors(["touch_toe", "touch_heel"]).data),
    }


def standing(physics: Physics) -> jax.Array:
    return tolerance(height(physics), (STAND_HEIGHT, 2))


def stand_reward(physics: Physics) -> jax.Array:
    effort = tolerance(physics.ctrl, margin=1, value_at_margin=0, sigmoid="quadratic").mean()
    return standing(physics) * (effort + 4) / 5


def hop_reward(physics: Physics) -> jax.Array:
    hopping = tolerance(
        speed(physics),
        bounds=(HOP_SPEED, float("inf")),
        margin=HOP_SPEED / 2,
        value_at_margin=0.5,
        sigmoid="linear",
    )
    return standing(physics) * hopping


_hopper = partial(Task, domain="hopper", observe=observe)
add(_hopper(name="stand", reward=stand_reward))
add(_hopper(name="hop", reward=hop_reward))
