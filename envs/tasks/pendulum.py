"""Pendulum to swing up and balance. Port of dm_control.suite.pendulum."""

import math

import jax
import jax.numpy as jnp

from fastsac.envs.physics import Physics
from fastsac.envs.registry import ENERGY_OFF, GEOMS_DO_NOT_COLLIDE, Task, add
from fastsac.envs.rewards import tolerance

COSINE_BOUND = math.cos(math.radians(8))  # of the angle from upright, above which the reward is 1


def observe(physics: Physics) -> dict[str, jax.Array]:
    pole = physics.body("pole").xmat
    return {
        "orientation": jnp.stack([pole[2, 2], pole[0, 2]]),
        "velocity": physics.joint("hinge").qvel,
    }


def reward(physics: Physics) -> jax.Array:
    return tolerance(physics.body("pole").xmat[2, 2], (COSINE_BOUND, 1))


add(
    Task(
        domain="pendulum",
        name="swingup",
        observe=observe,
        reward=reward,
        deviations=(ENERGY_OFF, GEOMS_DO_NOT_COLLIDE),
    )
)
