"""Fused operations of the learner; each picks its implementation by the tensors' device."""

from fastsac.kernels.polyak import polyak_
from fastsac.kernels.tanh_gaussian import tanh_gaussian

__all__ = ["polyak_", "tanh_gaussian"]
