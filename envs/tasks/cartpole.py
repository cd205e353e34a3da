"""Cart with one or more poles. Port of dm_control.suite.cartpole."""

from functools import partial

import jax
import jax.numpy as jnp
from dm_control.suite import cartpole as dm_cartpole

from fastsac.envs.physics import Physics
from fastsac.envs.registry import ENERGY_OFF, GEOMS_DO_NOT_COLLIDE, Task, add, add_family
from fastsac.envs.rewards import tolerance

CART_RANGE = (-0.25, 0.25)  # m
ANGLE_COSINE_RANGE = (0.995, 1.0)
FIRST_POLE = 2  # body id, after world and cart


def cart_position(physics: Physics) -> jax.Array:
    return physics.joint("slider").qpos[0]


def angular_velocity(physics: Physics) -> jax.Array:
    return physics.qvel[1:]


def pole_angle_cosine(physics: Physics) -> jax.Array:
    return physics.xmat[FIRST_POLE:, 2, 2]


def bounded_position(physics: Physics) -> jax.Array:
    """Cart position, then cosine and sine of each pole's angle."""
    poles = jnp.stack([physics.xmat[FIRST_POLE:, 2, 2], physics.xmat[FIRST_POLE:, 0, 2]], axis=1)
    return jnp.concatenate([cart_position(physics)[None], poles.ravel()])


def observe(physics: Physics) -> dict[str, jax.Array]:
    return {"position": bounded_position(physics), "velocity": physics.qvel}


def smooth_reward(physics: Physics) -> jax.Array:
    upright = (pole_angle_cosine(physics) + 1) / 2
    centered = (1 + tolerance(cart_position(physics), margin=2)) / 2
    small_control = tolerance(physics.ctrl, margin=1, value_at_margin=0, sigmoid="quadratic")[0]
    small_control = (4 + small_control) / 5
    small_velocity = (1 + tolerance(angular_velocity(physics), margin=5).min()) / 2
    return upright.mean() * small_control * small_velocity * centered


def sparse_reward(physics: Physics) -> jax.Array:
    cart_in_bounds = tolerance(cart_position(physics), CART_RANGE)
    return cart_in_bounds * tolerance(pole_angle_cosine(physics), ANGLE_COSINE_RANGE).prod()


_cartpole = partial(
    Task, domain="cartpole", observe=observe, deviations=(ENERGY_OFF, GEOMS_DO_NOT_COLLIDE)
)
add(_cartpole(name="balance", reward=smooth_reward))
add(_cartpole(name="balance_sparse", reward=sparse_reward))
add(_cartpole(name="swingup", reward=smooth_reward))
add(_cartpole(name="swingup_sparse", reward=sparse_reward))
add(_cartpole(name="two_poles", reward=smooth_reward))
add(_cartpole(name="three_poles", reward=smooth_reward))


def poles(count: int) -> Task:
    """The swing-up with any number of poles."""
    if count < 1:
        raise ValueError("it takes a pole at least")
    load = lambda random: dm_cartpole.three_poles(random=random, num_poles=count)  # noqa: E731
    return _cartpole(name=f"{count}_poles", reward=smooth_reward, load=load)


add_family("cartpole_<k>_poles", poles)
