"""The native engine beside EnvPool's dm_control environments: same task, worlds and cores."""

import os
import time
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import torch

import fastsac
from fastsac.bench.harness import Case, closing
from fastsac.envs.registry import find
from fastsac.envs.suite import Suite, load, load_suite
from fastsac.errors import ConfigError

WORLDS = 64
# Steps before the timing, so that the worlds are where random actions bring them: fallen.
_SETTLE_STEPS = 50
_SECONDS_PER_REPETITION = 0.3
_ACTIONS = 64  # that many different ones, over and over


def cases() -> list[Case]:
    """A pair for each task that EnvPool has too; the EnvPool case is its baseline.

    Both take an action array and return all worlds' observations (EnvPool a dict of float64
    arrays, ours one float32 tensor), and both may use all cores.

    Raises:
        ConfigError: EnvPool is not installed.
    """
    try:
        import envpool
    except ImportError as error:
        raise ConfigError("this needs EnvPool: pip install envpool") from error
    theirs = set(envpool.list_all_envs())
    threads = len(os.sched_getaffinity(0))
    return [
        Case(
            labels={"task": task, "engine": engine, "num_envs": WORLDS, "threads": threads},
            unit="env steps",
            open=open_case,
            group=task,
            baseline=engine == "envpool",
        )
        for task in fastsac.tasks()
        if _envpool_name(task) in theirs
        for engine, open_case in (
            ("native", partial(_open_native, task)),
            ("envpool", partial(_open_envpool, task, threads, envpool)),
        )
    ]


def _envpool_name(task: str) -> str:
    entry = find(task)
    words = [*entry.domain.split("_"), *entry.name.split("_")]
    return "".join(word[:1].upper() + word[1:] for word in words) + "-v1"


def _open_native(task: str) -> Any:
    env = fastsac.make(task, num_envs=WORLDS, engine="native")
    env.reset(seed=0)
    return _timed(env.step, list(_actions(env.action_dim)), env.close)


def _open_envpool(task: str, threads: int, envpool: ModuleType) -> Any:
    env = envpool.make_gymnasium(
        _envpool_name(task), num_envs=WORLDS, batch_size=WORLDS, num_threads=threads, seed=0
    )
    suite = load_suite(find(task))
    _check_same_step(suite, env)
    # As EnvPool takes them: in dm_control's own action range, float64.
    actions = suite.control(_actions(suite.action_dim).numpy().astype(np.float64))
    return _timed(env.step, list(actions), env.close)


def _check_same_step(suite: Suite, env: Any) -> None:
    """Makes sure that one step of EnvPool's is one control step of the same task."""
    obs, _ = env.reset()  # may hold more than dm_control observes: humanoid's position
    spec = load(suite.task, 0).observation_spec()
    theirs = {
        "physics steps": env.spec.config.frame_skip,
        "steps an episode": env.spec.config.max_episode_steps,
        "observations": {k: obs[k].size // WORLDS for k in spec if k in obs},
    }
    ours = {
        "physics steps": suite.substeps,
        "steps an episode": suite.max_episode_steps,
        "observations": {k: int(np.prod(part.shape)) for k, part in spec.items()},
    }
    if theirs != ours:
        raise ConfigError(f"EnvPool's {suite.task.full_name} has {theirs}, dm_control has {ours}")


def _actions(action_dim: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand((_ACTIONS, WORLDS, action_dim), generator=generator) * 2 - 1


def _timed(step: Callable[[Any], Any], actions: list[Any], close: Callable[[], None]) -> Any:
    def steps(count: int) -> int:
        for i in range(count):
            step(actions[i % len(actions)])
        return count * WORLDS

    steps(_SETTLE_STEPS)
    start = time.perf_counter()
    steps(_SETTLE_STEPS)
    per_step = (time.perf_counter() - start) / _SETTLE_STEPS
    return closing(partial(steps, max(10, int(_SECONDS_PER_REPETITION / per_step))), close)
