"""Planar arm that stacks boxes. Port of dm_control.suite.stacker."""

from functools import partial

import jax
import jax.numpy as jnp

from fastsac.envs.physics import Physics
from fastsac.envs.registry import Task, add
from fastsac.envs.rewards import tolerance
from fastsac.envs.tasks.manipulator import ARM_JOINTS, CLOSE, arm_angles, distance, planar_pose

HAND_FAR = 0.1  # m, from the target


def observe(physics: Physics, boxes: int) -> dict[str, jax.Array]:
    names = [f"box{i}" for i in range(boxes)]
    return {
        "arm_pos": arm_angles(physics),
        "arm_vel": physics.joints(ARM_JOINTS).qvel,
        "touch": jnp.log1p(physics.sensordata),
        "hand_pos": planar_pose(physics, "hand"),
        "box_pos": jnp.stack([planar_pose(physics, name) for name in names]),
        "box_vel": physics.joints([f"{name}_{axis}" for name in names for axis in "xyz"]).qvel,
        "target_pos": physics.body("target").xpos[::2],
    }


def reward(physics: Physics, boxes: int) -> jax.Array:
    """The nearest box is at the target and the hand is not."""
    size = physics.model.geom_size[physics.model.geom("target").id, 0]
    nearest = jnp.stack([distance(physics, f"box{i}", "target") for i in range(boxes)]).min()
    box_is_close = tolerance(nearest, margin=2 * size)
    hand = distance(physics, "grasp", "target")
    return box_is_close * tolerance(hand, bounds=(HAND_FAR, float("inf")), margin=CLOSE)


def stack(boxes: int) -> Task:
    return Task(
        domain="stacker",
        name=f"stack_{boxes}",
        observe=partial(observe, boxes=boxes),
        reward=partial(reward, boxes=boxes),
        randomised=("body_pos",),
    )


add(stack(2))
add(stack(4))
