"""Calls timed on a device: repeated, in CUDA graphs, and beside what the device can do."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import torch

from fastsac.bench.harness import Case, Unavailable
from fastsac.learner.config import Precision
from fastsac.learner.flat_weights import float32_matmuls

SECONDS_PER_REPETITION = 0.1
# A graph is launched in about 5 us; in that of a whole update a call costs less than that.
CALLS_PER_GRAPH = 20
# The first call compiles, and with a compiled optimizer the second one again: it has moments then.
_WARM_UP_CALLS = 5


def device_type() -> str:
    """Returns cuda where there is a GPU, else cpu."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def require_one() -> None:
    """Raises Unavailable where JAX and torch are on different devices."""
    if (jax.default_backend() != "cpu") != torch.cuda.is_available():
        raise Unavailable(f"jax runs on {jax.default_backend()}, torch on {device_type()}")


@contextmanager
def repeated(call: Callable[[], Any], units: int = 1) -> Iterator[Callable[[], int]]:
    """Yields work: as many calls of that many units as fill a repetition, waited for once."""

    def work(calls: int) -> int:
        for _ in range(calls):
            call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return calls * units

    def seconds(calls: int) -> float:
        start = time.perf_counter()
        work(calls)
        return time.perf_counter() - start

    work(_WARM_UP_CALLS)
    calls = 1
    while (taken := seconds(calls)) < SECONDS_PER_REPETITION / 10:
        calls *= 4
    yield partial(work, max(1, round(calls * SECONDS_PER_REPETITION / taken)))


def captured(call: Callable[[], Any], calls: int = 1) -> Callable[[], None]:
    """Returns what replays a CUDA graph of that many calls; they read and write fixed tensors."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    # One stream for all: autograd's accumulation must not wait for another one in the capture.
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP_CALLS):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        for _ in range(calls):
            call()
    # What the call holds is the memory that the graph reads and writes.
    return partial(_replay, graph, call)


def _replay(graph: torch.cuda.CUDAGraph, _: Callable[[], Any]) -> None:
    graph.replay()


@contextmanager
def compiling() -> Iterator[None]:
    """Within it torch.compile works as wanted or fails, and at its end forgets what it compiled.

    By default a function's ninth version is silently left uncompiled, and all variants' optimizers
    share their functions.
    """
    options = torch._dynamo.config.patch(recompile_limit=64, fail_on_recompile_limit_hit=True)
    with options:
        try:
            yield
        finally:
            torch._dynamo.reset()


def in_graphs(call: Callable[[], Any], units: int = 1) -> Any:
    """Opens calls with no launch cost: captured on a GPU, as they are on a CPU."""
    if not torch.cuda.is_available():
        return repeated(call, units)
    return repeated(captured(call, CALLS_PER_GRAPH), CALLS_PER_GRAPH * units)


def copy_limit(labels: dict[str, Any], group: str, size: int) -> Case:
    """The bytes per second of a copy that moves size bytes, half of them in and half out.

    As many as the group's other cases move: what fits a cache is held against that cache.
    A CPU also reads what it overwrites, uncounted: operations in place can pass this limit there.
    """
    return Case(labels, "bytes", partial(_open_copy, max(1, size // 8)), group)


def matmul_limit(
    labels: dict[str, Any], group: str, batch: int, width: int, precision: Precision
) -> Case:
    """The flops per second of (batch, width) @ (width, width); labels must name the precision."""
    return Case(labels, "flops", partial(_open_matmul, batch, width, precision), group)


def _open_copy(elements: int) -> Any:
    source = torch.ones(elements, device=device_type())
    return in_graphs(partial(torch.empty_like(source).copy_, source), 8 * elements)


def _open_matmul(batch: int, width: int, precision: Precision) -> Any:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    x = torch.randn(batch, width, device=device_type()).to(dtype)
    w = torch.randn(width, width, device=device_type()).to(dtype)
    multiply = partial(torch.mm, x, w, out=torch.empty_like(x))
    with float32_matmuls(precision):
        # On a GPU this captures: the graph keeps the precision.
        return in_graphs(multiply, 2 * batch * width * width)
