"""Named settings: defaults per preset, and what single tasks need otherwise."""

import dataclasses
from typing import Any

from fastsac.config import SACConfig, TrainConfig
from fastsac.errors import ConfigError

# "seed" is the paper's setting, TrainConfig's own defaults.
PRESETS: dict[str, dict[str, Any]] = {
    "seed": {},
    "cpu": {
        "num_envs": 16,
        "updates_per_step": 8,
        "total_steps": 500_000,
        "learning_starts": 5_000,
        "eval_every": 50_000,
        "sac": SACConfig(hidden_sizes=(256, 256)),
    },
}

# Exceptions to a preset, by (preset, task).
TASK_PRESETS: dict[tuple[str, str], dict[str, Any]] = {
    ("cpu", "cartpole_swingup"): {
        "updates_per_step": 4,
        "total_steps": 120_000,
        "learning_starts": 2_000,
        "eval_every": 20_000,
        "sac": SACConfig(hidden_sizes=(128, 128)),
    },
}


def preset_config(task: str, preset: str = "seed", **overrides: Any) -> TrainConfig:
    """Returns the configuration of a preset for a task.

    Args:
        task: a task's name.
        preset: one of PRESETS.
        **overrides: fields of TrainConfig that differ.

    Raises:
        ConfigError: no such preset, or a field out of range.
    """
    if preset not in PRESETS:
        raise ConfigError(f"unknown --preset {preset!r}; there are {', '.join(PRESETS)}")
    fields = PRESETS[preset] | TASK_PRESETS.get((preset, task), {}) | overrides
    return dataclasses.replace(TrainConfig(task=task), preset=preset, **fields)
