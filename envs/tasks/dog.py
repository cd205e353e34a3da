"""Dog with 38 actuators that stands, moves or fetches. Port of dm_control.suite.dog."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from fastsac.envs.physics import Physics
from fastsac.envs.registry import Task, add
from fastsac.envs.rewards import tolerance

UPRIGHT_COSINE = math.cos(math.radians(30))  # above which a part counts as upright
STAND_HEIGHT_SHARE = 0.9  # of the height in the default pose
WALK_SPEED = 1.0  # m/s
TROT_SPEED = 3.0  # m/s
RUN_SPEED = 9.0  # m/s

TRUNK = ("skull", "torso", "pelvis")
TOUCH_SENSORS = ("palm_L", "palm_R", "sole_L", "sole_R")
FOOT_SENSORS = ("foot_L", "foot_R", "hand_L", "hand_R")
INERTIAL_SENSORS = ("accelerometer", "velocimeter", "gyro")

# The least edit that MJX takes still does not finish compiling on a CPU after 20 minutes.
NOT_IN_MJX = "it collides no ellipsoids and cylinders with boxes"


def torso_pelvis_height(physics: Physics) -> jax.Array:
    """(2,), m."""
    return jnp.stack([physics.body("torso").xpos[2], physics.body("pelvis").xpos[2]])


def z_projection(physics: Physics) -> jax.Array:
    """(3, 3), the world's z axis in the frames of skull, torso and pelvis."""
    return jnp.stack([physics.body(name).xmat[2] for name in TRUNK])


def torso_com_velocity(physics: Physics) -> jax.Array:
    """Of the centre of mass in the torso's frame, m/s."""
    return physics.sensor("torso_linvel").data @ physics.body("torso").xmat


def touch(physics: Physics) -> jax.Array:
    """(4,), N."""
    return physics.sensors(TOUCH_SENSORS).data


def velocity_at(physics: Physics, body: int, point: jax.Array) -> jax.Array:
    """Linear velocity of a point that moves with a body, m/s (mj_objectVelocity)."""
    angular, linear = physics.cvel[body, :3], physics.cvel[body, 3:]
    centre = physics.subtree_com[physics.model.body_rootid[body]]
    return linear + jnp.cross(angular, point - centre)


def ball_in_head_frame(physics: Physics) -> jax.Array:
    """Position and velocity of the ball relative to the head, (6,)."""
    model, head, ball = physics.model, physics.site("head"), physics.geom("ball")
    head_body = model.site_bodyid[model.site("head").id]
    ball_body = model.geom_bodyid[model.geom("ball").id]
    ball_velocity = velocity_at(physics, ball_body, ball.xpos)
    velocity = ball_velocity - velocity_at(physics, head_body, head.xpos)
    return jnp.concatenate([(ball.xpos - head.xpos) @ head.xmat, velocity @ head.xmat])


def ball_to_mouth(physics: Physics) -> jax.Array:
    """Mean distance of the ball from the two jaws, m."""
    ball = physics.geom("ball").xpos
    jaws = ("upper_bite", "lower_bite")
    return sum(jnp.linalg.norm(ball - physics.site(jaw).xpos) for jaw in jaws) / 2


def ball_to_target(physics: Physics) -> jax.Array:
    """Distance, m."""
    return jnp.linalg.norm(physics.geom("ball").xpos - physics.geom("target").xpos)


def observe(physics: Physics) -> dict[str, jax.Array]:
    model = physics.model
    hinges = np.flatnonzero(model.jnt_type == int(mujoco.mjtJoint.mjJNT_HINGE))
    return {
        "joint_angles": physics.qpos[model.jnt_qposadr[hinges]],
        "joint_velocites": physics.qvel[model.jnt_dofadr[hinges]],  # dm_control's spelling
        "torso_pelvis_height": torso_pelvis_height(physics),
        "z_projection": z_projection(physics).ravel(),
        "torso_com_velocity": torso_com_velocity(physics),
        "inertial_sensors": physics.sensors(INERTIAL_SENSORS).data,
        "foot_forces": physics.sensors(FOOT_SENSORS).data,
        "touch_sensors": touch(physics),
        "actuator_state": physics.act,
    }


def observe_fetch(physics: Physics) -> dict[str, jax.Array]:
    head = physics.site("head")
    target = (physics.geom("target").xpos - head.xpos) @ head.xmat
    return observe(physics) | {
        "ball_state": ball_in_head_frame(physics),
        "target_position": target,
    }


def stand_reward(physics: Physics) -> jax.Array:
    """Torso and pelvis high, the trunk upright, and the weight on the feet."""
    model = physics.model
    stand_heights = STAND_HEIGHT_SHARE * torso_pelvis_height(physics.default_pose())
    weight = -model.opt.gravity[2] * model.body_subtreemass[model.body("torso").id]
    high = [
        tolerance(height, bounds=(least, float("inf")), margin=least)
        for height, least in zip(torso_pelvis_height(physics), stand_heights, strict=True)
    ]
    upright = tolerance(
        z_projection(physics)[:, 2],
        bounds=(UPRIGHT_COSINE, float("inf")),
        sigmoid="linear",
        margin=UPRIGHT_COSINE + 1,
        value_at_margin=0,
    )
    on_feet = tolerance(
        touch(physics).sum(),
        bounds=(weight, float("inf")),
        margin=weight,
        sigmoid="linear",
        value_at_margin=0.9,
    )
    return high[0] * high[1] * upright.prod() * on_feet


def move_reward(physics: Physics, speed: float) -> jax.Array:
    forward = tolerance(
        torso_com_velocity(physics)[0],
        bounds=(speed, 2 * speed),
        margin=max(1.0, speed),
        value_at_margin=0,
        sigmoid="linear",
    )
    return stand_reward(physics) * (4 * forward + 1) / 5


def fetch_reward(physics: Physics) -> jax.Array:
    model, geom_size = physics.model, physics.model.geom_size
    target_radius = geom_size[model.geom("target").id, 0]
    reach = tolerance(
        ball_to_mouth(physics),
        bounds=(0, model.site_size[model.site("upper_bite").id, 0]),
        sigmoid="reciprocal",
        margin=2,
    )
    near_target = tolerance(
        ball_to_target(physics),
        bounds=(0, target_radius),
        sigmoid="reciprocal",
        margin=geom_size[model.geom("floor").id, 0],
    )
    # A ball that was fetched may be let go.
    reach = jnp.where(ball_to_target(physics) < 2 * target_radius, 1.0, (6 * reach + 1) / 7)
    return stand_reward(physics) * reach * (near_target + 1) / 2


_dog = partial(Task, domain="dog", observe=observe, mjx_refusal=NOT_IN_MJX)
add(_dog(name="stand", reward=stand_reward))
add(_dog(name="walk", reward=partial(move_reward, speed=WALK_SPEED)))
add(_dog(name="trot", reward=partial(move_reward, speed=TROT_SPEED)))
add(_dog(name="run", reward=partial(move_reward, speed=RUN_SPEED)))
add(_dog(name="fetch", observe=observe_fetch, reward=fetch_reward))
