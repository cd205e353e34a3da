"""Fused operations of the learner; each picks its implementation by the tensors' device."""

from fastsac.kernels.adam_polyak import AdamState, adam_polyak_
from fastsac.kernels.categorical_td_loss import (
    Atoms,
    Transitions,
    categorical_td_gradient,
    categorical_td_loss,
)
from fastsac.kernels.compiler import strict_kernels
from fastsac.kernels.norm_relu import NormReLU, norm_relu, norm_relu_gradient
from fastsac.kernels.polyak import polyak_
from fastsac.kernels.replay_gather import replay_gather
from fastsac.kernels.soft_td_target import soft_td_target
from fastsac.kernels.tanh_gaussian import tanh_gaussian, tanh_gaussian_gradient

__all__ = [
    "AdamState",
    "Atoms",
    "NormReLU",
    "Transitions",
    "adam_polyak_",
    "categorical_td_gradient",
    "categorical_td_loss",
    "norm_relu",
    "norm_relu_gradient",
    "polyak_",
    "replay_gather",
    "soft_td_target",
    "strict_kernels",
    "tanh_gaussian",
    "tanh_gaussian_gradient",
]
