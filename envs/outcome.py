"""What a control step means to the learner, computed for one world; every engine vmaps it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mujoco

from fastsac.envs.physics import Physics
from fastsac.envs.registry import Task

EXPLODED = 1e10  # MuJoCo's own mjMAXVAL: states beyond it count as diverged


class Outcome(NamedTuple):
    """Observation (obs_dim,), reward (), terminated () bool and valid () bool of one world."""

    obs: jax.Array
    reward: jax.Array
    terminated: jax.Array
    valid: jax.Array


def observation(
    task: Task, model: mujoco.MjModel, data: Any, model_fields: Mapping[str, Any]
) -> jax.Array:
    """Returns the flattened observation (obs_dim,) float32, in dm_control's order."""
    parts = task.observe(Physics(model, data, model_fields)).values()
    return jnp.concatenate([jnp.ravel(part) for part in parts]).astype(jnp.float32)


def outcome(
    task: Task, model: mujoco.MjModel, data: Any, model_fields: Mapping[str, Any]
) -> Outcome:
    """Reads a world after its control step.

    A world whose state, observation or reward is not finite is marked invalid, and what the
    learner would read of it is zero: its transition must not poison a batch.
    """
    physics = Physics(model, data, model_fields)
    obs = observation(task, model, data, model_fields)
    reward = jnp.asarray(task.reward(physics), jnp.float32)
    state = jnp.concatenate([physics.qpos, physics.qvel])
    valid = (jnp.abs(state) < EXPLODED).all() & jnp.isfinite(obs).all() & jnp.isfinite(reward)
    terminated = task.terminate(physics) if task.terminate else jnp.zeros((), bool)
    return Outcome(
        obs=jnp.where(valid, obs, 0),
        reward=jnp.where(valid, reward, 0),
        terminated=terminated & valid,
        valid=valid,
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
    truncated = (clocks >= max_episode_steps) | ~result.valid
    terminated = result.terminated & ~truncated
    return terminated, truncated, terminated | truncated
