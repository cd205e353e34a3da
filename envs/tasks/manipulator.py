"""Planar arm that brings a ball or a peg to a target. Port of dm_control.suite.manipulator."""

from functools import partial

import jax
import jax.numpy as jnp

from fastsac.envs.physics import Physics
from fastsac.envs.registry import Task, add
from fastsac.envs.rewards import tolerance

CLOSE = 0.01  # m, below which a thing is considered close
ARM_JOINTS = (
    "arm_root",
    "arm_shoulder",
    "arm_elbow",
    "arm_wrist",
    "finger",
    "fingertip",
    "thumb",
    "thumbtip",
)
TOUCH_SENSORS = ("palm_touch", "finger_touch", "thumb_touch", "fingertip_touch", "thumbtip_touch")


def arm_angles(physics: Physics) -> jax.Array:
    """Sine and cosine of each joint of the arm."""
    angles = physics.joints(ARM_JOINTS).qpos
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=1)


def planar_pose(physics: Physics, body: str) -> jax.Array:
    """Position (x, z) in m and quaternion (w, y)."""
    rows = physics.body(body)
    return jnp.concatenate([rows.xpos[::2], rows.xquat[::2]])


def distance(physics: Physics, site: str, other: str) -> jax.Array:
    """Between two sites, m."""
    return jnp.linalg.norm(physics.site(site).xpos - physics.site(other).xpos)


def observe(physics: Physics, prop: str) -> dict[str, jax.Array]:
    prop_joints = [f"{prop}_{axis}" for axis in "xzy"]
    return {
        "arm_pos": arm_angles(physics),
        "arm_vel": physics.joints(ARM_JOINTS).qvel,
        "touch": jnp.log1p(physics.sensors(TOUCH_SENSORS).data),
        "hand_pos": planar_pose(physics, "hand"),
        "object_pos": planar_pose(physics, prop),
        "object_vel": physics.joints(prop_joints).qvel,
        "target_pos": planar_pose(physics, f"target_{prop}"),
    }


def closeness(physics: Physics, site: str, other: str) -> jax.Array:
    return tolerance(distance(physics, site, other), (0, CLOSE), 2 * CLOSE)


def ball_reward(physics: Physics) -> jax.Array:
    return closeness(physics, "ball", "target_ball")


def peg_reward(physics: Physics) -> jax.Array:
    grasp = closeness(physics, "peg_grasp", "grasp")
    pinch = closeness(physics, "peg_pinch", "pinch")
    bring = closeness(physics, "peg", "target_peg")
    bring_tip = closeness(physics, "target_peg_tip", "peg_tip")
    return jnp.maximum((bring + bring_tip) / 2, (grasp + pinch) / 2 / 3)


_manipulator = partial(Task, domain="manipulator", randomised=("body_pos", "body_quat"))
_ball = partial(_manipulator, observe=partial(observe, prop="ball"), reward=ball_reward)
_peg = partial(_manipulator, observe=partial(observe, prop="peg"), reward=peg_reward)
add(_ball(name="bring_ball"))
add(_ball(name="insert_ball"))
add(_peg(name="bring_peg"))
add(_peg(name="insert_peg"))
