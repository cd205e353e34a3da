"""SAC's three losses (arXiv 1812.05905) with their gradients, pure functions of tensors.

``weight`` (B,) is 1 for a transition and 0 for one that the physics engine marked invalid: that one
counts nothing, even if its values overflowed.
"""

import torch


def critic_loss(
    q: torch.Tensor, target: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Eq. 5, summed over the critics: mean_B (Q_i - y)^2 / 2 with q (E, B) and target (B,).

    Returns:
        The loss, and its gradient by q (E, B): (Q_i - y) / B.
    """
    error = torch.where(weight > 0, q - target, 0)
    by_q = error / len(target)
    return 0.5 * torch.dot(error.view(-1), by_q.view(-1)), by_q


def policy_loss(
    log_prob: torch.Tensor, q: torch.Tensor, alpha: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Eq. 9: mean_B alpha log pi(a|s) - min_i Q_i(s, a), with a reparameterised, q (E, B).

    Returns:
        The loss, its gradient by log_prob (B,): alpha / B, and by q (E, B): -1 / B for the least.
    """
    least, index = q.min(dim=0, keepdim=True)
    share = weight / len(weight)
    by_q = torch.zeros_like(q).scatter_(0, index, -share[None])
    loss = torch.where(weight > 0, alpha * log_prob - least[0], 0).mean()
    return loss, alpha * share, by_q


def temperature_loss(
    log_alpha: torch.Tensor,
    log_prob: torch.Tensor,
    target_entropy: torch.Tensor,
    weight: torch.Tensor,
) -> torch.Tensor:
    """Eq. 18: mean_B -alpha (log pi(a|s) + target entropy), with alpha = exp(log_alpha).

    alpha is a factor, so the loss is its own derivative by log_alpha.
    """
    gap = torch.where(weight > 0, log_prob + target_entropy, 0).mean()
    return -log_alpha.exp() * gap
