"""SAC's three losses (arXiv 1812.05905) and their gradients, pure functions of tensors.

``weight`` (B,) multiplies a transition's share, usually 1. With 0, as for one that the physics
engine marked invalid, its reward and next observation count nothing even if they are no numbers.
"""

import torch

from fastsac.kernels.soft_td_target import Reduction


def critic_loss(q: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Eq. 5, summed over the critics: mean_B (Q_i - y)^2 / 2 with q (E, B) and target (B,)."""
    return weighted_mean((q - target).square_(), weight).sum() / 2


def critic_loss_gradient(
    q: torch.Tensor, target: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """Returns the gradient of eq. 5 by q (E, B): (Q_i - y) / B."""
    return _weighted(q - target, weight).div_(len(target))


def policy_loss(
    log_prob: torch.Tensor,
    q: torch.Tensor,
    alpha: torch.Tensor,
    weight: torch.Tensor,
    reduction: Reduction = "min",
) -> torch.Tensor:
    """Eq. 9: mean_B alpha log pi(a|s) - min_i Q_i(s, a), with a reparameterised, q (E, B).

    The reduction "mean" takes the critics' mean instead of their minimum.
    """
    reduced = q.mean(dim=0) if reduction == "mean" else q.amin(dim=0)
    return weighted_mean(alpha * log_prob - reduced, weight)


def policy_loss_gradient(
    q: torch.Tensor, alpha: torch.Tensor, weight: torch.Tensor, reduction: Reduction = "min"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns eq. 9's gradients by log_prob (B,), alpha / B, and q (E, B), -1 / B of the least."""
    share = weight / -len(weight)
    if reduction == "mean":
        by_q = (share / len(q)).expand_as(q)
    else:
        by_q = torch.zeros_like(q).scatter_(0, q.argmin(dim=0, keepdim=True), share[None])
    return -alpha * share, by_q


def temperature_loss(
    log_alpha: torch.Tensor,
    log_prob: torch.Tensor,
    target_entropy: torch.Tensor,
    weight: torch.Tensor,
) -> torch.Tensor:
    """Eq. 18: mean_B -alpha (log pi(a|s) + target entropy), with alpha = exp(log_alpha).

    alpha is a factor, so the loss is its own derivative by log_alpha.
    """
    return weighted_mean(log_prob + target_entropy, weight) * -log_alpha.exp()


def weighted_mean(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Returns the mean (..) over transitions of values (.., B), which are overwritten."""
    return _weighted(values, weight).mean(dim=-1)


def _weighted(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Multiplies values (.., B) by their weights, in place; 0 times infinity is 0 here."""
    return values.mul_(weight).masked_fill_(weight == 0, 0)
