"""Chain of masses on springs, to be brought to rest. Port of dm_control.suite.lqr.

dm_control draws the springs' stiffness when it loads the environment; here every episode draws its
own, so that a policy is not fitted to one seed's model.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from dm_control.rl import control
from dm_control.suite import lqr as dm_lqr

from fastsac.envs.physics import Physics
from fastsac.envs.registry import GEOMS_DO_NOT_COLLIDE, Task, add, add_family

CONTROL_COST = 0.1
TERMINAL_NORM = 1e-6  # of the state, below which the episode ends


def observe(physics: Physics) -> dict[str, jax.Array]:
    return {"position": physics.qpos, "velocity": physics.qvel}


def reward(physics: Physics) -> jax.Array:
    state_cost = physics.qpos @ physics.qpos / 2
    return 1 - (state_cost + CONTROL_COST * (physics.ctrl @ physics.ctrl) / 2)


def terminate(physics: Physics) -> jax.Array:
    return jnp.linalg.norm(jnp.concatenate([physics.qpos, physics.qvel])) < TERMINAL_NORM


def chain(bodies: int, actuators: int) -> Task:
    """Any number of masses, the first of them actuated."""
    if not 1 <= actuators <= bodies:
        raise ValueError("it takes a body at least, and at most one actuator a body")

    def load(random: Any) -> Any:
        if not isinstance(random, np.random.RandomState):
            random = np.random.RandomState(random)
        xml, assets = dm_lqr.get_model_and_assets(bodies, actuators, random)
        physics = dm_lqr.Physics.from_xml_string(xml, assets)
        task = dm_lqr.LQRLevel(CONTROL_COST, random)
        return control.Environment(physics, task, time_limit=float("inf"))

    return Task(
        domain="lqr",
        name=f"lqr_{bodies}_{actuators}",
        observe=observe,
        reward=reward,
        terminate=terminate,
        load=load,
        model_is_drawn=True,
        randomised=("jnt_stiffness",),
        deviations=(GEOMS_DO_NOT_COLLIDE,),
    )


add(chain(2, 1))
add(chain(6, 2))
add_family("lqr_lqr_<n>_<m>", chain)
