"""Level 1: environment steps per second, action in, observation out, beside peers and physics.

"ours" is the vector env, action tensor in and observation tensor out. "physics" is the least that
its steps can cost: the same engine's bare steps of the same worlds with no observation, reward or
reset. Peers are in bench.peers.
"""

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
import torch
from mujoco import mjx
from mujoco.batch import Batch

from fastsac import make, tasks
from fastsac.bench import device, peers
from fastsac.bench.harness import Case, Unavailable
from fastsac.bench.stepping import SETTLE_STEPS, random_actions, stepped
from fastsac.envs import EngineUnavailable, VectorEnv
from fastsac.envs.engines.mjx import MjxEngine
from fastsac.envs.engines.native import NativeEngine
from fastsac.envs.engines.world_models import WorldModels
from fastsac.envs.registry import find
from fastsac.envs.suite import STATE, Suite, load_suite

TASKS = ("humanoid_walk", "walker_run", "cheetah_run", "cartpole_swingup", "reacher_hard")
_SCALED = ("cartpole_swingup", "walker_run")
CPU_WORLDS, CPU_SCALE = 64, (256, 1024, 4096, 16384)
GPU_WORLDS, GPU_SCALE = 4096, (64, 256, 1024, 8192, 16384)
MJX_GPU_SCALE = (1024, 16384)
# MJX is for tests on a CPU: there with humanoid's worlds it can wait for itself for ever.
_MJX_ON_CPU = ("cheetah_run",)


def cases(quick: bool) -> list[Case]:
    """The native engine on a CPU, Warp and MJX on a GPU; the five tasks first, then all others."""
    others = [] if quick else [task for task in tasks() if task not in TASKS]
    if torch.cuda.is_available():
        return [*_on_gpu(quick), *(case for task in others for case in _warp(task, GPU_WORLDS))]
    return [*_on_cpu(quick), *(case for task in others for case in _native(task, {}))]


def _on_cpu(quick: bool) -> Iterator[Case]:
    for task in TASKS:
        gymnasium = partial(peers.opened, "gymnasium_async", "open_env", task)
        yield from _native(task, {} if quick else {"gymnasium": gymnasium})
    for task in () if quick else _MJX_ON_CPU:
        yield from _mjx(task, CPU_WORLDS, _playground(task))
    for task in _SCALED[: 1 if quick else None]:
        for worlds in CPU_SCALE[1:2] if quick else CPU_SCALE:
            yield from _group(task, "native", worlds, _native_and_its_physics(task))


def _on_gpu(quick: bool) -> Iterator[Case]:
    for task in TASKS[: 2 if quick else None]:
        yield from _warp(task, GPU_WORLDS)
    for worlds in GPU_SCALE[-1:] if quick else GPU_SCALE:
        yield from _warp(TASKS[0], worlds)
    # Last: MJX compiles for a minute a task.
    for worlds in () if quick else MJX_GPU_SCALE:
        yield from _mjx(TASKS[0], worlds, {})
    for task in TASKS[: 1 if quick else None]:
        yield from _mjx(task, GPU_WORLDS, _playground(task))


def _native_and_its_physics(task: str) -> dict[str, Any]:
    return {
        "ours": partial(open_ours, task, "native"),
        "physics": partial(_open_native_physics, task),
    }


def _native(task: str, beside: dict[str, Any]) -> Iterator[Case]:
    envpool = {"envpool": partial(peers.opened, "envpool", "open_env", task)}
    opened = _native_and_its_physics(task) | envpool | beside
    return _group(task, "native", CPU_WORLDS, opened)


def _warp(task: str, num_envs: int) -> Iterator[Case]:
    ours, physics = partial(open_ours, task, "warp"), partial(_open_warp_physics, task)
    return _group(task, "warp", num_envs, {"ours": ours, "physics": physics})


def _mjx(task: str, num_envs: int, beside: dict[str, Any]) -> Iterator[Case]:
    ours, physics = partial(open_ours, task, "mjx"), partial(_open_mjx_physics, task)
    return _group(task, "mjx", num_envs, {"ours": ours, "physics": physics} | beside)


def _playground(task: str) -> dict[str, Any]:
    opened = partial(peers.opened, "playground", "open_env", task)
    return {
        "playground": partial(opened, impl="jax"),
        "playground-warp": partial(opened, impl="warp"),
    }


def _group(task: str, engine: str, num_envs: int, opened: dict[str, Any]) -> Iterator[Case]:
    for variant, open_case in opened.items():
        yield Case(
            labels={"task": task, "engine": engine, "num_envs": num_envs, "variant": variant},
            unit="env steps",
            open=partial(open_case, num_envs=num_envs),
            group=f"{task} {engine} {num_envs}",
            baseline=variant == "ours",
        )


def open_ours(task: str, engine: str, num_envs: int) -> Any:
    """Opens the vector env's step.

    Raises:
        Unavailable: the engine cannot hold the task; the reason says why.
    """
    env = _made(task, engine, num_envs)
    # As in a training: episodes end all the time, a few at once.
    env.reset(seed=0, options={"spread_clocks": True})
    actions = list(random_actions(num_envs, env.action_dim).to(env.device))
    wait = torch.cuda.synchronize if env.device.type == "cuda" else lambda: None
    return stepped(env.step, actions, num_envs, env.close, wait)


def _made(task: str, engine: str, num_envs: int) -> VectorEnv:
    if engine != "native":
        device.require_one()
    try:
        return make(task, num_envs=num_envs, engine=engine)
    except EngineUnavailable as error:
        raise Unavailable(str(error)) from error


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


def _open_warp_physics(task: str, num_envs: int) -> Any:
    """Bare mujoco_warp.step, as often as a control step has it, from our worlds' initial states."""
    env = _made(task, "warp", num_envs)
    env.reset(seed=0)
    engine: Any = env.engine  # its module needs warp-lang
    step = engine.physics.ready(engine.physics.bare_step, engine.warp_stream)
    env.reset(seed=0)
    ctrl = engine.physics.views["ctrl"]

    def step_on(control: torch.Tensor) -> None:
        with engine.on_own_stream():
            ctrl.copy_(control)
            step()

    controls = engine.suite.control(random_actions(num_envs, env.action_dim).numpy())
    wait = torch.cuda.synchronize if ctrl.is_cuda else lambda: None
    return stepped(
        step_on, list(torch.from_numpy(controls).to(ctrl.device)), num_envs, env.close, wait
    )


def started_mjx(suite: Suite, num_envs: int) -> tuple[MjxEngine, mjx.Data, dict[str, jax.Array]]:
    """Returns an engine that is closed, its worlds at their start, and their model fields."""
    engine = MjxEngine(suite, num_envs)
    engine.reset(0, np.zeros(num_envs, np.int64))
    engine.close()
    assert engine._worlds
    return engine, engine._worlds.data, engine._worlds.model_fields


def bare_physics(engine: MjxEngine) -> Callable[..., mjx.Data]:
    """Returns mjx.step of all worlds, as often as a control step has it, to be jitted.

    It takes the worlds, their model fields and the controls (B, A), and returns the worlds.
    """

    def substeps(data: mjx.Data, fields: dict[str, jax.Array]) -> mjx.Data:
        model, count = engine._with(fields), engine.suite.substeps
        return jax.lax.fori_loop(0, count, lambda _, data: mjx.step(model, data), data)

    def physics(worlds: mjx.Data, fields: dict[str, jax.Array], control: jax.Array) -> mjx.Data:
        return jax.vmap(substeps)(worlds.replace(ctrl=control), fields)

    return physics


def _open_mjx_physics(task: str, num_envs: int) -> Any:
    """Bare mjx.step, as often as a control step has it, from our worlds' initial states."""
    suite = load_suite(find(task))
    if suite.task.mjx_refusal:
        raise Unavailable(suite.task.mjx_refusal)
    device.require_one()
    engine, worlds, fields = started_mjx(suite, num_envs)

    step = jax.jit(bare_physics(engine), donate_argnums=0)

    def step_on(control: jax.Array) -> None:
        nonlocal worlds
        worlds = step(worlds, fields, control)

    controls = jax.numpy.asarray(suite.control(random_actions(num_envs, suite.action_dim).numpy()))
    wait = lambda: jax.block_until_ready(worlds)  # noqa: E731
    return stepped(step_on, list(controls), num_envs, lambda: None, wait)
