"""Fish that keeps upright or swims to a target. Port of dm_control.suite.fish."""

from functools import partial

import jax
import jax.numpy as jnp

from fastsac.envs.physics import Physics
from fastsac.envs.registry import GEOMS_DO_NOT_COLLIDE, Task, add
from fastsac.envs.rewards import tolerance

JOINTS = (
    "tail1",
    "tail_twist",
    "tail2",
    "finright_roll",
    "finright_pitch",
    "finleft_roll",
    "finleft_pitch",
)


def uprightness(physics: Physics) -> jax.Array:
    """Cosine of the torso's tilt."""
    return physics.body("torso").xmat[2, 2]


def mouth_to_target(physics: Physics) -> jax.Array:
    """In the mouth's frame, m."""
    mouth = physics.geom("mouth")
    return (physics.geom("target").xpos - mouth.xpos) @ mouth.xmat


def observe_upright(physics: Physics) -> dict[str, jax.Array]:
    return {
        "joint_angles": physics.joints(JOINTS).qpos,
        "upright": uprightness(physics),
        "velocity": physics.qvel,
    }


def observe_swim(physics: Physics) -> dict[str, jax.Array]:
    return {
        "joint_angles": physics.joints(JOINTS).qpos,
        "upright": uprightness(physics),
        "target": mouth_to_target(physics),
        "velocity": physics.qvel,
    }


def upright_reward(physics: Physics) -> jax.Array:
    return tolerance(uprightness(physics), bounds=(1, 1), margin=1)


def swim_reward(physics: Physics) -> jax.Array:
    size = physics.model.geom_size
    radii = sum(size[physics.model.geom(name).id, 0] for name in ("mouth", "target"))
    distance = jnp.linalg.norm(mouth_to_target(physics))
    in_target = tolerance(distance, bounds=(0, radii), margin=2 * radii)
    return (7 * in_target + (uprightness(physics) + 1) / 2) / 8


_fish = partial(Task, domain="fish", deviations=(GEOMS_DO_NOT_COLLIDE,))
add(_fish(name="upright", observe=observe_upright, reward=upright_reward))
add(_fish(name="swim", observe=observe_swim, reward=swim_reward, randomised=("geom_pos",)))
