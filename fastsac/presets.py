"""Named settings: defaults per preset, and what single tasks need otherwise."""

from typing import Any

from fastsac.config import SACConfig, TrainConfig
from fastsac.errors import ConfigError

# "seed" is the paper's setting, TrainConfig's own defaults.
# "cpu" is for two cores: half an update per environment step, since updates cost 10 to 100 times
# what the native engine's steps cost, and larger steps per update to make up for it. Measured on
# cartpole_swingup (seed 0): return 846 in dm_control after 40k steps and 19k updates, where the
# paper's learning rate, tau and initial temperature gave 453 after 120k steps and 30k updates.
PRESETS: dict[str, dict[str, Any]] = {
    "seed": {},
    "cpu": {
        "num_envs": 16,
        "updates_per_step": 8,
        "total_steps": 600_000,
        "eval_every": 20_000,
        "sac": SACConfig(learning_rate=1e-3, tau=0.01, initial_temperature=0.1),
    },
}

# Exceptions to a preset, by (preset, task).
TASK_PRESETS: dict[tuple[str, str], dict[str, Any]] = {
    # `make train` shows this one: over in three minutes.
    ("cpu", "cartpole_swingup"): {
        "total_steps": 50_000,
        "learning_starts": 2_000,
        "eval_every": 10_000,
        "checkpoint_every": 10_000,
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
    return TrainConfig(**{"task": task, "preset": preset} | fields)
