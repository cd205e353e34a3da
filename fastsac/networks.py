"""The actor and the critic ensemble."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


class EnsembleLinear(nn.Module):
    """The weights of num_members affine maps, uniform in +-1/sqrt(in_features) as torch's Linear."""

    def __init__(
        self, num_members: int, in_features: int, out_features: int, generator: torch.Generator
    ):
        super().__init__()
        bound = 1 / math.sqrt(in_features)
        uniform = torch.empty(num_members, in_features + 1, out_features)
        uniform.uniform_(-bound, bound, generator=generator)
        self.weight = nn.Parameter(uniform[:, :-1].clone())  # (E, in, out)
        self.bias = nn.Parameter(uniform[:, -1:].clone())  # (E, 1, out)


class EnsembleMLP(nn.Module):
    """num_members ReLU networks of the same shape, each layer one batched matmul."""

    def __init__(self, num_members: int, sizes: Sequence[int], generator: torch.Generator):
        super().__init__()
        pairs = zip(sizes[:-1], sizes[1:], strict=True)
        self.layers = nn.ModuleList(EnsembleLinear(num_members, i, o, generator) for i, o in pairs)

    def forward(self, *parts: torch.Tensor) -> torch.Tensor:
        """Maps the parts (B, .) of one input to (E, B, out) of their dtype.

        The weights may have another dtype, which is that of the matmuls.
        """
        parameters = list(self.parameters())
        working = (part.to(parameters[0].dtype) for part in parts)
        return _EnsembleMLP.apply(len(parts), *working, *parameters).to(parts[0].dtype)


class _EnsembleMLP(torch.autograd.Function):
    """A node of autograd's graph for a whole network: no gradient that nobody asks for.

    Written out, it takes a CPU and a GPU a third fewer operations than autograd's own; ReLU and its
    derivative are in place.
    """

    @staticmethod
    def forward(ctx: Any, num_parts: int, *tensors: torch.Tensor) -> torch.Tensor:
        parts, parameters = tensors[:num_parts], tensors[num_parts:]
        weights, biases = parameters[::2], parameters[1::2]
        x = parts[0] if num_parts == 1 else torch.cat(parts, dim=1)
        x = x.expand(len(weights[0]), -1, -1)
        inputs = []
        for weight, bias in zip(weights, biases, strict=True):
            if inputs:
                x.relu_()
            inputs.append(x)
            x = _affine(x, weight, bias)
        ctx.widths = [part.shape[1] for part in parts]
        ctx.save_for_backward(*inputs, *weights)
        return x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        saved, parts = ctx.saved_tensors, len(ctx.widths)
        depth = len(saved) // 2
        inputs, weights = saved[:depth], saved[depth:]
        needed = ctx.needs_input_grad[1:]
        found: list[torch.Tensor | None] = [None] * len(needed)
        for i in reversed(range(depth)):
            if needed[parts + 2 * i]:
                found[parts + 2 * i] = _product(inputs[i].mT, gradient)
                found[parts + 2 * i + 1] = gradient.sum(dim=1, keepdim=True)
            if i:
                gradient = _product(gradient, weights[i].mT)
                # ReLU's derivative, where its output was 0 to 0.
                torch.ops.aten.threshold_backward.grad_input(
                    gradient, inputs[i], 0, grad_input=gradient
                )
        columns = weights[0].split(ctx.widths, dim=1)
        for i in range(parts):
            if needed[i]:
                found[i] = _product(gradient, columns[i].mT).sum(dim=0)
        return None, *found


# Batched products with one column or row take a CPU 140 to 210 us for two critics, 256 transitions
# and 256 units; these elementwise ones take 25 to 45.
def _affine(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Returns x (E, B, in) @ weight (E, in, out) + bias (E, 1, out)."""
    if weight.shape[2] == 1 and _elementwise(x):
        return (x * weight.mT).sum(dim=2, keepdim=True).add_(bias)
    return torch.baddbmm(bias, x, weight)


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Returns a (E, m, k) @ b (E, k, n)."""
    if a.shape[2] == 1 and _elementwise(a):
        return a * b
    if b.shape[2] == 1 and _elementwise(a):
        return (a.mT * b).sum(dim=1)[..., None]
    return torch.bmm(a, b)


def _elementwise(x: torch.Tensor) -> bool:
    return x.is_cpu and x.dtype != torch.bfloat16  # whose sums a matmul keeps in float32


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
        mean, log_std = self.mlp(obs)[0].chunk(2, dim=-1)
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
        return self.mlp(obs, action)[..., 0]
