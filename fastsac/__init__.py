"""fastsac: Soft Actor-Critic on the DeepMind Control Suite.

The public names are loaded on first use, so that ``import fastsac`` costs nothing and a program
that only trains on its own environments never imports jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastsac.envs import VectorEnv, make
    from fastsac.envs.custom import register
    from fastsac.envs.registry import tasks
    from fastsac.learner.config import SACConfig
    from fastsac.learner.policy import Policy
    from fastsac.learner.replay import Batch, ReplayBuffer
    from fastsac.learner.sac import SAC
    from fastsac.runs.policy_file import load_policy
    from fastsac.training.config import TrainConfig
    from fastsac.training.loop import TrainResult, resume, train

__version__ = "0.1.0"

_HOME = {
    "SAC": "learner.sac",
    "SACConfig": "learner.config",
    "TrainConfig": "training.config",
    "TrainResult": "training.loop",
    "train": "training.loop",
    "resume": "training.loop",
    "Batch": "learner.replay",
    "ReplayBuffer": "learner.replay",
    "Policy": "learner.policy",
    "load_policy": "runs.policy_file",
    "VectorEnv": "envs",
    "make": "envs",
    "register": "envs.custom",
    "tasks": "envs.registry",
}

__all__ = [
    "SAC",
    "Batch",
    "Policy",
    "ReplayBuffer",
    "SACConfig",
    "TrainConfig",
    "TrainResult",
    "VectorEnv",
    "load_policy",
    "make",
    "register",
    "resume",
    "tasks",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fastsac' has no attribute {name!r}")
    return getattr(importlib.import_module(f"fastsac.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
