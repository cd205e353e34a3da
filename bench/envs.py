"""Level 1: environment steps per second, action in, observation out, beside peers and physics.

"ours" is the vector env, action tensor in and observation tensor out. "physics" is the least that
its steps can cost: the same engine's bare steps of the same worlds with no observation, reward or
reset. Peers are in bench.peers.
"""

import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
import torch
from mujoco import mjx
from mujoco.batch import Batch

from fastsac import make, tasks
from fastsac.bench import peers
from fastsac.bench.harness import Case
from fastsac.bench.stepping import SETTLE_STEPS, random_actions, stepped
from fastsac.envs.engines.mjx import MjxEngine
from fastsac.envs.engines.native import NativeEngine
from fastsac.envs.engines.world_models import WorldModels
from fastsac.envs.registry import find
from fastsac.envs.suite import STATE, load_suite

TASKS = ("humanoid_walk", "walker_run", "cheetah_run", "cartpole_swingup", "reacher_hard")
_SCALED = ("cartpole_swingup", "walker_run")
CPU_WORLDS, CPU_SCALE = 64, (256, 1024, 4096, 16384)
GPU_WORLDS, GPU_SCALE = 4096, (64, 256, 1024, 8192, 16384)


def cases(quick: bool) -> list[Case]:
    """The native engine on a CPU, MJX where there is a GPU; the five tasks come first."""
    if torch.cuda.is_available():
        return [*_on_gpu(TASKS[:2] if quick else TASKS, quick)]
    every = TASKS if quick else (*TASKS, *(t for t in tasks() if t not in TASKS))
    return [*_on_cpu(every, quick)]


def _on_cpu(names: tuple[str, ...], quick: bool) -> Iterator[Case]:
    for task in names:
        opened: dict[str, Any] = {
            "ours": partial(open_ours, task, "native"),
            "physics": partial(_open_native_physics, task),
            "envpool": partial(peers.opened, "envpool", "open_env", task),
        }
        if task in TASKS and not quick:
            opened["gymnasium"] = partial(peers.opened, "gymnasium_async", "open_env", task)
        yield from _group(task, "native", CPU_WORLDS, opened)
    for task in _SCALED[: 1 if quick else None]:
        for worlds in CPU_SCALE[1:2] if quick else CPU_SCALE:
            ours = {"ours": partial(open_ours, task, "native")}
            physics = {"physics": partial(_open_native_physics, task)}
            yield from _group(task, "native", worlds, ours | physics)


def _on_gpu(names: tuple[str, ...], quick: bool) -> Iterator[Case]:
    for task in names:
        playground = partial(peers.opened, "playground", "open_env", task)
        opened = {
            "ours": partial(open_ours, task, "mjx"),
            "physics": partial(_open_mjx_physics, task),
            "playground": partial(playground, impl="jax"),
            "playground-warp": partial(playground, impl="warp"),
        }
        yield from _group(task, "mjx", GPU_WORLDS, opened)
    for worlds in GPU_SCALE[-1:] if quick else GPU_SCALE:
        yield from _group(names[0], "mjx", worlds, {"ours": partial(open_ours, names[0], "mjx")})


def _group(task: str, engine: str, num_envs: int, opened: dict[str, Any]) -> Iterator[Case]:
    for variant, open_case in opened.items():
        yield Case(
            labels={"task": task, "engine": engine, "num_envs": num_envs, "variant": variant},
            unit="env steps",
            open=partial(open_case, num_envs=num_envs),
            group=f"{task} {num_envs}",
            baseline=variant == "ours",
        )


def open_ours(task: str, engine: str, num_envs: int) -> Any:
    """Opens the vector env's step."""
    env = make(task, num_envs=num_envs, engine=engine)
    env.reset(seed=0)
    actions = list(random_actions(num_envs, env.action_dim).to(env.device))
    wait = torch.cuda.synchronize if env.device.type == "cuda" else lambda: None
    return stepped(env.step, actions, num_envs, env.close, wait)


def _open_native_physics(task: str, num_envs: int) -> Any:
    """MuJoCo's batch on every core, from where random actions bring our worlds."""
    suite = load_suite(find(task))
    engine = NativeEngine(suite, num_envs)
    engine.reset(0, np.zeros(num_envs, np.int64))
    actions = random_actions(num_envs, suite.action_dim)
    for i in range(SETTLE_STEPS):
        engine.send(actions[i], overlap=False)
        engine.recv()
    state = {k: v.numpy() for k, v in engine.get_state().items()}
    engine.close()
    batch = Batch(suite.model, num_envs, len(os.sched_getaffinity(0)))
    WorldModels(batch, suite.model_fields).write(np.arange(num_envs), state)
    for name in STATE:
        batch.bind(name)[:] = state[name]
    control, controls = batch.bind("ctrl"), suite.control(actions.numpy().astype(np.float64))

    def step(values: np.ndarray) -> None:
        control[:] = values
        batch.step(nstep=suite.substeps)

    return stepped(step, controls, num_envs, lambda: None)


def _open_mjx_physics(task: str, num_envs: int) -> Any:
    """Bare mjx.step, as often as a control step has it, from our worlds' initial states."""
    suite = load_suite(find(task))
    engine = MjxEngine(suite, num_envs)
    engine.reset(0, np.zeros(num_envs, np.int64))
    engine.close()
    assert engine._worlds
    model, worlds = engine._model, engine._worlds.data

    @partial(jax.jit, donate_argnums=0)
    def step(worlds: mjx.Data, control: jax.Array) -> mjx.Data:
        one = lambda _, data: mjx.step(model, data)  # noqa: E731
        substeps = lambda data: jax.lax.fori_loop(0, suite.substeps, one, data)  # noqa: E731
        return jax.vmap(substeps)(worlds.replace(ctrl=control))

    def step_on(control: jax.Array) -> None:
        nonlocal worlds
        worlds = step(worlds, control)

    controls = jax.numpy.asarray(suite.control(random_actions(num_envs, suite.action_dim).numpy()))
    wait = lambda: jax.block_until_ready(worlds)  # noqa: E731
    return stepped(step_on, list(controls), num_envs, lambda: None, wait)
