"""The actor and the critic ensemble."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


class EnsembleLinear(nn.Module):
    """num_members affine maps evaluated as one batched matmul.

    Weights and biases start uniform in +-1/sqrt(in_features), as torch's Linear does.
    """

    def __init__(
        self, num_members: int, in_features: int, out_features: int, generator: torch.Generator
    ):
        super().__init__()
        bound = 1 / math.sqrt(in_features)
        uniform = torch.empty(num_members, in_features + 1, out_features)
        uniform.uniform_(-bound, bound, generator=generator)
        self.weight = nn.Parameter(uniform[:, :-1].clone())  # (E, in, out)
        self.bias = nn.Parameter(uniform[:, -1:].clone())  # (E, 1, out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps x (E, B, in) to (E, B, out)."""
        return torch.baddbmm(self.bias, x, self.weight)


class EnsembleMLP(nn.Module):
    """num_members ReLU networks of the same shape, input (E, B, in), output (E, B, out)."""

    def __init__(self, num_members: int, sizes: Sequence[int], generator: torch.Generator):
        super().__init__()
        pairs = zip(sizes[:-1], sizes[1:], strict=True)
        self.layers = nn.ModuleList(EnsembleLinear(num_members, i, o, generator) for i, o in pairs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps x (E, B, in) to (E, B, out) of x's dtype, whatever dtype the weights have."""
        *hidden, last = self.layers
        dtype, x = x.dtype, x.to(next(self.parameters()).dtype)
        for layer in hidden:
            x = F.relu(layer(x), inplace=True)
        return last(x).to(dtype)


class Actor(nn.Module):
    """Gaussian policy head: observation (B, obs_dim) -> mean and raw log std, each (B, A)."""

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden_sizes: Sequence[int],
        generator: torch.Generator,
    ):
        super().__init__()
        self.mlp = EnsembleMLP(1, (obs_dim, *hidden_sizes, 2 * action_dim), generator)

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns mean and log_std; the clamp belongs to tanh_gaussian."""
        mean, log_std = self.mlp(obs[None])[0].chunk(2, dim=-1)
        return mean, log_std


class Critics(nn.Module):
    """An ensemble of Q networks: (B, obs_dim), (B, A) -> (E, B)."""

    def __init__(
        self,
        num_critics: int,
        obs_dim: int,
        action_dim: int,
        hidden_sizes: Sequence[int],
        generator: torch.Generator,
    ):
        super().__init__()
        self.num_critics = num_critics
        sizes = (obs_dim + action_dim, *hidden_sizes, 1)
        self.mlp = EnsembleMLP(num_critics, sizes, generator)

    def forward(self, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Returns every member's Q value (E, B)."""
        x = torch.cat([obs, action], dim=-1)
        return self.mlp(x.expand(self.num_critics, -1, -1))[..., 0]
