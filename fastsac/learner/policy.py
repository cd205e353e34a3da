"""A trained policy, detached from its learner."""

from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from fastsac.learner.config import SACConfig
from fastsac.learner.flat_weights import FlatWeights, use_threads
from fastsac.learner.networks import Actor
from fastsac.learner.normalizer import RunningNorm
from fastsac.learner.state import LearnerState

ArrayT = TypeVar("ArrayT", torch.Tensor, np.ndarray)


class SquashedMean(nn.Module):
    """Observations (B, obs_dim) float32 -> the squashed mean (B, A) of the Gaussian, in [-1, 1]."""

    def __init__(self, actor: Actor, normalizer: RunningNorm | None):
        super().__init__()
        self.actor, self.normalizer = actor, normalizer

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """Returns the actions."""
        return torch.tanh(self.mean(obs))

    def mean(self, obs: torch.Tensor) -> torch.Tensor:
        """Returns the actions before their tanh."""
        return self.actor(obs if self.normalizer is None else self.normalizer(obs))[0]


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

    Attributes:
        config: the algorithm that trained it; of a small policy file only what its network needs.
        network: the function itself, on that device.
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
        self.config = config
        self._device = torch.device(device)
        use_threads(self._device)
        actor = Actor(obs_dim, action_dim, config, torch.Generator("cpu"))
        norm: RunningNorm | None = None
        if normalizer is not None:
            norm = RunningNorm(obs_dim)
            norm.load_state_dict(normalizer)
        self.network = SquashedMean(actor, norm).to(self._device).eval()
        self.network.requires_grad_(False)
        self._weights = FlatWeights(actor)
        self._weights.load_state_dict(weights)

    @classmethod
    def snapshot(cls, learner: LearnerState, task: str) -> "Policy":
        """Returns a learner's policy as it is now, on the CPU."""
        normalizer = learner.normalizer.state_dict() if learner.normalizer else None
        sizes = learner.obs_dim, learner.action_dim
        return cls(task, *sizes, learner.config, learner.actor_flat, normalizer)

    def state_dict(self) -> dict[str, Any]:
        """The actor's weights and the normaliser's state, as a learner's state_dict has them."""
        norm = self.network.normalizer
        normalizer = None if norm is None else norm.state_dict()
        return {"actor": self._weights.state_dict(), "normalizer": normalizer}

    @torch.no_grad()
    def __call__(self, obs: ArrayT) -> ArrayT:
        """Maps observations (obs_dim,) or (B, obs_dim) to actions in [-1, 1] of the same kind.

        Raises:
            TypeError: obs holds no real numbers.
            ValueError: obs has another size.
        """
        if "complex" in str(getattr(obs, "dtype", "")):
            raise TypeError("a policy takes real observations, got complex ones")
        given: Any = obs if isinstance(obs, torch.Tensor) else _numbers(obs)
        tensor = torch.as_tensor(given, dtype=torch.float32, device=self._device)
        if tensor.dim() not in (1, 2) or tensor.shape[-1] != self.obs_dim:
            raise ValueError(
                f"a policy for {self.task} takes observations ({self.obs_dim},) or "
                f"(B, {self.obs_dim}), got {tuple(tensor.shape)}"
            )
        use_threads(self._device)
        with torch.autocast(self._device.type, enabled=False):
            action = self.network(torch.atleast_2d(tensor))
        action = action.reshape(*tensor.shape[:-1], self.action_dim)
        return action if isinstance(obs, torch.Tensor) else action.cpu().numpy()


def _numbers(obs: Any) -> np.ndarray:
    """Returns a copy in float32: torch takes no strides below 0 and no foreign byte order."""
    try:
        array = np.asarray(obs)
        if array.dtype.kind in "OSU":
            raise TypeError(f"got {array.dtype}")
        return np.array(array, np.float32)
    except (TypeError, ValueError) as error:
        raise TypeError(f"a policy takes arrays of real numbers: {error}") from error
