"""Functions of fixed tensors that run as one CUDA graph on a GPU, and as they are elsewhere."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

# Before the capture, so that Triton compiles and cuBLAS allocates.
_EAGER_CALLS = 2


class GraphedCall:
    """A function without arguments, captured at its third call.

    The calls before are as real as those after it. The function reads and writes tensors that
    stay where they are, draws from the given generators alone, and never waits for the device.

    Args:
        function: returns a tensor or a tuple or dict of them; on a GPU they are the same memory
            at each call from the third on.
        device: where it runs; on a CPU nothing is captured.
        generators: what the function draws from.

    Attributes:
        captures: how many times the function was captured: 0, then 1.
    """

    def __init__(
        self,
        function: Callable[[], Any],
        device: torch.device,
        generators: Sequence[torch.Generator],
    ):
        self._function, self._device, self._generators = function, device, generators
        self._eager_calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._outputs: Any = None
        self.captures = 0

    def __call__(self) -> Any:
        """Runs the function."""
        if self._device.type != "cuda":
            return self._function()
        with torch.cuda.device(self._device):
            return self._on_a_gpu()

    def _on_a_gpu(self) -> Any:
        if self._eager_calls < _EAGER_CALLS:
            self._eager_calls += 1
            return self._on_a_side_stream()
        if self._graph is None:
            self._capture()
        assert self._graph is not None
        self._graph.replay()
        return self._outputs

    def _on_a_side_stream(self) -> Any:
        # As CUDA graphs ask of a warm-up.
        current, stream = torch.cuda.current_stream(), torch.cuda.Stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            outputs = self._function()
        current.wait_stream(stream)
        return outputs

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators:
            graph.register_generator_state(generator)
        # JAX's threads may call CUDA meanwhile; only this thread's calls would spoil the capture.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._outputs = self._function()
        self._graph = graph
        self.captures += 1
