"""Humanoid with 21 actuators. Port of dm_control.suite.humanoid."""

from functools import partial

import jax
import jax.numpy as jnp

from fastsac.envs.physics import Physics
from fastsac.envs.registry import Task, add
from fastsac.envs.rewards import tolerance

STAND_HEIGHT = 1.4  # m, of the head, above which the stand reward is 1
WALK_SPEED = 1.0  # m/s
RUN_SPEED = 10.0  # m/s
ROOT_QPOS = 7  # entries of the free root joint in qpos

DEVIATIONS = (
    "MJX's capsule contacts differ from C's: with random actions, in float64 too, an observation "
    "is off by 5e-4 or less after nine control steps in ten, and by up to 2.4 after an impact",
)


def torso_upright(physics: Physics) -> jax.Array:
    return physics.body("torso").xmat[2, 2]


def head_height(physics: Physics) -> jax.Array:
    return physics.body("head").xpos[2]


def centre_of_mass_velocity(physics: Physics) -> jax.Array:
    return physics.sensor("torso_subtreelinvel").data


def torso_vertical_orientation(physics: Physics) -> jax.Array:
    return physics.body("torso").xmat[2]


def extremities(physics: Physics) -> jax.Array:
    """Hands and feet, left then right, in the torso's frame, m."""
    torso = physics.body("torso")
    limbs = [f"{side}_{limb}" for side in ("left", "right") for limb in ("hand", "foot")]
    return jnp.concatenate([(physics.body(x).xpos - torso.xpos) @ torso.xmat for x in limbs])


def observe(physics: Physics) -> dict[str, jax.Array]:
    return {
        "joint_angles": physics.qpos[ROOT_QPOS:],
        "head_height": head_height(physics),
        "extremities": extremities(physics),
        "torso_vertical": torso_vertical_orientation(physics),
        "com_velocity": centre_of_mass_velocity(physics),
        "velocity": physics.qvel,
    }


def observe_pure_state(physics: Physics) -> dict[str, jax.Array]:
    return {"position": physics.qpos, "velocity": physics.qvel}


def small_control_stand(physics: Physics, upright: jax.Array) -> jax.Array:
    """The factor that every task's reward shares: standing upright with little effort."""
    standing = tolerance(
        head_height(physics), bounds=(STAND_HEIGHT, float("inf")), margin=STAND_HEIGHT / 4
    )
    upright = tolerance(
        upright, bounds=(0.9, float("inf")), sigmoid="linear", margin=1.9, value_at_margin=0
    )
    effort = tolerance(physics.ctrl, margin=1, value_at_margin=0, sigmoid="quadratic").mean()
    return (4 + effort) / 5 * standing * upright


def still(velocity: jax.Array) -> jax.Array:
    """The centre of mass does not move in the plane."""
    return tolerance(velocity[:2], margin=2).mean()


def moving(velocity: jax.Array, speed: float) -> jax.Array:
    """The centre of mass moves in the plane, at this speed or faster."""
    move = tolerance(
        jnp.linalg.norm(velocity[:2]),
        bounds=(speed, float("inf")),
        margin=speed,
        value_at_margin=0,
        sigmoid="linear",
    )
    return 5 * move + 1


def stand_reward(physics: Physics) -> jax.Array:
    stand = small_control_stand(physics, torso_upright(physics))
    return stand * still(centre_of_mass_velocity(physics))


def move_reward(physics: Physics, speed: float) -> jax.Array:
    stand = small_control_stand(physics, torso_upright(physics))
    return stand * moving(centre_of_mass_velocity(physics), speed) / 6


_humanoid = partial(Task, domain="humanoid", observe=observe, deviations=DEVIATIONS)
_run = partial(move_reward, speed=RUN_SPEED)
add(_humanoid(name="stand", reward=stand_reward))
add(_humanoid(name="walk", reward=partial(move_reward, speed=WALK_SPEED)))
add(_humanoid(name="run", reward=_run))
add(_humanoid(name="run_pure_state", observe=observe_pure_state, reward=_run))
