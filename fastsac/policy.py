"""A trained policy, detached from its learner."""

import json
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from fastsac import checkpoint
from fastsac.config import SACConfig
from fastsac.errors import CheckpointError, ConfigError
from fastsac.sac import SAC

ArrayT = TypeVar("ArrayT", torch.Tensor, np.ndarray)


class Policy:
    """Deterministic policy: the squashed mean of the trained Gaussian.

    Attributes:
        task: what it was trained on.
        obs_dim: length of an observation.
        action_dim: length of an action.
    """

    def __init__(self, agent: SAC, task: str):
        self._agent, self.task = agent, task
        self.obs_dim, self.action_dim = agent.obs_dim, agent.action_dim

    def __call__(self, obs: ArrayT) -> ArrayT:
        """Maps observations (obs_dim,) or (B, obs_dim) to actions in [-1, 1] of the same kind.

        Raises:
            ValueError: obs has another size.
        """
        tensor = torch.as_tensor(obs, dtype=torch.float32, device=self._agent.device)
        if tensor.dim() not in (1, 2) or tensor.shape[-1] != self.obs_dim:
            raise ValueError(
                f"a policy for {self.task} takes observations ({self.obs_dim},) or "
                f"(B, {self.obs_dim}), got {tuple(tensor.shape)}"
            )
        action = self._agent.act(torch.atleast_2d(tensor), deterministic=True)
        action = action.reshape(*tensor.shape[:-1], self.action_dim)
        return action if isinstance(obs, torch.Tensor) else action.cpu().numpy()


def load_policy(path: str | Path, device: str | torch.device = "cpu") -> Policy:
    """Loads the policy of a checkpoint file or a run directory.

    Raises:
        CheckpointError: missing, truncated, or damaged.
    """
    state = checkpoint.load(path)
    try:
        sac = json.loads(state["config"])["sac"]
        # Whatever the learner multiplied in, its weights are float32.
        value_range = sac["value_range"] and tuple(sac["value_range"])
        exact = {
            "hidden_sizes": tuple(sac["hidden_sizes"]),
            "value_range": value_range,
            "precision": "float32",
        }
        config = SACConfig(**sac | exact)
        agent = SAC(state["obs_dim"], state["action_dim"], config, device)
        agent.load_state_dict(state["agent"])
    except (ConfigError, AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} does not fit its own configuration: {reason}") from error
    return Policy(agent, state["task"])
