"""MuJoCo Playground's environments: dm_control's tasks in MJX, on JAX's or Warp's physics.

They are ports: cartpole has Euler for RK4, the solvers have 1 to 4 iterations, and worlds whose
episode ends go back to their own first state. An action is the control itself.
"""

from functools import partial
from typing import Any

import jax
from mujoco_playground import dm_control_suite, wrapper

from fastsac.bench import device
from fastsac.bench.harness import Unavailable
from fastsac.bench.stepping import random_actions, stepped
from fastsac.envs.registry import find
from fastsac.envs.suite import Suite, load_suite

# Where Playground leaves the task's name out.
_SHORT = {"BallInCupCatch": "BallInCup", "PointMassEasy": "PointMass"}


def open_env(task: str, num_envs: int, impl: str = "jax") -> Any:
    """Its vector step as its users train with, compiled: an action array in, a State out.

    Args:
        task: our name of a dm_control task.
        num_envs: worlds.
        impl: the physics, "jax" or "warp".
    """
    env = training_env(task, impl)
    keys = jax.random.split(jax.random.PRNGKey(0), num_envs)
    # Copied: the state and what its world goes back to may share memory, to be donated once.
    state = jax.tree.map(partial(jax.numpy.array, copy=True), jax.jit(env.reset)(keys))
    step = jax.jit(env.step, donate_argnums=0)

    def step_on(action: jax.Array) -> None:
        nonlocal state
        state = step(state, action)

    actions = jax.numpy.asarray(random_actions(num_envs, env.action_size).numpy())
    wait = lambda: jax.block_until_ready(state)  # noqa: E731
    return stepped(step_on, list(actions), num_envs, lambda: None, wait)


def training_env(task: str, impl: str) -> Any:
    """Returns its environment of many worlds, one control step of which is one of dm_control's.

    Raises:
        Unavailable: Playground has no such task or another control step, or jax has no GPU where
            torch has one.
    """
    device.require_one()
    name, suite = env_name(task), load_suite(find(task))
    _check_same_step(suite, dm_control_suite.get_default_config(name))
    if impl == "warp":
        import warp

        warp.config.log_level = warp.LOG_WARNING  # else it prints each kernel among our rows
    env = dm_control_suite.load(name, config_overrides={"impl": impl})
    return wrapper.wrap_for_brax_training(
        env, episode_length=suite.max_episode_steps, action_repeat=1
    )


def env_name(task: str) -> str:
    """Returns Playground's name of a task, CheetahRun of cheetah_run.

    Raises:
        Unavailable: it has none.
    """
    entry = find(task)
    words = [*entry.domain.split("_"), *entry.name.split("_")]
    name = "".join(word[:1].upper() + word[1:] for word in words)
    name = _SHORT.get(name, name)
    if name not in dm_control_suite.ALL_ENVS:
        raise Unavailable(f"MuJoCo Playground has no {name}")
    return name


def _check_same_step(suite: Suite, config: Any) -> None:
    """Makes sure that one step of Playground's is one control step of the same task."""
    theirs = {
        "physics steps": round(config.ctrl_dt / config.sim_dt),
        "seconds": round(config.ctrl_dt, 6),
        "steps an episode": config.episode_length,
    }
    ours = {
        "physics steps": suite.substeps,
        "seconds": round(suite.control_timestep, 6),
        "steps an episode": suite.max_episode_steps,
    }
    if theirs != ours:
        raise Unavailable(f"not the same task: Playground has {theirs}, dm_control {ours}")
