"""EnvPool's dm_control environments: C++ on threads, float64 in and out."""

import os
from functools import cache
from typing import Any

import numpy as np

from fastsac.bench.harness import Unavailable
from fastsac.bench.stepping import random_actions, stepped
from fastsac.envs.registry import find
from fastsac.envs.suite import Suite, load, load_suite


def open_env(task: str, num_envs: int) -> Any:
    """Its vector step: an action array in, a dict of all worlds' observations out."""
    import envpool

    name = _name(task)
    if name not in _known(envpool):
        raise Unavailable(f"EnvPool has no {name}")
    threads = len(os.sched_getaffinity(0))
    env = envpool.make_gymnasium(
        name, num_envs=num_envs, batch_size=num_envs, num_threads=threads, seed=0
    )
    suite = load_suite(find(task))
    # As EnvPool takes them: in dm_control's own action range, float64.
    actions = random_actions(num_envs, suite.action_dim).numpy().astype(np.float64)
    controls = list(suite.control(actions))
    try:
        _check_same_step(suite, env, num_envs)
        _spread_episodes(env, controls, num_envs, suite.max_episode_steps)
    except BaseException:
        env.close()
        raise
    return stepped(env.step, controls, num_envs, env.close)


def _spread_episodes(env: Any, actions: list[np.ndarray], num_envs: int, steps: int) -> None:
    """Steps through an episode, worlds begun anew on the way, so that they end all the time."""
    starts = np.arange(num_envs) * steps // num_envs
    for step in range(steps):
        if (begun := np.flatnonzero(starts == step)).size:
            env.reset(begun.astype(np.int32))
        env.step(actions[step % len(actions)])


@cache
def _known(envpool: Any) -> frozenset[str]:
    return frozenset(envpool.list_all_envs())


def _name(task: str) -> str:
    entry = find(task)
    words = [*entry.domain.split("_"), *entry.name.split("_")]
    return "".join(word[:1].upper() + word[1:] for word in words) + "-v1"


def _check_same_step(suite: Suite, env: Any, num_envs: int) -> None:
    """Makes sure that one step of EnvPool's is one control step of the same task."""
    obs, _ = env.reset()  # may hold more than dm_control observes: humanoid's position
    spec = load(suite.task, 0).observation_spec()
    theirs = {
        "physics steps": env.spec.config.frame_skip,
        "steps an episode": env.spec.config.max_episode_steps,
        "observations": {k: obs[k].size // num_envs for k in spec if k in obs},
    }
    ours = {
        "physics steps": suite.substeps,
        "steps an episode": suite.max_episode_steps,
        "observations": {k: int(np.prod(part.shape)) for k, part in spec.items()},
    }
    if theirs != ours:
        raise Unavailable(f"not the same task: EnvPool has {theirs}, dm_control {ours}")
