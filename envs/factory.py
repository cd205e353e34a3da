"""From a task's name to a running vector env."""

import dataclasses
import logging
import math
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

import fastsac.envs.tasks  # noqa: F401  (registers the tasks)
from fastsac.envs.arguments import integer, seconds
from fastsac.envs.arrays import ARRAYS
from fastsac.envs.devices import (
    EngineUnavailable,
    choose,
    has_warp,
    require_jax_cpu,
    require_one_gpu,
    seen,
)
from fastsac.envs.engines import Engine
from fastsac.envs.engines.native import NativeEngine
from fastsac.envs.engines.pictured import Pictured
from fastsac.envs.engines.repeated import Repeated
from fastsac.envs.engines.stacked import Stacked
from fastsac.envs.engines.world_models import world_bytes
from fastsac.envs.physics import Physics
from fastsac.envs.randomization import Draw
from fastsac.envs.registry import Task, UnknownTask, find
from fastsac.envs.suite import ENDLESS, Suite, load_suite
from fastsac.envs.vector_env import VectorEnv

ENGINES = ("auto", "native", "warp", "mjx")
SOLVERS = ("faithful", "fast")


def make(
    task: str,
    num_envs: int = 1,
    engine: str = "auto",
    device: str | torch.device | None = None,
    seed: int = 0,
    solver: str = "faithful",
    randomize: Mapping[str, Draw] | None = None,
    array: str = "torch",
    autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP,
    reward_fn: Callable[[Physics], Any] | None = None,
    action_repeat: int = 1,
    frame_stack: int = 1,
    flatten: bool = True,
    time_limit: float | None = None,
    pixels: tuple[int, int] | None = None,
) -> VectorEnv:
    """Returns num_envs worlds of a Control Suite task as one batched environment.

    Args:
        task: a name from ``fastsac.tasks()``; one with a number in it, such as
            ``swimmer_swimmer9``, ``lqr_lqr_4_2`` or ``cartpole_4_poles``; one that
            ``fastsac.register`` added; or the path of a Python file that calls it.
        num_envs: the number of worlds, at least 1.
        engine: "native" (C MuJoCo on the CPU), "warp" or "mjx" (jax's default device), or "auto":
            where jax and torch both see a GPU, warp if warp-lang is installed and it holds the
            task, or else mjx; native elsewhere, with a warning where one of the two sees a GPU
            that the other does not.
        device: where observations, rewards and actions live; None is the engine's own device, and
            with "auto" cuda wherever torch has it. numpy's arrays live on the CPU, jax's where the
            engine does.
        seed: of the initial states, used by the first ``reset()`` without a seed.
        solver: of MJX in float32. "faithful": its error is that of float32; "fast": a smaller
            budget, whose error and gain are in bench/results/solver.md. The native engine always
            runs dm_control's own.
        randomize: domain randomisation, the name of a floating-point array of MjModel or of an
            option (``opt.gravity``) -> function (numpy Generator, its default values) -> values of
            the same shape. Drawn for each episode of each world; what MuJoCo derives from them
            (mj_setConst) follows.
        array: what the env hands out and takes, "torch", "numpy" or "jax".
        autoreset_mode: gymnasium's, or its name: when a world begins its next episode, see
            VectorEnv.
        reward_fn: takes the place of the task's reward; written like that of ``fastsac.register``:
            Physics -> scalar, with jax.numpy, for one world, read after each control step.
        action_repeat: control steps in a step of the env, with one action. Their rewards add up,
            until an episode ends; ``max_episode_steps`` and ``clocks`` count the env's steps. Above
            1 each step waits for the device.
        frame_stack: how many of an episode's last observations make up one, flat, the oldest first;
            an episode begins with its first observation in every place.
        flatten: False hands observations out as a dict, dm_control's names -> (B, ...) float32, or
            (B, frame_stack, ...).
        time_limit: seconds of simulated time until an episode is truncated, inf never; None is the
            task's own.
        pixels: height and width of pictures that take the place of observations, (B, height, width,
            3) uint8 from dm_control's camera 0, or (B, frame_stack, ...). Processes render them,
            up to one a core, and each step waits for them.

    Raises:
        UnknownTask: no such task.
        EngineUnavailable: no such engine, or it cannot run here.
        ValueError: a number out of range, no such solver, array or autoreset_mode, reward_fn is no
            function, or randomize names no array of the model or draws something of another shape.
        TypeError: reward_fn returns no scalar, or does what cannot be compiled.
        RuntimeError: pixels, and there is no OpenGL here.
    """
    if not isinstance(task, str):
        raise UnknownTask(f"a task is a name, got {type(task).__name__}")
    entry = find(task)
    if reward_fn is not None:
        entry = dataclasses.replace(entry, reward=_function("reward_fn", reward_fn))
    num_envs, seed = integer("num_envs", num_envs, 1), integer("seed", seed, 0)
    repeat = integer("action_repeat", action_repeat, 1)
    frames = integer("frame_stack", frame_stack, 1)
    size = None if pixels is None else _size(pixels)
    if not isinstance(flatten, bool):
        raise ValueError(f"flatten must be True or False, got {flatten!r}")
    if engine not in ENGINES:
        raise EngineUnavailable(f"unknown engine {engine!r}; there are {', '.join(ENGINES)}")
    for name, value, known in (("solver", solver, SOLVERS), ("array", array, tuple(ARRAYS))):
        if value not in known:
            raise ValueError(f"unknown {name} {value!r}; there are {', '.join(known)}")
    mode = _mode(autoreset_mode)
    given = None if device is None else _checked_device(device)
    if array == "numpy":
        given = _cpu_for_numpy(given)
    chosen, device, warning = choose(engine, given, next(iter(_on_gpu(entry)), None), seen())
    if warning:
        logging.getLogger("fastsac").warning(warning)
    suite = load_suite(entry, randomize)
    if time_limit is not None:
        suite = dataclasses.replace(suite, max_episode_steps=_steps(time_limit, suite))
    # What of a user's model or randomisation an engine cannot hold shows when it is built.
    engines = [*_on_gpu(entry), "native"] if engine == "auto" and chosen != "native" else [chosen]
    for name in engines:
        try:
            built = _built(name, suite, num_envs, solver == "fast")
            break
        except EngineUnavailable as error:
            if name == engines[-1]:
                raise
            logging.getLogger("fastsac").warning("warning: %s", error)
    if array == "jax":
        device = _engines_own_for_jax(given, built)
    elif device is None:
        device = "cuda" if built.name == "native" and chosen != "native" else built.device
    target = _checked_device(device)
    current = torch.cuda.current_device() if built.device.type == "cuda" else None
    require_one_gpu(built.device, target, current)
    built = _dressed(built, num_envs, repeat, size, frames)
    env = VectorEnv(built, num_envs, target, seed, array, mode, flatten)
    of_task = solver, randomize, array, autoreset_mode, reward_fn
    of_steps = repeat, frames, flatten, time_limit, size
    env.remake = partial(make, task, num_envs, engine, given, seed, *of_task, *of_steps)
    return env


def _dressed(
    engine: Engine, num_envs: int, repeat: int, size: tuple[int, int] | None, frames: int
) -> Engine:
    """Each does what an engine does, by way of the one within it where it changes nothing."""
    engine = cast(Engine, Repeated(engine, repeat)) if repeat > 1 else engine
    engine = cast(Engine, Pictured(engine, num_envs, *size)) if size else engine
    return cast(Engine, Stacked(engine, frames)) if frames > 1 else engine


def _function(name: str, given: Any) -> Any:
    if not callable(given):
        raise ValueError(f"{name} must be a function, got {type(given).__name__}")
    return given


def _size(pixels: Any) -> tuple[int, int]:
    if np.shape(pixels) != (2,):
        raise ValueError(f"pixels are a height and a width, got {pixels!r}")
    return integer("the height of pixels", pixels[0], 1), integer("their width", pixels[1], 1)


def _steps(time_limit: Any, suite: Suite) -> int:
    steps = seconds("time_limit", time_limit) / suite.control_timestep
    return math.ceil(steps) if steps < ENDLESS else ENDLESS


def _mode(given: Any) -> AutoresetMode:
    modes = {name: mode for mode in AutoresetMode for name in (mode, mode.name, mode.value)}
    try:
        return modes[given]
    except (KeyError, TypeError):
        names = ", ".join(mode.name for mode in AutoresetMode)
        raise ValueError(f"unknown autoreset_mode {given!r}; there are {names}") from None


def _cpu_for_numpy(given: torch.device | None) -> torch.device:
    if given and given.type != "cpu":
        raise EngineUnavailable(f"numpy's arrays live on the CPU, not on {given}")
    return torch.device("cpu")


def _engines_own_for_jax(given: torch.device | None, engine: Engine) -> torch.device:
    if given and given != engine.device:
        engine.close()
        raise EngineUnavailable(
            f"jax's arrays live on the device of the engine, {engine.device}, not on {given}"
        )
    return engine.device


def _require_room(suite: Suite, num_envs: int) -> None:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if num_envs * world_bytes(suite) > memory:
        raise EngineUnavailable(
            f"num_envs {num_envs} is more than fits into this machine's {memory / 1e9:.0f} GB"
        )


def _built(engine: str, suite: Suite, num_envs: int, fast: bool) -> Engine:
    if engine == "native":
        _require_room(suite, num_envs)
        require_jax_cpu()
        return NativeEngine(suite, num_envs)
    try:
        if engine == "warp":
            from fastsac.envs.engines.warp import WarpEngine

            return WarpEngine(suite, num_envs, fast)
        # Imported late: without warp-lang mjx prints two lines that concern nobody else.
        from fastsac.envs.engines.mjx import MjxEngine

        return MjxEngine(suite, num_envs, fast)
    except ModuleNotFoundError as error:
        if error.name != "warp":
            raise
        raise EngineUnavailable(
            "the engine warp needs warp-lang: pip install 'fastsac[warp]'"
        ) from error
    except NotImplementedError as error:
        name = {"mjx": "MJX", "warp": "MuJoCo Warp"}[engine]
        raise EngineUnavailable(
            f"{name} cannot hold {suite.task.full_name}: {error}; use --engine native"
        ) from error


def engine_for(task: str, engine: str) -> str:
    """Returns the engine that "auto" stands for: see ``make``.

    Raises:
        UnknownTask: no such task.
        EngineUnavailable: jax does not start.
    """
    if engine != "auto":
        return engine
    return choose(engine, None, next(iter(_on_gpu(find(task))), None), seen()).engine


def _on_gpu(task: Task) -> list[str]:
    """Returns the engines here that can hold a task's worlds on a GPU, the one to prefer first."""
    return [engine for engine in task.gpu_engines if engine != "warp" or has_warp()]


def _checked_device(device: str | torch.device) -> torch.device:
    try:
        checked = torch.device(device)
    except RuntimeError as error:
        raise EngineUnavailable(f"unknown device {device!r}; try cpu or cuda") from error
    if checked.type == "cuda" and not torch.cuda.is_available():
        raise EngineUnavailable("torch sees no CUDA device here; use --device cpu")
    if checked.type not in ("cpu", "cuda"):
        raise EngineUnavailable(f"device must be cpu or cuda, got {device!r}")
    if checked.type == "cpu":
        return torch.device("cpu")
    index = torch.cuda.current_device() if checked.index is None else checked.index
    if index >= torch.cuda.device_count():
        raise EngineUnavailable(f"torch sees {torch.cuda.device_count()} CUDA devices, no {device}")
    return torch.device("cuda", index)
