"""Planar cheetah that runs. Port of dm_control.suite.cheetah."""

import jax

from fastsac.envs.physics import Physics
from fastsac.envs.registry import Task, add
from fastsac.envs.rewards import tolerance

RUN_SPEED = 10.0  # m/s, at and above which the reward is 1


def speed(physics: Physics) -> jax.Array:
    """Horizontal speed of the centre of mass, m/s."""
    return physics.sensor("torso_subtreelinvel").data[0]


def observe(physics: Physics) -> dict[str, jax.Array]:
    return {"position": physics.qpos[1:], "velocity": physics.qvel}


def reward(physics: Physics) -> jax.Array:
    return tolerance(
        speed(physics),
        bounds=(RUN_SPEED, float("inf")),
        margin=RUN_SPEED,
        value_at_margin=0,
        sigmoid="linear",
    )


add(Task(domain="cheetah", name="run", observe=observe, reward=reward))
