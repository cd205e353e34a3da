"""Planar swimmer with any number of links. Port of dm_control.suite.swimmer."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from dm_control.suite import swimmer as dm_swimmer

from fastsac.envs.physics import Physics
from fastsac.envs.registry import GEOMS_DO_NOT_COLLIDE, Task, add, add_family
from fastsac.envs.rewards import tolerance

ROOT_QPOS = 3  # entries of the root's joints in qpos
HEAD_SENSORS = 12  # entries of sensordata before the bodies' velocities
PLANAR = (0, 1, 5)  # of (linear, angular) velocity: x, y and the turn about z


def nose_to_target(physics: Physics) -> jax.Array:
    """In the head's plane, m."""
    offset = physics.geom("target").xpos - physics.geom("nose").xpos
    return (offset @ physics.body("head").xmat)[:2]


def body_velocities(physics: Physics) -> jax.Array:
    local = physics.sensordata[HEAD_SENSORS:].reshape(-1, 6)
    return local[:, jnp.array(PLANAR)].ravel()


def observe(physics: Physics) -> dict[str, jax.Array]:
    return {
        "joints": physics.qpos[ROOT_QPOS:],
        "to_target": nose_to_target(physics),
        "body_velocities": body_velocities(physics),
    }


def reward(physics: Physics) -> jax.Array:
    size = physics.model.geom_size[physics.model.geom("target").id, 0]
    distance = jnp.linalg.norm(nose_to_target(physics))
    return tolerance(distance, bounds=(0, size), margin=5 * size, sigmoid="long_tail")


_swimmer = partial(
    Task,
    domain="swimmer",
    observe=observe,
    reward=reward,
    randomised=("geom_pos",),
    deviations=(GEOMS_DO_NOT_COLLIDE,),
)


def links(count: int) -> Task:
    """A swimmer with any number of links from 3 on."""
    if count < 3:
        raise ValueError("it takes three links at least")
    return _swimmer(name=f"swimmer{count}", load=partial(_load, count))


def _load(count: int, random: Any) -> Any:
    return dm_swimmer.swimmer(n_links=count, random=random)


add(_swimmer(name="swimmer6"))
add(_swimmer(name="swimmer15"))
add_family("swimmer_swimmer<n>", links)
