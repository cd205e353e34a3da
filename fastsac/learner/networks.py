"""The actor and the critic ensemble."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from fastsac.kernels import Atoms, NormReLU, norm_relu, norm_relu_gradient
from fastsac.kernels.norm_relu import EPSILON, is_fused
from fastsac.learner.config import SACConfig


class EnsembleLinear(nn.Module):
    """The weights of num_members affine maps, uniform in +-1/sqrt(in_features) like torch's."""

    def __init__(
        self, num_members: int, in_features: int, out_features: int, generator: torch.Generator
    ):
        super().__init__()
        bound = 1 / math.sqrt(in_features)
        shape = num_members, in_features + 1, out_features
        uniform = torch.empty(shape, dtype=torch.float32, device="cpu")
        uniform.uniform_(-bound, bound, generator=generator)
        self.weight = nn.Parameter(uniform[:, :-1].clone())  # (E, in, out)
        self.bias = nn.Parameter(uniform[:, -1:].clone())  # (E, 1, out)


class EnsembleMLP(nn.Module):
    """num_members ReLU networks of the same shape, each layer one batched matmul.

    The weights may have another dtype than inputs and outputs, which is that of the matmuls.

    Args:
        num_members: E.
        sizes: of the input, each hidden layer and the output.
        generator: of the initial weights.
        layer_norm: standardise each hidden layer's sums over its units before the ReLU (arXiv
            1607.06450, without gain and bias: the next layer and this one's bias have their part).
    """

    def __init__(
        self,
        num_members: int,
        sizes: Sequence[int],
        generator: torch.Generator,
        layer_norm: bool = False,
    ):
        super().__init__()
        self.layer_norm = layer_norm
        pairs = zip(sizes[:-1], sizes[1:], strict=True)
        self.layers = nn.ModuleList(EnsembleLinear(num_members, i, o, generator) for i, o in pairs)
        # Module.parameters() takes 20 us to find them.
        self._parameters_in_order = list(self.parameters())

    def forward(self, *parts: torch.Tensor) -> torch.Tensor:
        """Maps the parts (B, .) of one input to (E, B, out) of their dtype, differentiably."""
        return self._record(parts, may_fuse=False)[0]

    @torch.no_grad()
    def infer(self, *parts: torch.Tensor) -> torch.Tensor:
        """Maps the parts (B, .) of one input to (E, B, out), which nobody differentiates."""
        return self._record(parts, saves=False)[0]

    @torch.no_grad()
    def record(self, *parts: torch.Tensor) -> tuple[torch.Tensor, "Tape"]:
        """Maps the parts (B, .) of one input to (E, B, out), and returns what gradients need."""
        return self._record(parts)

    def _record(
        self, parts: Sequence[torch.Tensor], may_fuse: bool = True, saves: bool = True
    ) -> tuple[torch.Tensor, "Tape"]:
        parameters = self._parameters_in_order
        if torch.compiler.is_exporting():  # which puts its own in their place
            parameters = list(self.parameters())
        weights, biases = parameters[::2], parameters[1::2]
        x = parts[0] if len(parts) == 1 else torch.cat(tuple(parts), dim=1)
        x = x.to(weights[0].dtype).expand(len(weights[0]), -1, -1)
        inputs = [x]
        norms: list[_Norm | NormReLU] = []
        fuses = may_fuse and _fuses(x)
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            if fuses:
                x, saved = norm_relu(torch.bmm(x, weight), bias, self.layer_norm, saves)
                norms += [saved] if saved else []
            else:
                x = _affine(x, weight, bias)
                if self.layer_norm:
                    x, norm = _Norm.of(x)
                    norms.append(norm)
                x.relu_()
            inputs.append(x)
        x = _affine(x, weights[-1], biases[-1])
        tape = Tape(inputs, norms, weights, [part.shape[1] for part in parts])
        return x.to(parts[0].dtype), tape


class _Norm(NamedTuple):
    """A layer normalisation: what it was of (E, B, H), the mean (E, B, 1) and 1 / deviation."""

    sums: torch.Tensor
    mean: torch.Tensor
    rstd: torch.Tensor

    @classmethod
    def of(cls, sums: torch.Tensor) -> tuple[torch.Tensor, "_Norm"]:
        """Standardises sums (E, B, H) over H."""
        shape = sums.shape[-1:]
        result, mean, rstd = torch.native_layer_norm(sums, shape, None, None, EPSILON)
        return result, cls(sums, mean, rstd)

    def rows_from(self, first: int) -> "_Norm":
        """Returns that of the batch's rows number first and up."""
        # Its backward pass reads mean and rstd as if they were contiguous.
        return _Norm(*(x[:, first:].contiguous() for x in self))

    def differentiate(self, by_result: torch.Tensor) -> torch.Tensor:
        """Returns the gradient of the sums."""
        return _norm_backward(
            by_result, self.sums, self.sums.shape[-1:], self.mean, self.rstd, None, None,
            [True, False, False],
        )[0]  # fmt: skip


_norm_backward = torch.ops.aten.native_layer_norm_backward


class Tape(NamedTuple):
    """What a network's gradients are computed from; as long as its weights stay as they were.

    Attributes:
        inputs: of each layer (E, B, in).
        norms: a NormReLU a hidden layer where kernels fuse, else a _Norm where layers are
            normalised, else none.
        weights: of each layer (E, in, out).
        widths: of the parts of the first input.
    """

    inputs: list[torch.Tensor]
    norms: Sequence[_Norm | NormReLU]
    weights: Sequence[torch.Tensor]
    widths: list[int]

    def rows_from(self, first: int) -> "Tape":
        """Returns the tape of the batch's rows number first and up."""
        norms = [norm.rows_from(first) for norm in self.norms]
        return self._replace(inputs=[x[:, first:] for x in self.inputs], norms=norms)

    def differentiate(
        self, by_output: torch.Tensor, into: Sequence[torch.Tensor] = ()
    ) -> torch.Tensor:
        """Returns the first layer's gradient; overwrites the parameters' where it shall.

        Args:
            by_output: (E, B, out), the gradient of the output.
            into: where those of weight and bias go, layer by layer; without, none are computed.

        Returns:
            The gradient of the first layer's result (E, B, .).
        """
        with torch.no_grad():  # which Dynamo does not follow as a decorator of a tuple's method
            gradient = by_output.to(self.weights[0].dtype)
            for i in reversed(range(len(self.weights))):
                if into:
                    _product_into(into[2 * i], self.inputs[i].mT, gradient)
                    torch.sum(gradient, dim=1, keepdim=True, out=into[2 * i + 1])
                if i:
                    gradient = _product(gradient, self.weights[i].mT)
                    gradient = self._activation_gradient(gradient, i)
            return gradient

    def _activation_gradient(self, gradient: torch.Tensor, i: int) -> torch.Tensor:
        """Returns the gradient of what layer i - 1 summed, from that of layer i's input."""
        norm = self.norms[i - 1] if self.norms else None
        if isinstance(norm, NormReLU):
            return norm_relu_gradient(gradient, norm)
        # ReLU's derivative, in place: 0 where its output was.
        _mask(gradient, self.inputs[i], 0, grad_input=gradient)
        return norm.differentiate(gradient) if norm else gradient

    def input_gradient(self, by_output: torch.Tensor, part: int) -> torch.Tensor:
        """Returns the gradient (B, .) of a part of the input, from that of the output."""
        with torch.no_grad():
            columns = self.weights[0].split(self.widths, dim=1)[part]
            product = _product(self.differentiate(by_output), columns.mT)
            return product.sum(dim=0).to(by_output.dtype)


_mask = torch.ops.aten.threshold_backward.grad_input


# Batched products with one column or row take a CPU 140 to 210 us for two critics, 256 transitions
# and 256 units; these elementwise ones take 25 to 45.
def _affine(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Returns x (E, B, in) @ weight (E, in, out) + bias (E, 1, out)."""
    if weight.shape[2] == 1 and _elementwise(x):
        return (x * weight.mT).sum(dim=2, keepdim=True).add_(bias)
    if torch.compiler.is_compiling():  # baddbmm copies the bias to each row first: 20 us
        return _product(x, weight) + bias
    return torch.baddbmm(bias, x, weight)


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Returns a (E, m, k) @ b (E, k, n)."""
    if a.shape[2] == 1 and _elementwise(a):
        return a * b
    if len(a) == 1 and a.is_cpu and a.dtype == torch.bfloat16:  # a slice would be copied: 40 us
        return torch.mm(a[0], b[0])[None]
    return torch.bmm(a, b)


def _product_into(result: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """Writes a (E, m, k) @ b (E, k, n) to result, whatever its dtype."""
    if b.shape[2] == 1 and _elementwise(a):
        torch.sum(a.mT * b, dim=1, out=result[..., 0])
    elif result.dtype == a.dtype:
        torch.bmm(a, b, out=result)
    else:
        result.copy_(_product(a, b))


def _fuses(x: torch.Tensor) -> bool:
    """Whether a layer's bias, normalisation and ReLU are one kernel."""
    return not torch.compiler.is_compiling() and is_fused(x)


def _elementwise(x: torch.Tensor) -> bool:
    return x.is_cpu and x.dtype != torch.bfloat16  # whose sums a matmul keeps in float32


class Actor(nn.Module):
    """Gaussian policy head: observation (B, obs_dim) -> mean and raw log std, each (B, A).

    Args:
        obs_dim: length of an observation.
        action_dim: length of an action.
        config: hidden_sizes, layer_norm and initial_std.
        generator: of the initial weights.
    """

    def __init__(
        self, obs_dim: int, action_dim: int, config: SACConfig, generator: torch.Generator
    ):
        super().__init__()
        sizes = (obs_dim, *config.hidden_sizes, 2 * action_dim)
        self.mlp = EnsembleMLP(1, sizes, generator, config.layer_norm)
        if config.initial_std is not None:  # of the action before its tanh, whatever is observed
            weight, bias = list(self.mlp.parameters())[-2:]
            weight.data.zero_()
            bias.data.zero_()
            bias.data[..., action_dim:] = math.log(config.initial_std)

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns mean and log_std; the clamp belongs to tanh_gaussian."""
        mean, log_std = self.mlp(obs)[0].chunk(2, dim=-1)
        return mean, log_std


class Critics(nn.Module):
    """An ensemble of Q networks: (B, obs_dim), (B, A) -> (E, B).

    With atoms a network's outputs are the logits of a distribution over returns (C51, arXiv
    1707.06887) and Q is its mean.

    Args:
        obs_dim: length of an observation.
        action_dim: length of an action.
        config: num_critics, hidden_sizes, layer_norm, num_atoms and the returns' range.
        generator: of the initial weights.

    Attributes:
        atoms: the support of the returns, or None where the outputs are Q itself.
    """

    def __init__(
        self, obs_dim: int, action_dim: int, config: SACConfig, generator: torch.Generator
    ):
        super().__init__()
        self.atoms = Atoms(config.num_atoms, *config.support) if config.num_atoms else None
        sizes = (obs_dim + action_dim, *config.hidden_sizes, config.num_atoms or 1)
        self.mlp = EnsembleMLP(config.num_critics, sizes, generator, config.layer_norm)

    def forward(self, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Returns every member's Q value (E, B)."""
        return self.values(self.mlp(obs, action))

    def values(self, output: torch.Tensor) -> torch.Tensor:
        """Returns Q (E, B) of the networks' output (E, B, N), N the number of atoms or 1."""
        return self.mean(self.distribution(output))

    def distribution(self, output: torch.Tensor) -> torch.Tensor:
        """Returns the atoms' probabilities (E, B, N); without atoms the output, Q itself."""
        return output if self.atoms is None else torch.softmax(output, dim=-1)

    def mean(self, distribution: torch.Tensor) -> torch.Tensor:
        """Returns Q (E, B) of a distribution (E, B, N)."""
        if self.atoms is None:
            return distribution[..., 0]
        values = self.atoms.values(distribution)
        if distribution.is_cpu:  # where a product's sums depend on the number of threads
            return (distribution * values).sum(dim=-1)
        return distribution @ values

    def by_output(
        self, distribution: torch.Tensor, q: torch.Tensor, by_q: torch.Tensor
    ) -> torch.Tensor:
        """Returns the gradient of the output (E, B, N) from that of Q (E, B), its mean."""
        if self.atoms is None:
            return by_q[..., None]
        z = self.atoms.values(distribution)
        return distribution * (z - q[..., None]) * by_q[..., None]
