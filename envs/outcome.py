"""What a control step means to the learner, computed for one world; every engine vmaps it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from fastsac.envs.physics import Physics
from fastsac.envs.registry import Task

# Why a transition is invalid; 0 is none of these.
DIVERGED, BAD_OBSERVATION, BAD_REWARD = 1, 2, 3
EXPLODED = 1e10  # MuJoCo's own mjMAXVAL: states beyond it count as diverged


class Outcome(NamedTuple):
    """Observation (obs_dim,), reward (), terminated () bool and fault () uint8 of one world."""

    obs: jax.Array
    reward: jax.Array
    terminated: jax.Array
    fault: jax.Array


def observation(
    task: Task, model: mujoco.MjModel, data: Any, model_fields: Mapping[str, Any]
) -> jax.Array:
    """Returns the flattened observation (obs_dim,) float32, in dm_control's order."""
    return _observation(task, Physics(model, data, model_fields))


def outcome(
    task: Task, model: mujoco.MjModel, data: Any, model_fields: Mapping[str, Any]
) -> Outcome:
    """Reads a world after its control step.

    Whose state, observation or reward is not finite has a fault, the first of these, and what the
    learner would read of it is zero: its transition must not poison a batch.
    """
    return outcome_of(task, Physics(model, data, model_fields))


def outcome_of(task: Task, physics: Physics) -> Outcome:
    """See ``outcome``.

    Raises:
        TypeError: a function returns something else than it should, or does what cannot be
            compiled; with the function and what it was.
    """
    obs = _observation(task, physics)
    reward = _scalar("reward", task.reward, physics).astype(jnp.float32)
    state = jnp.concatenate([physics.qpos, physics.qvel])
    holds = [(jnp.abs(state) < EXPLODED).all(), jnp.isfinite(obs).all(), jnp.isfinite(reward)]
    faults = [jnp.uint8(fault) for fault in (DIVERGED, BAD_OBSERVATION, BAD_REWARD)]
    fault = jnp.select([~x for x in holds], faults, jnp.uint8(0))
    valid = fault == 0
    terminated = jnp.zeros((), bool)
    if task.terminate:
        terminated = _scalar("terminate", task.terminate, physics)
        if terminated.dtype != bool:
            raise TypeError(f"terminate must return True or False, got {terminated.dtype}")
    return Outcome(
        obs=jnp.where(valid, obs, 0),
        reward=jnp.where(valid, reward, 0),
        terminated=terminated & valid,
        fault=fault,
    )


def endings(
    result: Outcome, clocks: jax.Array, max_episode_steps: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns who terminated, was truncated, and is done with an episode, each (B,) bool.

    Args:
        result: all worlds' outcomes.
        clocks: (B,) integers, how old each episode is after the step.
        max_episode_steps: the time limit.
    """
    truncated = (clocks >= max_episode_steps) | (result.fault > 0)
    terminated = result.terminated & ~truncated
    return terminated, truncated, terminated | truncated


def _observation(task: Task, physics: Physics) -> jax.Array:
    observed = _called("observe", task.observe, physics)
    if not isinstance(observed, Mapping):
        got = type(observed).__name__
        raise TypeError(f"observe must return a dict of arrays, got {got}")
    parts = [_array(f"observe must return arrays, and its {k!r}", v) for k, v in observed.items()]
    if not sum(part.size for part in parts):
        raise TypeError("observe returns no numbers")
    return jnp.concatenate([jnp.ravel(part) for part in parts]).astype(jnp.float32)


def _scalar(name: str, function: Callable[[Physics], Any], physics: Physics) -> jax.Array:
    value = _array(f"{name} must return a scalar, and this", _called(name, function, physics))
    if value.shape:
        raise TypeError(f"{name} must return a scalar, got an array of {value.shape}")
    return value


def _array(what: str, value: Any) -> jax.Array:
    """Returns real numbers as jax's array."""
    if isinstance(value, bool | int | float | np.ndarray | np.generic | jax.Array):
        array = value if isinstance(value, jax.Array) else np.asarray(value)
        if any(
            jnp.issubdtype(array.dtype, kind) for kind in (jnp.bool_, jnp.integer, jnp.floating)
        ):
            return jnp.asarray(value)
        raise TypeError(f"{what} is an array of {array.dtype}")
    raise TypeError(f"{what} is {'None' if value is None else f'a {type(value).__name__}'}")


def _called(name: str, function: Callable[[Physics], Any], physics: Physics) -> Any:
    try:
        return function(physics)
    except (jax.errors.JAXTypeError, jax.errors.JAXIndexError) as error:
        raise TypeError(
            f"{name} does what cannot be compiled ({type(error).__name__}): write it with "
            "jax.numpy, and jnp.where in place of an if or a loop that arrays decide"
        ) from error
