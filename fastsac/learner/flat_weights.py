"""A network's weights in one flat tensor, its optimizer, and the precision of its matmuls."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

from fastsac.forks import use
from fastsac.kernels import AdamState, adam_polyak_
from fastsac.learner.config import Precision
from fastsac.learner.peers import Peers

# Triton's launcher tells the compiler of sizes that 16 divides, and of no others; only then does
# the optimizer's kernel load and store 16 bytes at a time instead of 4.
_MULTIPLE = 16


class FlatWeights:
    """A module's parameters as views of one tensor.

    In memory it goes on with zeros to a multiple of 16 elements, and its gradient too.

    Args:
        module: its parameters are moved.
        working_dtype: of the copy that the module computes with; None computes with the weights
            themselves.

    Attributes:
        master: (P,) the weights, which the optimizer moves.
        gradient: (P,) for the optimizer, float32.
        gradients: its views, one a parameter.
        padded_master: master and the zeros behind it, which the optimizer takes.
        padded_gradient: likewise.
    """

    def __init__(self, module: nn.Module, working_dtype: torch.dtype | None = None):
        parts = [p.detach().reshape(-1) for p in module.parameters()]
        size = sum(map(len, parts))
        self.padded_master = torch.cat([*parts, parts[0].new_zeros(-size % _MULTIPLE)])
        self.padded_gradient = torch.zeros_like(self.padded_master)
        self.master, self.gradient = self.padded_master[:size], self.padded_gradient[:size]
        self._copy = None if working_dtype is None else self.padded_master.to(working_dtype)
        working = self.padded_master if self._copy is None else self._copy
        for p, view in zip(module.parameters(), _views(working[:size], module), strict=True):
            p.data = view
        self.gradients = _views(self.gradient, module)

    def publish(self) -> None:
        """Hands changed weights to the module."""
        if self._copy is not None:
            self._copy.copy_(self.padded_master)

    def state_dict(self) -> torch.Tensor:
        """The weights (P,), a copy."""
        return self.master.clone()

    def load_state_dict(self, state: torch.Tensor) -> None:
        """Restores what state_dict returned.

        Raises:
            ValueError: of a network of another shape.
        """
        _copy_same_shape(self.master, state)
        self.publish()


def _views(flat: torch.Tensor, module: nn.Module) -> list[torch.Tensor]:
    shapes = [p.shape for p in module.parameters()]
    parts = flat.split([shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


class Adam:
    """AdamW of one flat parameter, with the Polyak target that follows it.

    Args:
        parameter: (P,) moved in place.
        learning_rate: 0-d tensor on the device, read at each step.
        target: (P,) Polyak average of the parameter, or None.
        tau: 0-d tensor on the device, read at each step.
        weight_decay: decoupled, of a step's share learning_rate.
        size: how many of the P are weights, zeros the rest; None is all.
        peers: whose gradients are averaged with this one's; None is nobody.
    """

    def __init__(
        self,
        parameter: torch.Tensor,
        learning_rate: torch.Tensor,
        target: torch.Tensor | None = None,
        tau: torch.Tensor | None = None,
        weight_decay: float = 0.0,
        size: int | None = None,
        peers: Peers | None = None,
    ):
        self._peers = peers
        self._parameter, self._rate, self._target, self._tau = parameter, learning_rate, target, tau
        self._weight_decay, self._size = weight_decay, size
        self._state = AdamState.of(parameter)

    def step(self, gradient: torch.Tensor) -> None:
        """One step along gradient (P,), or none where that is not finite.

        With peers the gradient becomes the mean of theirs, so that all take the step or none.
        """
        if self._peers:
            self._peers.sum_(gradient)
            gradient.div_(self._peers.size)
        adam_polyak_(
            self._parameter,
            gradient,
            self._state,
            self._rate,
            self._weight_decay,
            target=self._target,
            tau=self._tau,
            zero_gradient=False,
        )

    @property
    def skipped(self) -> torch.Tensor:
        """Steps skipped because their gradient was not finite: a float32 scalar."""
        return self._state.skipped

    @property
    def skipped_in_a_row(self) -> torch.Tensor:
        """Those since the last step that was taken: a float32 scalar."""
        return self._state.skipped_in_a_row

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Moments of the weights and the numbers of steps, copies."""
        return {name: x.clone() for name, x in self._of_weights().items()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restores what state_dict returned.

        Raises:
            ValueError: of a parameter of another shape.
        """
        for name, own in self._of_weights().items():
            _copy_same_shape(own, state[name])

    def _of_weights(self) -> dict[str, torch.Tensor]:
        """The state without its padding."""
        parts = self._state._asdict().items()
        return {name: x[: self._size] if x.dim() else x for name, x in parts}


def _copy_same_shape(own: torch.Tensor, other: torch.Tensor) -> None:
    if own.shape != other.shape:
        raise ValueError(f"{tuple(other.shape)} weights do not fit a network of {tuple(own.shape)}")
    own.copy_(other)


def use_threads(device: torch.device) -> None:
    """Notes that torch's threads are used, where it has any.

    Raises:
        RuntimeError: they were left behind by a fork.
    """
    if device.type == "cpu" and torch.get_num_threads() > 1:
        use("torch's threads")


def working_dtype(precision: Precision, device: torch.device) -> torch.dtype | None:
    """Returns what FlatWeights shall compute with; warns where the device has no such units."""
    if device.type == "cuda" or precision == "float32":
        return torch.bfloat16 if precision == "bf16" else None
    if precision == "bf16" and cpu_multiplies_bf16():
        return torch.bfloat16
    warnings.warn(f"this CPU has no units for {precision} matmuls: using float32", stacklevel=3)
    return None


def cpu_multiplies_bf16() -> bool:
    """Whether this CPU has instructions for bf16 products (AMX or AVX512_BF16)."""
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


@contextmanager
def float32_matmuls(precision: Precision) -> Iterator[None]:
    """Sets what a GPU computes a float32 matmul within in: tf32 where asked for, else float32."""
    tf32 = precision == "tf32"
    set_to: Callable[[str], None]
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # the caller has used torch's newer setting, and torch allows no mixing
        matmul = torch.backends.cuda.matmul
        set_to, before = partial(setattr, matmul, "fp32_precision"), matmul.fp32_precision
        within = "tf32" if tf32 else "ieee"
    else:
        set_to, within = torch.set_float32_matmul_precision, "high" if tf32 else "highest"
    set_to(within)
    try:
        yield
    finally:
        set_to(before)
