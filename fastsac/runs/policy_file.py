"""The trained policy of a run, of a checkpoint, of a small policy file or of the zoo."""

import os
from pathlib import Path

import torch

from fastsac.errors import CheckpointError, ConfigError
from fastsac.learner.config import sac_from_json
from fastsac.learner.policy import Policy
from fastsac.runs import checkpoint_file, small_policy, zoo


def load_policy(path: str | Path, device: str | torch.device = "cpu") -> Policy:
    """Loads a trained policy; nothing in its file is executed.

    Args:
        path: a run directory, a checkpoint, a .policy of `fastsac export`, or "zoo:walker_run": a
            name of `fastsac zoo`.
        device: where it shall run.

    Raises:
        CheckpointError: missing, truncated, or damaged.
        ConfigError: there is no such policy in the zoo.
    """
    if zoo.is_name(path):
        path = zoo.file_of(str(path))
    if small_policy.is_small(Path(path)):
        return small_policy.load(Path(path), device)
    state = checkpoint_file.load(path)
    try:
        config = sac_from_json(state["config"])
        normalizer = state["agent"]["normalizer"] if config.normalize_obs else None
        sizes = state["obs_dim"], state["action_dim"]
        return Policy(state["task"], *sizes, config, state["agent"]["actor"], normalizer, device)
    except (ConfigError, *checkpoint_file.MISFITS) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} does not fit its own configuration: {reason}") from error


def directory_of(path: str | Path) -> Path | None:
    """Returns the run's directory of a path that is one, or a file in one; the zoo's has none."""
    if zoo.is_name(path):
        return None
    if os.path.isdir(path):
        return Path(path)
    folder = Path(path).parent
    return folder.parent if folder.name == checkpoint_file.FOLDER else folder
