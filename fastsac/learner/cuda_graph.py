"""Functions of fixed tensors that run as one CUDA graph on a GPU, and as they are elsewhere.

What is said of torch was read in its sources, of 2.13 where no other is named.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch

# Before the capture, so that Triton compiles and cuBLAS allocates.
_EAGER_CALLS = 2


class Fallback:
    """What a learner's graphed calls share: whether they are captured at all.

    Args:
        strict: a capture that fails raises; otherwise all calls run eagerly from then on.

    Attributes:
        eager: a capture has failed.
    """

    def __init__(self, strict: bool = False):
        self.strict, self.eager = strict, False


class GraphedCall:
    """A function without arguments, captured at its third call.

    The calls before are as real as those after it. The function reads and writes tensors that
    stay where they are, draws from the given generators alone, and never waits for the device.

    Args:
        function: returns a tensor or a tuple or dict of them; of a captured one they are the same
            memory at each call.
        device: where it runs; on a CPU nothing is captured.
        generators: what the function draws from.
        fallback: shared with calls that use the same generators; None is one of its own.

    Attributes:
        captures: how many times the function was captured: 0, then 1.
    """

    def __init__(
        self,
        function: Callable[[], Any],
        device: torch.device,
        generators: Sequence[torch.Generator],
        fallback: Fallback | None = None,
    ):
        self._function, self._device, self._generators = function, device, generators
        self._fallback = fallback or Fallback()
        self._eager_calls = 0
        self._stream: torch.cuda.Stream | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._outputs: Any = None
        self.captures = 0

    def __call__(self) -> Any:
        """Runs the function.

        Raises:
            Exception: of a strict fallback, what its capture failed of; the function has not run.
        """
        if self._device.type != "cuda":
            return self._function()
        with torch.cuda.device(self._device):
            return self._on_a_gpu()

    def _on_a_gpu(self) -> Any:
        if self._fallback.eager:
            return self._function()
        if self._stream is None:
            self._stream = torch.cuda.Stream()
        if self._eager_calls < _EAGER_CALLS:
            self._eager_calls += 1
            return self._on_a_side_stream(self._stream)
        if self._graph is None:
            self._graph = self._captured(self._stream)
        if self._graph is None:
            return self._function()
        self._graph.replay()
        return self._outputs

    def _on_a_side_stream(self, stream: torch.cuda.Stream) -> Any:
        # As CUDA graphs ask of a warm-up. Its outputs are the stream's memory: the caller, who
        # reads them on the current one, needs no record_stream, for what is freed is given only to
        # this stream again, which waits for the current one first.
        current = torch.cuda.current_stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            outputs = self._function()
        current.wait_stream(stream)
        return outputs

    def _captured(self, stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph | None:
        """Captures the function, which does not run it; None where that failed."""
        current, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
        cause: Exception | None = None
        try:
            for generator in self._generators:
                # Its offset is a tensor that each replay fills, and moves on by what the graph
                # draws, as eager calls would (ATen/cuda/CUDAGeneratorImpl.h, "CUDA Graph-safe RNG
                # states"). Until 2.11 one that is not registered raises (CUDAGeneratorImpl.cpp,
                # CUDAGeneratorState::increase).
                graph.register_generator_state(generator)
            # What is allocated meanwhile comes from a pool that the graph has for itself, so
            # nothing else writes there while the graph lives (ATen/cuda/CUDAGraph.cpp,
            # capture_begin and reset; CUDACachingAllocator.cpp, "Interaction with CUDA graph
            # capture").
            # JAX's threads may call CUDA meanwhile: "thread_local will only error for actions in
            # the current thread" (torch/cuda/graphs.py, CUDAGraph.capture_begin).
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                try:
                    self._outputs = self._function()
                except Exception as error:
                    cause = error  # what ending the capture then raises hides it
                    raise
        except Exception as error:
            self._recover(current)
            if self._fallback.strict:
                raise
            self._fallback.eager = True
            cause = cause or error
            logging.getLogger("fastsac").warning(
                "the learner's updates and actions run without CUDA graphs, more slowly: capturing "
                "failed with %s: %s",
                type(cause).__name__,
                cause,
            )
            return None
        self.captures += 1
        return graph

    def _recover(self, current: torch.cuda.Stream) -> None:
        """Undoes what a failed capture leaves behind.

        Not all: CUDAGraph.capture_end raises before it gives up its pool, so that a call's worth of
        memory stays reserved.
        """
        self._outputs = None
        # torch.cuda.graph.__exit__ leaves its stream only if ending the capture did not raise.
        torch.cuda.set_stream(current)
        for generator in self._generators:
            # Until 2.11 the state remembers that it is being captured, until a capture ends well
            # (CUDAGeneratorImpl.cpp, capture_prologue and capture_epilogue), and eager draws raise.
            # A clone has the seed and the offset, which a capture does not move.
            generator.graphsafe_set_state(generator.clone_state())
