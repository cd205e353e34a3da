"""The one tolerance table of the tests, what they share, and settings of what compiles."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings

# Where there is no GPU, Triton's interpreter runs the kernels. Triton reads this at its import.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Whatever a test, its processes or the packages they use put into the temporary directory goes with
# this one. xdist's workers inherit it.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="fastsac-tests-")
    atexit.register(shutil.rmtree, os.environ["TMPDIR"], ignore_errors=True)
    tempfile.tempdir = None  # which pytest has asked for already

# What XLA, Warp and Inductor compile is shared by all tests and their processes; the user's caches
# are left alone; jax reads these at its import, the others when they start.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(os.environ["TMPDIR"], "xla"))
os.environ.setdefault("WARP_CACHE_PATH", os.path.join(os.environ["TMPDIR"], "warp"))
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.join(os.environ["TMPDIR"], "inductor"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# A third of the CPU time to compile an MJX step (reacher: 5.5 s for 19), whose runs here are short.
if not torch.cuda.is_available():
    os.environ.setdefault(
        "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    )

# What is compared: (relative, absolute). Expected values are computed in float64.
TOLERANCES: dict[str, tuple[float, float]] = {
    # torch's softplus is the identity above 20, which is off by exp(-20) = 2e-9.
    "float64": (1e-8, 1e-8),
    # Weights after Adam, which divides by gradients that may themselves be roundings (1e-13).
    "float64 weights": (1e-6, 1e-6),
    # One fused operation in float32: a few roundings of 6e-8.
    "float32": (1e-5, 1e-5),
    # Adam's second moment: torch's fused AdamW takes 1 - 0.999 in float32 on a GPU, 1.3e-5 off.
    "float32 squares": (2e-5, 1e-5),
    # A mean, a variance and their root over up to a thousand units.
    "float32 layer": (2e-5, 5e-6),
    # A place among 255 atoms in float32: a quotient up to 255, off by two roundings or 3e-5, which
    # a probability moves by.
    "float32 projection": (3e-5, 3e-5),
    # A thousand Adam steps: each rounds a weight below 4 by at most 1.2e-7, and float32's 0.999 is
    # off by 1.3e-8, which makes a second moment's decay over them, so its size, wrong by 1.3e-5.
    # Measured: 4e-6 to 4e-5, and torch's own 7e-6 to 9e-5.
    "float32 weights": (1e-4, 1.2e-4),
    # Losses and gradients in float32, through networks and means over a batch.
    "float32 network": (2e-4, 1e-6),
    # Weights that started as roundings of each other and were trained for a while.
    "float32 weights after 100 updates": (1e-3, 1e-4),
    # Matmuls of numbers with 8 bits: a part in 256 each, against values of order 1.
    "bf16 network": (0.1, 0.05),
    # A mean and a variance in float32, after up to a thousand updates.
    "running statistics": (1e-4, 1e-4),
}

# Small tensors: threads only wait for each other, 6 times slower on two busy cores.
torch.set_num_threads(1)

# The same examples in every run; no deadline, since CI machines stall.
settings.register_profile("fastsac", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("fastsac")


def _float64(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().double().numpy()  # numpy has no bfloat16
    return np.asarray(value, np.float64)


@pytest.fixture(scope="session")
def close() -> Callable[..., None]:
    """Returns close(actual, expected, kind): fails beyond the table's tolerance, and on NaN."""

    def check(actual: Any, expected: Any, kind: str, what: str = "") -> None:
        got, wanted = _float64(actual), _float64(expected)
        assert got.shape == wanted.shape, f"{what}: shape {got.shape}, expected {wanted.shape}"
        assert np.isfinite(wanted).all(), f"{what}: the expectation itself is not finite"
        rtol, atol = TOLERANCES[kind]
        np.testing.assert_allclose(got, wanted, rtol=rtol, atol=atol, equal_nan=False, err_msg=what)

    return check


@pytest.fixture(autouse=True)
def own_table_of_tasks(monkeypatch):
    """What a test registers is forgotten after it: another in its process may use the name."""
    from fastsac.envs import registry

    for table in ("_TASKS", "_FILES"):
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))


@pytest.fixture(scope="module")
def few_states_ahead():
    """Of lqr and quadruped_escape 80 take 8 s; no result depends on it (test_initial_states.py)."""
    from fastsac.envs import initial_states

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(initial_states, "_ROWS_A_JOB", 3)
        patch.setattr(initial_states, "_JOBS_AHEAD", 1)
        yield
