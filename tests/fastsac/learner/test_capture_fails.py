"""GraphedCall where a capture fails, on a stand-in for torch.cuda.

It has what torch does around a capture: what is launched meanwhile is recorded instead of done; a
capture that cannot be ended leaves its stream current (torch/cuda/graphs.py, graph.__exit__) and,
until torch 2.11, its generators refusing eager draws. That a real device goes on after such a
failure, and which errors it raises, only a GPU shows.
"""

import contextlib
import logging
import sys
from types import SimpleNamespace

import pytest
import torch

from fastsac import SAC, ReplayBuffer
from fastsac.kernels import compiler
from fastsac.learner.cuda_graph import Fallback, GraphedCall
from fastsac.training.presets import preset_config
from fastsac.training.state import TrainingState
from tests.kernels.test_fallback import Broken

DEVICE = torch.device("cuda", 0)


class Generator:
    """Counts its draws; while it is being captured, eager draws are refused."""

    def __init__(self, drawn=0):
        self.drawn, self.captured = drawn, False

    def clone_state(self):
        return Generator(self.drawn)

    def graphsafe_set_state(self, other):
        self.drawn, self.captured = other.drawn, other.captured


class Gpu:
    """In torch.cuda's place.

    Args:
        fails: where a capture fails: "register", "enter", "function", "end", or "" for nowhere.
    """

    def __init__(self, fails=""):
        self.fails, self.order, self.recording = fails, [], None
        self.main = self.current = self.Stream()

    def Stream(self):
        stream = SimpleNamespace()
        stream.wait_stream = lambda other: self.order.append((stream, other))
        return stream

    def launch(self, operation):
        """What a function does on the device."""
        if self.recording is None:
            operation()
        elif self.fails == "function":
            raise RuntimeError("operation not permitted when stream is capturing")
        else:
            self.recording.append(operation)

    def draw(self, generator):
        if self.recording is None and generator.captured:
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")

        def operation():
            generator.drawn += 1

        self.launch(operation)

    def device(self, device):
        return contextlib.nullcontext()

    def current_stream(self):
        return self.current

    def set_stream(self, stream):
        self.current = stream

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream
        yield
        self.current = before

    def CUDAGraph(self):
        graph = SimpleNamespace(operations=[], generators=[])

        def register(generator):
            if self.fails == "register":
                raise RuntimeError("cannot register")
            graph.generators.append(generator)

        graph.register_generator_state = register
        graph.replay = lambda: [operation() for operation in graph.operations]
        return graph

    @contextlib.contextmanager
    def graph(self, graph, stream, capture_error_mode):
        assert capture_error_mode == "thread_local"
        if self.fails == "enter":
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.current, before, self.recording = stream, self.current, graph.operations
        for generator in graph.generators:
            generator.captured = True
        try:
            yield
        finally:
            self.recording = None
            if self.fails in ("function", "end"):
                raise RuntimeError("Invalid capture.")
            for generator in graph.generators:
                generator.captured = False
            self.current = before


CAUSES = {
    "register": "RuntimeError: cannot register",
    "enter": "OutOfMemoryError: CUDA out of memory",
    "function": "RuntimeError: operation not permitted when stream is capturing",
    "end": "RuntimeError: Invalid capture",
}


class Counting:
    """A graphed call that adds 1 and draws once, and what a caller sees of it."""

    def __init__(self, gpu, monkeypatch, fallback, generator):
        self.gpu, self.total, self.generator = gpu, torch.zeros(()), generator
        self.call = GraphedCall(self.function, DEVICE, [generator], fallback)
        for name in ("device", "current_stream", "set_stream", "stream", "Stream", "CUDAGraph"):
            monkeypatch.setattr(torch.cuda, name, getattr(gpu, name))
        monkeypatch.setattr(torch.cuda, "graph", gpu.graph)

    def function(self):
        self.gpu.draw(self.generator)
        self.gpu.launch(lambda: self.total.add_(1))
        return self.total


@pytest.fixture
def counting(request, monkeypatch):
    return lambda gpu, fallback=None, generator=None: Counting(
        gpu, monkeypatch, fallback, generator or Generator()
    )


def test_without_a_failure_each_call_counts_on_one_stream_beside(counting, caplog):
    gpu = Gpu()
    one = counting(gpu)
    for number in range(1, 8):
        assert one.call() == number == one.total and one.generator.drawn == number
        assert gpu.current is gpu.main
    assert one.call.captures == 1 and not caplog.messages
    side = one.call._stream
    # Of the two eager calls: before, the stream waits for the caller; after, he for it.
    assert gpu.order == [(side, gpu.main), (gpu.main, side)] * 2


@pytest.mark.parametrize("fails", CAUSES)
def test_a_failed_capture_leaves_eager_calls_that_each_count_once(fails, counting, caplog):
    gpu = Gpu(fails)
    one = counting(gpu)
    with caplog.at_level(logging.WARNING, "fastsac"):
        for number in range(1, 8):
            assert one.call() == number == one.total and one.generator.drawn == number
            assert gpu.current is gpu.main
    assert one.call.captures == 0
    (warning,) = caplog.messages
    assert CAUSES[fails] in warning and "without CUDA graphs" in warning


def test_what_shares_the_fallback_goes_eager_too_and_the_draws_go_on(counting, caplog):
    """As acting, captured long before, when the updates' capture fails: they share a generator."""
    gpu, fallback, generator = Gpu(), Fallback(), Generator()
    acting, learning = (counting(gpu, fallback, generator) for _ in range(2))
    for _ in range(5):
        acting.call()
    gpu.fails = "function"
    for _ in range(4):
        learning.call()
        acting.call()
    assert (acting.total, learning.total, generator.drawn) == (9, 4, 13)
    assert fallback.eager and len(caplog.messages) == 1


@pytest.mark.parametrize("fails", CAUSES)
def test_strictly_it_raises_and_nothing_was_done(fails, counting, caplog):
    gpu = Gpu(fails)
    one = counting(gpu, Fallback(strict=True))
    one.call(), one.call()
    for _ in range(2):
        with pytest.raises(RuntimeError):
            one.call()
        assert one.total == one.generator.drawn == 2 and gpu.current is gpu.main
    gpu.fails = ""
    assert one.call() == 3 == one.generator.drawn and one.call.captures == 1
    assert not caplog.messages


@pytest.mark.parametrize("strict", [False, True])
def test_a_learners_strictness_is_its_kernels_too(strict, monkeypatch, caplog):
    monkeypatch.setattr(compiler, "runs_on", lambda *_: True)
    monkeypatch.setattr(compiler, "_failed", set())
    for name in ("adam_polyak", "replay_gather", "soft_td_target", "tanh_gaussian"):
        for kernel in ("_forward", "_square_sums"):
            module = sys.modules[f"fastsac.kernels.{name}"]
            monkeypatch.setattr(module, kernel, Broken(), raising=False)
    agent, replay = SAC(3, 2, strict=strict), ReplayBuffer(20, 3, 2)
    obs, action, reward = torch.rand(9, 3), torch.rand(9, 2), torch.rand(9)
    replay.add(obs, action, reward, torch.zeros(9), obs)
    doing = [lambda: agent.act(obs), lambda: agent.learn(replay, 4)]
    for do in doing:
        with (
            pytest.raises(RuntimeError, match="C compiler") if strict else contextlib.nullcontext()
        ):
            do()
    assert agent.updates == (0 if strict else 1)
    assert len(caplog.messages) == (0 if strict else 4)


@pytest.mark.parametrize("strict", [False, True])
def test_a_runs_flag_is_its_learners(strict):
    state = TrainingState(preset_config("pendulum_swingup", strict=strict, replay_capacity=10))
    state.close()
    assert state.agent._fallback.strict == strict
