"""The trained policy that a checkpoint or a run holds."""

import os
from pathlib import Path

import torch

from fastsac.errors import CheckpointError, ConfigError
from fastsac.learner.config import sac_from_json
from fastsac.learner.policy import Policy
from fastsac.runs import checkpoint_file


def load_policy(path: str | Path, device: str | torch.device = "cpu") -> Policy:
    """Loads the policy of a checkpoint file or a run directory.

    Raises:
        CheckpointError: missing, truncated, or damaged.
    """
    state = checkpoint_file.load(path)
    try:
        config = sac_from_json(state["config"])
        normalizer = state["agent"]["normalizer"] if config.normalize_obs else None
        sizes = state["obs_dim"], state["action_dim"]
        return Policy(state["task"], *sizes, config, state["agent"]["actor"], normalizer, device)
    except (ConfigError, *checkpoint_file.MISFITS) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} does not fit its own configuration: {reason}") from error


def directory_of(path: str | Path) -> Path:
    """Returns the run's directory of a path that is one, or a checkpoint file in one."""
    if os.path.isdir(path):
        return Path(path)
    folder = Path(path).parent
    return folder.parent if folder.name == checkpoint_file.FOLDER else folder
