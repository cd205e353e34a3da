"""The squashed Gaussian policy's sample and its log-probability.

    u        = mean + exp(s) noise,             s = clamp(log_std, log_std_min, log_std_max)
    action   = tanh(u)
    log_prob = sum_i [ -noise_i^2 / 2 - s_i - log(2 pi) / 2 - log(1 - tanh(u_i)^2) ]

(arXiv 1812.05905, appendix C, eq. 26). The last term is computed as 2 (log 2 - u - softplus(-2u)),
which is exact where 1 - tanh(u)^2 rounds to zero.

Shapes: mean, log_std, noise, action (B, A); log_prob (B,). float32 or float64.
"""

import math

import torch
import torch.nn.functional as F

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def reference(
    mean: torch.Tensor,
    log_std: torch.Tensor,
    noise: torch.Tensor,
    log_std_min: float,
    log_std_max: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The formula in torch; autograd differentiates it."""
    log_std = log_std.clamp(log_std_min, log_std_max)
    u = mean + log_std.exp() * noise
    log_normal = -0.5 * noise.square() - log_std - _HALF_LOG_2PI
    log_jacobian = 2 * (math.log(2) - u - F.softplus(-2 * u))
    return torch.tanh(u), (log_normal - log_jacobian).sum(-1)


def tanh_gaussian(
    mean: torch.Tensor,
    log_std: torch.Tensor,
    noise: torch.Tensor,
    log_std_min: float = -20.0,
    log_std_max: float = 2.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples tanh(mean + exp(log_std) noise) and its log-probability, differentiably.

    Args:
        mean: (B, A), float32 or float64.
        log_std: (B, A); clamped to [log_std_min, log_std_max], no gradient outside.
        noise: (B, A) standard normal; zeros give the mode.
        log_std_min: lower clamp.
        log_std_max: upper clamp.

    Returns:
        action (B, A) in (-1, 1) and log_prob (B,).

    Raises:
        ValueError: the three tensors differ in shape or dtype.
    """
    for other in (log_std, noise):
        if other.shape != mean.shape or other.dtype != mean.dtype:
            raise ValueError(
                f"mean {tuple(mean.shape)} {mean.dtype}, log_std {tuple(log_std.shape)} "
                f"{log_std.dtype} and noise {tuple(noise.shape)} {noise.dtype} must agree"
            )
    return reference(mean, log_std, noise, log_std_min, log_std_max)
