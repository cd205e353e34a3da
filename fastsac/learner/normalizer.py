"""Running mean and variance of observations."""

import torch
from torch import nn

from fastsac.kernels.replay_gather import EPSILON
from fastsac.learner.peers import Peers


class RunningNorm(nn.Module):
    """Standardises observations by all that it was shown; its state lives in buffers.

    Before the first update it is the identity.

    Args:
        obs_dim: length of an observation.
        peers: who is shown other observations and knows them all the same; None is nobody.
    """

    mean: torch.Tensor
    var: torch.Tensor
    count: torch.Tensor

    def __init__(
        self, obs_dim: int, peers: Peers | None = None, dtype: torch.dtype = torch.float32
    ):
        super().__init__()
        self._peers = peers
        self.register_buffer("mean", torch.zeros(obs_dim, dtype=dtype, device="cpu"))
        self.register_buffer("var", torch.ones(obs_dim, dtype=dtype, device="cpu"))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64, device="cpu"))

    @torch.no_grad()
    def update(self, obs: torch.Tensor) -> None:
        """Takes a batch (B, obs_dim) into account (Chan et al.'s parallel variance).

        A batch with an infinity or a NaN, which would stay for ever, does not count.
        """
        batch: int | torch.Tensor = obs.shape[0]
        if self._peers:
            batch, delta, batch_var = self._of_all(obs, self._peers)
        else:
            batch_mean = obs.mean(dim=0)
            delta = batch_mean - self.mean
            batch_var = (obs - batch_mean).square().mean(dim=0)
        total = self.count + batch
        old, new = (self.count / total).float(), (batch / total).float()
        var = old * self.var + new * batch_var + old * new * delta.square()
        counts = var.isfinite().all()  # the mean too then
        changes = ((self.var, var), (self.mean, self.mean + new * delta), (self.count, total))
        for buffer, value in changes:
            buffer.copy_(torch.where(counts, value, buffer))

    def _of_all(
        self, obs: torch.Tensor, peers: Peers
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns the number () of all peers' observations, their mean less ours, their variance.

        Sums of float64 about the common mean: of large numbers nothing cancels. A peer's batch with
        an infinity or a NaN counts nothing.
        """
        about = obs.double() - self.mean
        sums = torch.stack([about.sum(dim=0), about.square().sum(dim=0)])
        counts = sums.isfinite().all()
        count = counts.double() * len(obs)
        sums = torch.cat([torch.where(counts, sums, 0).flatten(), count[None]])
        peers.sum_(sums)
        (delta, squares), count = sums[:-1].view(2, -1) / sums[-1], sums[-1]
        return count, delta.float(), (squares - delta.square()).clamp(min=0).float()

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """Returns (obs - mean) / std, the shape of obs."""
        return (obs - self.mean) * torch.rsqrt(self.var + EPSILON)
