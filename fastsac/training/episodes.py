"""Returns of the training episodes, summed on the device."""

import torch


class EpisodeReturns:
    """Adds up rewards per world and averages the returns of whole episodes.

    Args:
        clocks: (B,) steps that each world's first episode is old; where it is not 0 that episode
            was not seen from its beginning and does not count.

    Attributes:
        lowest: () least reward so far.
        highest: () greatest reward so far.
    """

    def __init__(self, clocks: torch.Tensor):
        self._running = torch.zeros_like(clocks, dtype=torch.float32)
        self._whole = clocks == 0
        zeros = [torch.zeros((), dtype=torch.float32, device=clocks.device) for _ in range(4)]
        self._total, self._count, self.lowest, self.highest = zeros

    def add(self, reward: torch.Tensor, done: torch.Tensor, valid: torch.Tensor) -> None:
        """Takes one step's reward (B,), episode ends (B,) and validity (B,)."""
        self._running += reward
        torch.minimum(self.lowest, reward.min(), out=self.lowest)
        torch.maximum(self.highest, reward.max(), out=self.highest)
        counts = done & self._whole & valid
        self._total += (self._running * counts).sum()
        self._count += counts.sum()
        self._running.masked_fill_(done, 0)
        self._whole |= done

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Everything it knows, copies."""
        return {name: value.clone() for name, value in vars(self).items()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Goes on from what state_dict returned."""
        for name, value in vars(self).items():
            value.copy_(state[name])

    @property
    def ended(self) -> torch.Tensor:
        """How many whole episodes, (), have ended since take_mean's last call."""
        return self._count.clone()

    def take_mean(self) -> torch.Tensor:
        """Returns the mean () since the last call, NaN where no episode ended; not waited for."""
        mean = self._total / self._count
        self._total.zero_()
        self._count.zero_()
        return mean
