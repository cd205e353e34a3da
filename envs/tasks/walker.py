"""Planar walker. Port of dm_control.suite.walker."""

from functools import partial

import jax

from fastsac.envs.physics import Physics
from fastsac.envs.registry import Task, add
from fastsac.envs.rewards import tolerance

STAND_HEIGHT = 1.2  # m, of the torso, above which the stand reward is 1
WALK_SPEED = 1.0  # m/s
RUN_SPEED = 8.0  # m/s


def torso_upright(physics: Physics) -> jax.Array:
    return physics.body("torso").xmat[2, 2]


def torso_height(physics: Physics) -> jax.Array:
    return physics.body("torso").xpos[2]


def horizontal_velocity(physics: Physics) -> jax.Array:
    """Of the centre of mass, m/s."""
    return physics.sensor("torso_subtreelinvel").data[0]


def orientations(physics: Physics) -> jax.Array:
    """Cosine and sine of every body's pitch."""
    return physics.xmat[1:, 0, ::2].ravel()


def observe(physics: Physics) -> dict[str, jax.Array]:
    return {
        "orientations": orientations(physics),
        "height": torso_height(physics),
        "velocity": physics.qvel,
    }


def stand_reward(physics: Physics) -> jax.Array:
    standing = tolerance(
        torso_height(physics), bounds=(STAND_HEIGHT, float("inf")), margin=STAND_HEIGHT / 2
    )
    upright = (1 + torso_upright(physics)) / 2
    return (3 * standing + upright) / 4


def move_reward(physics: Physics, speed: float) -> jax.Array:
    move = tolerance(
        horizontal_velocity(physics),
        bounds=(speed, float("inf")),
        margin=speed / 2,
        value_at_margin=0.5,
        sigmoid="linear",
    )
    return stand_reward(physics) * (5 * move + 1) / 6


_walker = partial(Task, domain="walker", observe=observe)
add(_walker(name="stand", reward=stand_reward))
add(_walker(name="walk", reward=partial(move_reward, speed=WALK_SPEED)))
add(_walker(name="run", reward=partial(move_reward, speed=RUN_SPEED)))
