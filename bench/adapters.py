"""Level 5: the env as other libraries take it, beside itself: control steps a second on a CPU.

"ours" is ``fastsac.make``'s env over tensors; the others are the same worlds in another dress.
"""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import torch

from fastsac import make
from fastsac.bench.harness import Case, Unavailable
from fastsac.bench.stepping import random_actions, stepped
from fastsac.envs.registry import find
from fastsac.envs.suite import load_suite

_TASKS, _WORLDS = ("walker_run", "cartpole_swingup"), 64
_VEC_ENVS = {"sb3": "VecEnv", "skrl": "Env", "rsl_rl": "VecEnv"}  # whose step takes the actions


def cases(quick: bool) -> list[Case]:
    """Each adapter whose library is installed, the rest say what they lack; none beside a GPU."""
    if torch.cuda.is_available():
        return []
    opened: dict[str, Callable[..., Any]] = {
        "ours": partial(_open_ours, "torch"),
        "numpy": partial(_open_ours, "numpy"),
        "gymnasium": _open_gymnasium,
        **{name: partial(_open_vec_env, name) for name in _VEC_ENVS},
        "torchrl": _open_torchrl,
    }
    return [
        Case(
            labels={"task": task, "num_envs": _WORLDS, "variant": variant},
            unit="env steps",
            open=partial(open_case, task),
            group=task,
            baseline=variant == "ours",
        )
        for task in _TASKS[: 1 if quick else None]
        for variant, open_case in opened.items()
    ]


def _actions(task: str) -> Any:
    return random_actions(_WORLDS, load_suite(find(task)).action_dim)


def _open_ours(array: str, task: str) -> Any:
    env = make(task, _WORLDS, engine="native", device="cpu", array=array)
    env.reset(seed=0, options={"spread_clocks": True})
    actions = _actions(task)
    given = list(actions if array == "torch" else actions.numpy())
    return stepped(env.step, given, _WORLDS, env.close)


def _open_gymnasium(task: str) -> Any:
    env = gymnasium.make_vec(f"fastsac/{task}-v0", num_envs=_WORLDS, engine="native")
    env.reset(seed=0)
    return stepped(env.step, list(_actions(task).numpy()), _WORLDS, env.close)


def _adapter(name: str) -> Any:
    try:
        return importlib.import_module(f"fastsac.adapters.{name}")
    except ModuleNotFoundError as error:
        raise Unavailable(f"pip install 'fastsac[clients]': {error}") from error


def _open_vec_env(name: str, task: str) -> Any:
    env = getattr(_adapter(name), _VEC_ENVS[name])(task, _WORLDS, engine="native")
    getattr(env, "reset", lambda: None)()  # rsl_rl's has begun
    actions = _actions(task)
    given = list(actions.numpy() if name == "sb3" else actions)
    return stepped(env.step, given, _WORLDS, getattr(env, "close", None) or env.env.close)


def _open_torchrl(task: str) -> Any:
    env = _adapter("torchrl").Env(task, _WORLDS, engine="native")
    last = env.reset()

    def step(action: Any) -> None:
        nonlocal last
        _, last = env.step_and_maybe_reset(last.set("action", action))

    return stepped(step, list(_actions(task)), _WORLDS, env.close)
