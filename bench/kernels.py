"""Calls per second of each fused operation, forward and backward, beside torch's own ways.

The bytes are those of the tensors that an operation reads and writes, each once a pass, by hand
from their shapes.
"""

import dataclasses
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from fastsac.bench import device
from fastsac.bench.harness import Case
from fastsac.kernels import AdamState, Atoms, Transitions

_CRITICS = 2
_ATOMS = Atoms(101, -100.0, 100.0)
_OBS_DIM, _ACTION_DIM = 67, 21  # humanoid's
_SMALL_BATCH = 256
_QUICK = ("tanh_gaussian", "adam_polyak", "categorical_td_loss")  # at their first size
_WIDTH = 512  # of the hidden layers of preset fast
# Weights of two critics of 256-256 for cheetah.
_SMALL_SIZE = _CRITICS * sum((i + 1) * o for i, o in ((23, 256), (256, 256), (256, 1)))


@dataclasses.dataclass(frozen=True)
class _Operation:
    """A kernel at a size.

    Attributes:
        kernel: module of fastsac.kernels.
        size: label.
        bytes: moved in and out of memory by a call.
        arguments: makes those of the module's ``reference`` and ``fused``, on the device.
        plain: what torch.compile gets; None is ``reference``.
        pair: the plain function and the kernel's; None is ``reference`` and ``fused``.
    """

    kernel: str
    size: str
    bytes: int
    arguments: Callable[[], tuple[Any, ...]]
    plain: Callable[..., Any] | None = None
    pair: tuple[Callable[..., Any], Callable[..., Any]] | None = None

    @property
    def group(self) -> str:
        return f"{self.kernel} {self.size}"


def cases(quick: bool) -> list[Case]:
    """Each kernel at a size of training and at one that fills the device; if quick, three."""
    operations = _operations()
    if quick:
        operations = [next(o for o in operations if o.kernel == kernel) for kernel in _QUICK]
    return [case for operation in operations for case in _cases(operation)]


def _operations() -> list[_Operation]:
    large = torch.cuda.is_available()
    return [
        _tanh_gaussian(_SMALL_BATCH),
        _tanh_gaussian(1 << 20 if large else 1 << 14),
        _polyak(_SMALL_SIZE),
        _polyak(1 << 26 if large else 1 << 22),
        _adam_polyak(_SMALL_SIZE),
        _adam_polyak(1 << 26 if large else 1 << 22),
        _soft_td_target(_SMALL_BATCH),
        _soft_td_target(1 << 23 if large else 1 << 18),
        _categorical_td_loss(_SMALL_BATCH),
        _categorical_td_loss(1 << 13 if large else 1 << 10),
        _norm_relu(_SMALL_BATCH),
        _norm_relu(1 << 16 if large else 1 << 12),
        _replay_gather(_SMALL_BATCH, 1 << 20 if large else 1 << 16),
        _replay_gather(1 << 16 if large else 1 << 13, 1 << 20 if large else 1 << 16),
    ]


def _cases(operation: _Operation) -> list[Case]:
    module = importlib.import_module(f"fastsac.kernels.{operation.kernel}")
    labels = {
        "kernel": operation.kernel,
        "device": device.device_type(),
        "size": operation.size,
    }
    reference, fused = operation.pair or (module.reference, module.fused)
    compiled = operation.plain or reference
    variants = {
        "eager": partial(_open, operation, reference),
        "compile": partial(_open_compiled, operation, compiled, False),
    }
    if torch.cuda.is_available():
        variants |= {
            "compile+graph": partial(_open_compiled, operation, compiled, True),
            "ours": partial(_open, operation, fused),
            "ours+graph": partial(_open, operation, fused, graph=True),
        }
    # A CPU's caches make nothing of a copy's limit.
    on_gpu = torch.cuda.is_available()
    copy = device.copy_limit({**labels, "variant": "copy"}, operation.group, operation.bytes)
    return [
        *([copy] if on_gpu else []),
        *(
            Case(
                labels={**labels, "variant": variant},
                unit="calls",
                open=open_case,
                group=operation.group,
                baseline=variant == "eager",
                bytes=operation.bytes if on_gpu else None,
            )
            for variant, open_case in variants.items()
        ),
    ]


def _open(operation: _Operation, function: Callable[..., Any], graph: bool = False) -> Any:
    call = _call(function, operation.arguments())
    return device.in_graphs(call) if graph else device.repeated(call)


@contextmanager
def _open_compiled(
    operation: _Operation, function: Callable[..., Any], graph: bool
) -> Iterator[Callable[[], int]]:
    with device.compiling():
        # Static shapes: another size would otherwise get slower code that fits all sizes.
        with _open(operation, torch.compile(function, dynamic=False), graph) as work:
            yield work


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Callable[[], Any]:
    """Returns a forward pass, and the backward pass where an argument has a gradient."""
    inputs = [x for x in arguments if isinstance(x, torch.Tensor) and x.requires_grad]
    if not inputs:
        return partial(function, *arguments)
    outputs = function(*arguments)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    gradients = [torch.randn_like(x) for x in outputs]

    def call() -> None:
        outputs = function(*arguments)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        torch.autograd.grad(outputs, inputs, gradients)

    return call


def _normal(*shape: int) -> torch.Tensor:
    where = device.device_type()
    return torch.randn(shape, device=where, generator=torch.Generator(where).manual_seed(0))


def _scalar(value: float) -> torch.Tensor:
    return torch.tensor(value, device=device.device_type())


def _tanh_gaussian(batch: int) -> _Operation:
    def arguments() -> tuple[Any, ...]:
        mean, log_std, noise = _normal(3, batch, _ACTION_DIM)
        return mean.requires_grad_(), log_std.requires_grad_(), noise, -20.0, 2.0

    # Forward: mean, log_std, noise -> action, (B, A), and log_prob (B,). Backward: the same three,
    # and the gradients of the two -> those of mean and log_std.
    size = 4 * (10 * batch * _ACTION_DIM + 2 * batch)
    return _Operation("tanh_gaussian", f"{batch}x{_ACTION_DIM}", size, arguments)


def _polyak(size: int) -> _Operation:
    # target, source -> target.
    return _Operation(
        "polyak", f"{size}", 4 * 3 * size, lambda: (_normal(size), _normal(size), _scalar(0.005))
    )


def _adam_polyak(size: int) -> _Operation:
    def arguments() -> tuple[Any, ...]:
        parameter, gradient = _normal(size), _normal(size)
        # The gradient stays: at gradient 0 the moments would become denormal numbers, which are
        # slow on CPUs.
        state, rate, target = AdamState.of(parameter), _scalar(3e-4), parameter.clone()
        return parameter, gradient, state, rate, 0.0, target, _scalar(0.005), False

    # gradient; parameter, gradient, two moments, target -> all of them but the gradient.
    return _Operation("adam_polyak", f"{size}", 4 * 10 * size, arguments, plain=_adam_formula)


def _adam_formula(
    parameter: torch.Tensor,
    gradient: torch.Tensor,
    state: AdamState,
    learning_rate: torch.Tensor,
    weight_decay: float,
    target: torch.Tensor,
    tau: torch.Tensor,
    zero_gradient: bool,
) -> None:
    """AdamW and Polyak operation by operation: torch.compile cannot fuse torch's fused AdamW."""
    beta1, beta2, epsilon = 0.9, 0.999, 1e-8
    moves = gradient.square().sum().isfinite()
    state.step.add_(moves)
    state.skipped.add_(~moves)
    state.skipped_in_a_row.add_(1).mul_(~moves)
    m = torch.lerp(state.exp_avg, gradient, 1 - beta1)
    v = beta2 * state.exp_avg_sq + (1 - beta2) * gradient.square()
    rate = learning_rate / (1 - beta1**state.step)
    deviation = (v / (1 - beta2**state.step)).sqrt() + epsilon
    p = parameter * (1 - learning_rate * weight_decay) - rate * m / deviation
    old = (state.exp_avg, state.exp_avg_sq, parameter, target)
    for tensor, new in zip(old, (m, v, p, torch.lerp(target, p, tau)), strict=True):
        tensor.copy_(torch.where(moves, new, tensor))
    if zero_gradient:
        gradient.zero_()


def _moved(batch: int) -> tuple[torch.Tensor, ...]:
    """reward, terminated, next_log_prob (B,), alpha and discount ()."""
    reward, log_prob = _normal(2, batch)
    return reward, torch.zeros_like(reward), log_prob, _scalar(0.1), _scalar(0.99)


def _soft_td_target(batch: int) -> _Operation:
    def arguments() -> tuple[Any, ...]:
        reward, terminated, log_prob, alpha, discount = _moved(batch)
        return reward, terminated, _normal(_CRITICS, batch), log_prob, alpha, discount, "min"

    # reward, terminated, next_log_prob, a value of each critic -> target, each (B,).
    return _Operation("soft_td_target", f"{batch}", 4 * (4 + _CRITICS) * batch, arguments)


def _categorical_td_loss(batch: int) -> _Operation:
    def arguments() -> tuple[Any, ...]:
        logits, next_logits = _normal(2, _CRITICS, batch, _ATOMS.num)
        return logits.requires_grad_(), next_logits, Transitions(*_moved(batch)), _ATOMS, "min"

    # Forward: logits, next_logits (E, B, N), three of (B,) -> loss, log_sum (E, B), target (B, N).
    # Backward: logits, log_sum, target, the gradient of loss -> that of logits.
    floats = 4 * _CRITICS * batch * _ATOMS.num + 2 * batch * _ATOMS.num
    floats += 4 * _CRITICS * batch + 3 * batch
    size = f"{_CRITICS}x{batch}x{_ATOMS.num}"
    return _Operation("categorical_td_loss", size, 4 * floats, arguments)


def _norm_relu(batch: int) -> _Operation:
    norm_relu = importlib.import_module("fastsac.kernels.norm_relu")

    def arguments() -> tuple[Any, ...]:
        product, gradient = _normal(2, _CRITICS, batch, _WIDTH)
        return product, _normal(_CRITICS, 1, _WIDTH), gradient

    def both_of(forward: Callable[..., Any], backward: Callable[..., Any]) -> Callable[..., Any]:
        def both(product: torch.Tensor, bias: torch.Tensor, gradient: torch.Tensor) -> Any:
            activated, saved = forward(product, bias, True)
            # In an update other layers lie between: one program of both passes would keep saved in
            # registers.
            torch._dynamo.graph_break()
            return activated, backward(gradient, saved)

        return both

    # Forward: product, bias -> activated, normalized, each (E, B, H), and rstd (E, B).
    # Backward: gradient, normalized, rstd -> that of the product.
    floats = 6 * _CRITICS * batch * _WIDTH + _CRITICS * (_WIDTH + 2 * batch)
    pair = (
        both_of(norm_relu.reference, norm_relu.reference_gradient),
        both_of(norm_relu.fused, norm_relu.fused_gradient),
    )
    size = f"{_CRITICS}x{batch}x{_WIDTH}"
    return _Operation("norm_relu", size, 4 * floats, arguments, pair=pair)


def _replay_gather(batch: int, capacity: int) -> _Operation:
    width = 2 * _OBS_DIM + _ACTION_DIM + 4

    def arguments() -> tuple[Any, ...]:
        rows, mean, var = _normal(capacity, width), _normal(_OBS_DIM), _normal(_OBS_DIM).square()
        index = torch.rand(batch, device=rows.device, dtype=torch.float64) * capacity
        return rows, index.long(), _ACTION_DIM, mean, var

    # The index, int64, and its rows -> as many, normalised.
    return _Operation("replay_gather", f"{batch}x{width}", (8 + 2 * 4 * width) * batch, arguments)
