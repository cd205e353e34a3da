"""Humanoid with 56 actuators. Port of dm_control.suite.humanoid_CMU."""

from functools import partial

import jax
import jax.numpy as jnp

from fastsac.envs.physics import Physics
from fastsac.envs.registry import Task, add
from fastsac.envs.tasks.humanoid import (
    ROOT_QPOS,
    RUN_SPEED,
    WALK_SPEED,
    head_height,
    moving,
    small_control_stand,
    still,
)


def thorax_upright(physics: Physics) -> jax.Array:
    """The thorax's y axis points up."""
    return physics.body("thorax").xmat[2, 1]


def centre_of_mass_velocity(physics: Physics) -> jax.Array:
    return physics.sensor("thorax_subtreelinvel").data


def extremities(physics: Physics) -> jax.Array:
    """Hands and feet, left then right, in the thorax's frame, m."""
    thorax = physics.body("thorax")
    limbs = [side + limb for side in "lr" for limb in ("hand", "foot")]
    return jnp.concatenate([(physics.body(x).xpos - thorax.xpos) @ thorax.xmat for x in limbs])


def observe(physics: Physics) -> dict[str, jax.Array]:
    return {
        "joint_angles": physics.qpos[ROOT_QPOS:],
        "head_height": head_height(physics),
        "extremities": extremities(physics),
        "torso_vertical": physics.body("thorax").xmat[2],
        "com_velocity": centre_of_mass_velocity(physics),
        "velocity": physics.qvel,
    }


def stand_reward(physics: Physics) -> jax.Array:
    stand = small_control_stand(physics, thorax_upright(physics))
    return stand * still(centre_of_mass_velocity(physics))


def move_reward(physics: Physics, speed: float) -> jax.Array:
    stand = small_control_stand(physics, thorax_upright(physics))
    return stand * moving(centre_of_mass_velocity(physics), speed) / 6


_humanoid = partial(Task, domain="humanoid_CMU", observe=observe)
add(_humanoid(name="stand", reward=stand_reward))
add(_humanoid(name="walk", reward=partial(move_reward, speed=WALK_SPEED)))
add(_humanoid(name="run", reward=partial(move_reward, speed=RUN_SPEED)))
