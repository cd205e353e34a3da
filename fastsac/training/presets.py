"""Named settings: defaults per preset, and what single tasks need otherwise."""

import dataclasses
import math
from typing import Any

from fastsac.errors import ConfigError
from fastsac.learner.config import SACConfig
from fastsac.training.config import TrainConfig

# What SAC is given where an update costs far more than the steps it learns from, as the published
# large-scale recipes have it, and as cheetah_run kept it with the cpu preset (results/README.md): a
# return of 321 after 100k steps, 81 with 1-step returns, 33 with an initial temperature of 1, 188
# without observation normalisation, 284 without layer norm, 292 without atoms, 295 with the paper's
# initial policy. The policy's delay saves a fifth of the time. The mean of the critics is for
# humanoid_walk, which began to walk 200k steps later with their minimum; cheetah_run had 324.
_INGREDIENTS: dict[str, Any] = {
    "layer_norm": True,
    "normalize_obs": True,
    "critic_reduction": "mean",
    "policy_delay": 2,
    "initial_temperature": 0.01,
    "initial_std": 0.4,
    "log_std_min": -5.0,
    "log_std_max": 0.0,
}

# "seed" is the paper's setting, TrainConfig's own defaults.
# "cpu" is for two cores and the native engine.
# "fast" is for a GPU. On an H200 4096 worlds of humanoid_walk step in 8 ms, and an update of batch
# 256 takes 0.27 ms, of 8192 (FastSAC's, arXiv 2512.01996) 1.4 ms: a graph of 90 launches costs what
# it costs whatever the batch. So a vector step has many updates of a middling batch beside it.
PRESETS: dict[str, dict[str, Any]] = {
    "seed": {},
    "cpu": {
        "num_envs": 64,
        "updates_per_step": 8,
        "n_step": 3,
        "total_steps": 600_000,
        "learning_starts": 6_400,
        "eval_every": 20_000,
        "sac": SACConfig(learning_rate=6e-4, tau=0.02, num_atoms=51, **_INGREDIENTS),
    },
    "fast": {
        "num_envs": 4096,
        "updates_per_step": 32,
        "batch_size": 1024,
        "n_step": 3,
        "total_steps": 50_000_000,
        "replay_capacity": 4_194_304,
        "learning_starts": 40_960,
        "eval_every": 5_000_000,
        "checkpoint_every": 25_000_000,
        "sac": SACConfig(
            hidden_sizes=(512, 512),
            learning_rate=3e-4,
            tau=0.02,
            num_atoms=51,
            precision="tf32",
            target_entropy_per_dim=-0.5,
            **_INGREDIENTS,
        ),
    },
}

# Where the worlds are so many, a user who names no preset means this one.
_LEAST_WORLDS = ((1024, "fast"), (16, "cpu"), (-math.inf, "seed"))

# Exceptions to a preset, by (preset, task).
TASK_PRESETS: dict[tuple[str, str], dict[str, Any]] = {
    # `make train` shows this one, with seed 0: 837 to 856 after 120,000 steps, by the machine, and
    # 862 after these.
    ("cpu", "cartpole_swingup"): {"total_steps": 150_000},
} | {
    # All other rewards of the suite lie in [0, 1]; lqr's have no lower bound, so no atom is least.
    (preset, task): {"sac": dataclasses.replace(PRESETS[preset]["sac"], num_atoms=None)}
    for preset in ("cpu", "fast")
    for task in ("lqr_lqr_2_1", "lqr_lqr_6_2")
}


def preset_for(num_envs: int) -> str:
    """Returns the preset of a number of worlds, for a user who names none."""
    return next(name for least, name in _LEAST_WORLDS if num_envs >= least)


def preset_config(task: str, preset: str = "seed", **overrides: Any) -> TrainConfig:
    """Returns the configuration of a preset for a task.

    Args:
        task: a task's name.
        preset: one of PRESETS.
        **overrides: fields of TrainConfig that differ.

    Raises:
        ConfigError: no such preset or field, or a field out of range.
    """
    if not isinstance(task, str):
        raise ConfigError(f"a task is a name, got {type(task).__name__}")
    if not isinstance(preset, str) or preset not in PRESETS:
        raise ConfigError(f"unknown --preset {preset!r}; there are {', '.join(PRESETS)}")
    if unknown := overrides.keys() - TrainConfig.__dataclass_fields__.keys():
        raise ConfigError(f"TrainConfig has no field {min(unknown)!r}")
    fields = PRESETS[preset] | TASK_PRESETS.get((preset, task), {}) | overrides
    return TrainConfig(**{"task": task, "preset": preset} | fields)
