"""Environment steps per second of the vector env, action tensor in, observation tensor out."""

import time
from functools import partial
from typing import Any

import torch

from fastsac import make
from fastsac.bench.harness import Case, closing

TASKS = ("cartpole_swingup", "reacher_hard", "cheetah_run", "walker_run", "humanoid_walk")
CPU_WORLDS = 64
GPU_WORLDS = 4096
# Steps before the timing, so that the worlds are where random actions bring them: fallen.
_SETTLE_STEPS = 50
_SECONDS_PER_REPETITION = 0.5


def cases() -> list[Case]:
    """The native engine here, and MJX where there is a GPU."""
    engines = [("native", CPU_WORLDS)]
    if torch.cuda.is_available():
        engines.append(("mjx", GPU_WORLDS))
    return [
        Case(
            labels={"task": task, "engine": engine, "num_envs": worlds},
            unit="env steps",
            open=partial(_open, task, engine, worlds),
        )
        for engine, worlds in engines
        for task in TASKS
    ]


def _open(task: str, engine: str, num_envs: int) -> Any:

    env = make(task, num_envs=num_envs, engine=engine)
    env.reset(seed=0)
    generator = torch.Generator(env.device).manual_seed(0)
    shape = (64, num_envs, env.action_dim)
    actions = torch.rand(shape, device=env.device, generator=generator) * 2 - 1

    def steps(count: int) -> int:
        for i in range(count):
            env.step(actions[i % len(actions)])
        if env.device.type == "cuda":
            torch.cuda.synchronize()
        return count * num_envs

    steps(_SETTLE_STEPS)
    start = time.perf_counter()
    steps(_SETTLE_STEPS)
    per_step = (time.perf_counter() - start) / _SETTLE_STEPS
    return closing(partial(steps, max(10, int(_SECONDS_PER_REPETITION / per_step))), env.close)
