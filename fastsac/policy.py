"""A trained policy, detached from its learner."""

from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from fastsac import checkpoint
from fastsac.config import SACConfig, sac_from_json
from fastsac.errors import CheckpointError, ConfigError
from fastsac.flat import FlatWeights
from fastsac.learner_state import LearnerState
from fastsac.networks import Actor
from fastsac.normalizer import RunningNorm

ArrayT = TypeVar("ArrayT", torch.Tensor, np.ndarray)


class Policy:
    """Deterministic policy: the squashed mean of the trained Gaussian.

    Args:
        task: what it was trained on.
        obs_dim: length of an observation.
        action_dim: length of an action.
        config: the algorithm that trained it.
        weights: (P,) float32, the actor's.
        normalizer: state of the observations' normaliser, or None.
        device: where it shall run; weights and normaliser are copied there.
    """

    def __init__(
        self,
        task: str,
        obs_dim: int,
        action_dim: int,
        config: SACConfig,
        weights: torch.Tensor,
        normalizer: dict[str, Any] | None,
        device: str | torch.device = "cpu",
    ):
        self.task, self.obs_dim, self.action_dim = task, obs_dim, action_dim
        self._device = torch.device(device)
        self._actor = Actor(obs_dim, action_dim, config, torch.Generator()).to(self._device)
        self._weights = FlatWeights(self._actor)
        self._weights.load_state_dict(weights)
        self._normalizer: RunningNorm | None = None
        if normalizer is not None:
            self._normalizer = RunningNorm(obs_dim).to(self._device)
            self._normalizer.load_state_dict(normalizer)

    @classmethod
    def snapshot(cls, learner: LearnerState, task: str) -> "Policy":
        """Returns a learner's policy as it is now, on the CPU."""
        normalizer = learner.normalizer.state_dict() if learner.normalizer else None
        sizes = learner.obs_dim, learner.action_dim
        return cls(task, *sizes, learner.config, learner.actor_flat, normalizer)

    def state_dict(self) -> dict[str, Any]:
        """The actor's weights and the normaliser's state, as a learner's state_dict has them."""
        normalizer = self._normalizer.state_dict() if self._normalizer else None
        return {"actor": self._weights.state_dict(), "normalizer": normalizer}

    @torch.no_grad()
    def __call__(self, obs: ArrayT) -> ArrayT:
        """Maps observations (obs_dim,) or (B, obs_dim) to actions in [-1, 1] of the same kind.

        Raises:
            ValueError: obs has another size.
        """
        tensor = torch.as_tensor(obs, dtype=torch.float32, device=self._device)
        if tensor.dim() not in (1, 2) or tensor.shape[-1] != self.obs_dim:
            raise ValueError(
                f"a policy for {self.task} takes observations ({self.obs_dim},) or "
                f"(B, {self.obs_dim}), got {tuple(tensor.shape)}"
            )
        rows = torch.atleast_2d(tensor)
        mean, _ = self._actor(self._normalizer(rows) if self._normalizer else rows)
        action = torch.tanh(mean).reshape(*tensor.shape[:-1], self.action_dim)
        return action if isinstance(obs, torch.Tensor) else action.cpu().numpy()


def load_policy(path: str | Path, device: str | torch.device = "cpu") -> Policy:
    """Loads the policy of a checkpoint file or a run directory.

    Raises:
        CheckpointError: missing, truncated, or damaged.
    """
    state = checkpoint.load(path)
    try:
        config = sac_from_json(state["config"])
        normalizer = state["agent"]["normalizer"] if config.normalize_obs else None
        sizes = state["obs_dim"], state["action_dim"]
        return Policy(state["task"], *sizes, config, state["agent"]["actor"], normalizer, device)
    except (ConfigError, AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} does not fit its own configuration: {reason}") from error
