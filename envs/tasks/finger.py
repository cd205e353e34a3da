"""Finger that spins or turns a body on a hinge. Port of dm_control.suite.finger."""

from functools import partial

import jax
import jax.numpy as jnp

from fastsac.envs.physics import Physics
from fastsac.envs.registry import Task, add

SPIN_VELOCITY = 15.0  # rad/s


def tip_position(physics: Physics) -> jax.Array:
    """(x, z) relative to the hinge, m."""
    return (physics.sensor("tip").data - physics.sensor("spinner").data)[::2]


def target_position(physics: Physics) -> jax.Array:
    """(x, z) relative to the hinge, m."""
    return (physics.sensor("target").data - physics.sensor("spinner").data)[::2]


def distance_to_target(physics: Physics) -> jax.Array:
    """Of the tip from the target's surface, m, negative inside."""
    radius = physics.model.site_size[physics.model.site("target").id, 0]
    return jnp.linalg.norm(target_position(physics) - tip_position(physics)) - radius


def observe_spin(physics: Physics) -> dict[str, jax.Array]:
    angles = physics.sensors(["proximal", "distal"]).data
    velocities = ["proximal_velocity", "distal_velocity", "hinge_velocity"]
    return {
        "position": jnp.concatenate([angles, tip_position(physics)]),
        "velocity": physics.sensors(velocities).data,
        "touch": jnp.log1p(physics.sensors(["touchtop", "touchbottom"]).data),
    }


def observe_turn(physics: Physics) -> dict[str, jax.Array]:
    target = {
        "target_position": target_position(physics),
        "dist_to_target": distance_to_target(physics),
    }
    return observe_spin(physics) | target


def spin_reward(physics: Physics) -> jax.Array:
    return (physics.sensor("hinge_velocity").data[0] <= -SPIN_VELOCITY).astype(float)


def turn_reward(physics: Physics) -> jax.Array:
    return (distance_to_target(physics) <= 0).astype(float)


_turn = partial(
    Task, domain="finger", observe=observe_turn, reward=turn_reward, randomised=("site_pos",)
)
add(Task(domain="finger", name="spin", observe=observe_spin, reward=spin_reward))
add(_turn(name="turn_easy"))
add(_turn(name="turn_hard"))
