"""Running mean and variance of observations."""

import torch
from torch import nn

from fastsac.kernels.replay_gather import EPSILON


class RunningNorm(nn.Module):
    """Standardises observations by all that it was shown; its state lives in buffers.

    Before the first update it is the identity.
    """

    mean: torch.Tensor
    var: torch.Tensor
    count: torch.Tensor

    def __init__(self, obs_dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(obs_dim))
        self.register_buffer("var", torch.ones(obs_dim))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, obs: torch.Tensor) -> None:
        """Takes a batch (B, obs_dim) into account (Chan et al.'s parallel variance).

        A batch with an infinity or a NaN, which would stay for ever, does not count.
        """
        batch = obs.shape[0]
        total = self.count + batch
        old, new = (self.count / total).float(), (batch / total).float()
        batch_mean = obs.mean(dim=0)
        delta = batch_mean - self.mean
        batch_var = (obs - batch_mean).square().mean(dim=0)
        var = old * self.var + new * batch_var + old * new * delta.square()
        counts = var.isfinite().all()  # the mean too then
        changes = ((self.var, var), (self.mean, self.mean + new * delta), (self.count, total))
        for buffer, value in changes:
            buffer.copy_(torch.where(counts, value, buffer))

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """Returns (obs - mean) / std, the shape of obs."""
        return (obs - self.mean) * torch.rsqrt(self.var + EPSILON)
