"""Where a kernel does not compile or launch: torch's reference in its place, or the error.

Planted where Triton is called. Only a GPU shows what its compiler and driver raise, and that what
they report later than the launch ends the run.
"""

import logging
import sys

import pytest
import torch

from fastsac import kernels
from fastsac.kernels import compiler, strict_kernels
from fastsac.kernels.adam_polyak import AdamState
from tests.kernels.test_compiler import CALLS

KERNELS = ("_forward", "_backward", "_square_sums", "_count")


class Broken:
    """A kernel that Triton cannot compile."""

    def __getitem__(self, grid):
        def launch(*arguments, **constants):
            raise RuntimeError("Failed to find C compiler")

        return launch


@pytest.fixture(autouse=True)
def on_a_gpu(monkeypatch):
    """Kernels are tried, and none has failed before."""
    monkeypatch.setattr(compiler, "runs_on", lambda *_: True)
    monkeypatch.setattr(compiler, "_failed", set())


def broken(entry, monkeypatch, names=KERNELS):
    module = sys.modules[entry.__module__]
    for name in names:
        monkeypatch.setattr(module, name, Broken(), raising=False)
    return module


@pytest.mark.parametrize("name", CALLS)
def test_the_reference_takes_its_place_and_one_warning_names_the_cause(name, monkeypatch, caplog):
    entry = getattr(kernels, name)
    module = broken(entry, monkeypatch)
    results = []
    reference = "reference" + "_gradient" * ("gradient" in name)
    true = getattr(module, reference)
    monkeypatch.setattr(module, reference, lambda *x: results.append(true(*x)) or results[-1])
    with caplog.at_level(logging.WARNING, "fastsac"):
        for _ in range(3):
            CALLS[name](entry)
    assert len(results) == 3
    (warning,) = caplog.messages
    assert module.__name__ in warning and "RuntimeError: Failed to find C compiler" in warning


@pytest.mark.parametrize("name", CALLS)
def test_strictly_the_error_is_raised_each_time(name, monkeypatch, caplog):
    entry = getattr(kernels, name)
    broken(entry, monkeypatch)
    for _ in range(2):
        with strict_kernels(), pytest.raises(RuntimeError, match="C compiler"):
            CALLS[name](entry)
    assert not caplog.messages
    CALLS[name](entry)  # no longer strictly
    with strict_kernels(), pytest.raises(RuntimeError, match="C compiler"):
        CALLS[name](entry)


def test_one_that_failed_is_not_tried_again_and_others_are(monkeypatch):
    broken(kernels.polyak_, monkeypatch)
    tried = []
    CALLS["polyak_"](kernels.polyak_)
    for name in ("polyak_", "soft_td_target"):
        module = sys.modules[getattr(kernels, name).__module__]
        fused = lambda *_, name=name: tried.append(name)  # noqa: E731
        fused.__module__ = module.__name__
        monkeypatch.setattr(module, "fused", fused)
        CALLS[name](getattr(kernels, name))
    assert tried == ["soft_td_target"]


def test_memory_that_lacks_is_no_fault_of_the_kernel(monkeypatch, caplog):
    def fused(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(sys.modules[kernels.soft_td_target.__module__], "fused", fused)
    with pytest.raises(torch.OutOfMemoryError):
        CALLS["soft_td_target"](kernels.soft_td_target)
    assert not compiler._failed and not caplog.messages


@pytest.mark.parametrize("name", ["_square_sums", "_count", "_forward"])
def test_a_step_whose_kernel_fails_is_done_once(name, device, monkeypatch):
    """Whichever of the three launches fails, the reference finds all as it was."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda: torch.randn(70, generator=generator).to(device)  # noqa: E731
    rate, tau = torch.tensor(0.1, device=device), torch.tensor(0.5, device=device)
    parameter, gradient, target = draw(), draw(), draw()
    twins = [x.clone() for x in (parameter, gradient, target)]
    state, twin = AdamState.of(parameter), AdamState.of(parameter)
    module = broken(kernels.adam_polyak_, monkeypatch, [name])
    for _ in range(2):
        kernels.adam_polyak_(parameter, gradient, state, rate, 0.1, target, tau, False)
        module.reference(twins[0], twins[1], twin, rate, 0.1, twins[2], tau, False)
    assert state.step == 2 and state.skipped == 0
    for got, want in zip((parameter, gradient, target, *state), (*twins, *twin), strict=True):
        assert torch.equal(got, want)
