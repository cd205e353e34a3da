"""SAC's three losses (arXiv 1812.05905), pure functions of tensors.

``weight`` (B,) is 1 for a transition and 0 for one that the physics engine marked invalid.
"""

import torch


def critic_loss(q: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Eq. 5, summed over the critics: mean_B (Q_i - y)^2 / 2 with q (E, B) and target (B,)."""
    return _weighted(0.5 * (q - target).square(), weight).mean(dim=1).sum()


def policy_loss(
    log_prob: torch.Tensor, q: torch.Tensor, alpha: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """Eq. 9: mean_B alpha log pi(a|s) - min_i Q_i(s, a), with a reparameterised, q (E, B)."""
    return _weighted(alpha * log_prob - q.amin(dim=0), weight).mean()


def temperature_loss(
    log_alpha: torch.Tensor,
    log_prob: torch.Tensor,
    target_entropy: torch.Tensor,
    weight: torch.Tensor,
) -> torch.Tensor:
    """Eq. 18: mean_B -alpha (log pi(a|s) + target entropy), with alpha = exp(log_alpha)."""
    return -_weighted(log_alpha.exp() * (log_prob.detach() + target_entropy), weight).mean()


def _weighted(value: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Weight * value, and 0 where the weight is 0 even if the value overflowed."""
    return torch.where(weight > 0, weight * value, 0)
