"""What picks kernel or reference, and the memory that the tests of kernels hand out."""

import subprocess
import sys

import pytest
import torch

from fastsac import kernels
from fastsac.kernels import compiler
from fastsac.kernels.adam_polyak import AdamState
from fastsac.kernels.categorical_td_loss import Atoms, Transitions
from fastsac.kernels.compiler import cdiv, next_power_of_2, runs_on
from fastsac.kernels.norm_relu import NormReLU

ONE, X = torch.ones(()), torch.ones(1, 7, 2)
FIVE = (X[0, :, 0], X[0, :, 0], X[0, :, 0], ONE, ONE)
ATOMS = Atoms(2, -1.0, 1.0)
CALLS = {
    "adam_polyak_": lambda f: f(X.clone(), X.clone(), AdamState.of(X), ONE),
    "categorical_td_gradient": lambda f: f(X[..., 0], X, X, Transitions(*FIVE), ATOMS),
    "categorical_td_loss": lambda f: f(X, X, Transitions(*FIVE), ATOMS),
    "norm_relu": lambda f: f(X, X[:, :1], True),
    "norm_relu_gradient": lambda f: f(X, NormReLU(X, None)),
    "polyak_": lambda f: f(X.clone(), X, 0.5),
    "replay_gather": lambda f: f(torch.ones(2, 8), torch.zeros(3, dtype=torch.int64), 2),
    "soft_td_target": lambda f: f(*FIVE[:2], X[:, :, 0], *FIVE[2:]),
    "tanh_gaussian": lambda f: f(X[0], X[0], X[0]),
    "tanh_gaussian_gradient": lambda f: f(X[0], X[0], X[0], X[0], X[0, :, 0]),
}


def test_every_entry_is_called_here():
    functions = {name for name in kernels.__all__ if name[0].islower()}
    assert functions - {"strict_kernels"} == set(CALLS)


@pytest.mark.parametrize("picked", ["fused", "reference"])
@pytest.mark.parametrize("name", CALLS)
def test_the_public_entry_picks_by_device(name, picked, monkeypatch):
    entry, gradient = getattr(kernels, name), "_gradient" * ("gradient" in name)
    module, called = sys.modules[entry.__module__], []
    for implementation in ("fused", "reference"):
        record = lambda *_, implementation=implementation: called.append(implementation)  # noqa: E731
        monkeypatch.setattr(module, implementation + gradient, record)
    monkeypatch.setattr(compiler, "runs_on", lambda *_: picked == "fused")
    CALLS[name](entry)
    assert called == [picked]


def test_kernels_do_not_run_on_a_cpu():
    assert not runs_on(torch.ones(3)) and not runs_on(torch.ones(3, dtype=torch.float64))


@pytest.mark.gpu
def test_kernels_run_on_a_gpu_in_float32():
    assert runs_on(torch.ones(3, device="cuda"))
    assert not runs_on(torch.ones(3, device="cuda", dtype=torch.float64))
    assert not runs_on(torch.ones(3, device="cuda", dtype=torch.bfloat16))


def test_rounded_up():
    assert [cdiv(n, 4) for n in (0, 1, 4, 5, 8, 9)] == [0, 1, 1, 2, 2, 3]
    assert [next_power_of_2(n) for n in (1, 2, 3, 4, 5, 128, 129)] == [1, 2, 4, 4, 8, 128, 256]


def test_without_triton_the_entries_work():
    code = """
import sys
sys.modules["triton"] = None
import torch
from fastsac import kernels
x = torch.ones(2, 3)
print(kernels.tanh_gaussian(x, x, x)[0].shape, kernels.polyak_(x.clone(), x, 0.5).sum().item())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "torch.Size([2, 3]) 6.0", done.stderr


def test_unwritten_memory_is_nan_and_what_lies_behind_is_watched(unwritten):
    x = torch.ones(2, 3, dtype=torch.float64)
    made = torch.empty(5), torch.empty_like(x), x.new_empty(4, 1), x.new_empty((2,))
    assert all(tensor.isnan().all() for tensor in made)
    assert [(*t.shape, t.dtype) for t in made[1:]] == [
        (2, 3, x.dtype),
        (4, 1, x.dtype),
        (2, x.dtype),
    ]
    torch.as_strided(made[0], (1,), (1,), 5).fill_(0)
    assert not unwritten[0].isnan().all()
    unwritten.clear()
