"""The checks of doctor --gpu on the CPU: each passes, and each fails with a fault planted in it."""

import importlib
import importlib.util
import json
import os
from pathlib import Path

import pytest
import torch

import fastsac
from fastsac import ReplayBuffer, SACConfig, kernels
from fastsac.errors import ConfigError
from fastsac.learner.cuda_graph import GraphedCall
from fastsac.show import gpu_checks
from fastsac.training.presets import preset_config

CPU = torch.device("cpu")
KERNELS = [f.stem for f in Path(kernels.__path__[0]).glob("*.py")]
KERNELS = sorted({*KERNELS} - {"__init__", "compiler"})
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton")
interpreted = pytest.mark.skipif(not INTERPRETED, reason="no Triton interpreter")


def test_there_is_a_check_of_every_kernel_and_of_its_gradient():
    named = [c.name for c in gpu_checks.CHECKS]
    assert [n.removeprefix("kernel ") for n in named if n.startswith("kernel")] == KERNELS
    for name, calls in gpu_checks.kernel_calls(CPU, 3).items():
        module = vars(importlib.import_module(f"fastsac.kernels.{name}"))
        assert {n.removeprefix("reference") for n in module if n.startswith("reference")} == {
            *calls
        }


@pytest.mark.gpu
@pytest.mark.parametrize("check", gpu_checks.CHECKS, ids=lambda check: check.name)
def test_on_a_gpu(check):
    assert check.function(torch.device("cuda", torch.cuda.current_device()))


def test_an_error_is_a_line_and_the_others_go_on(monkeypatch, capsys):
    def fails(device):
        raise RuntimeError(f"two\nlines about {device}")

    checks = [gpu_checks.Check(f.__name__, f, "") for f in (gpu_checks.dlpack, fails, str)]
    monkeypatch.setattr(gpu_checks, "CHECKS", [checks[2], *checks])
    gpu_checks.run_from(1, "cpu")
    lines = [x.removeprefix(gpu_checks.RESULT) for x in capsys.readouterr().out.splitlines()]
    assert [json.loads(x) for x in lines] == [
        [True, "equal pointers from torch to jax and from jax to torch"],
        [False, "RuntimeError: two lines about cpu"],
        [True, "cpu"],
    ]


@interpreted
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_and_one_percent(name, monkeypatch):
    assert gpu_checks.kernel(name, CPU, batch=3).startswith("agrees with torch ")
    module = importlib.import_module(f"fastsac.kernels.{name}")
    for ending in gpu_checks.kernel_calls(CPU, 3)[name]:
        exact = getattr(module, f"reference{ending}")

        def planted(*arguments, exact=exact):
            found = exact(*arguments)
            # What it returns, or else writes to.
            next(gpu_checks._tensors(found), arguments[0]).mul_(1.01)
            return found

        with monkeypatch.context() as patch:
            patch.setattr(module, f"reference{ending}", planted)
            with pytest.raises(AssertionError, match=f"fused{ending} is off by"):
                gpu_checks.kernel(name, CPU, batch=3)


def test_nan_is_no_agreement(monkeypatch):
    module = importlib.import_module("fastsac.kernels.polyak")
    monkeypatch.setattr(module, "fused", lambda target, *_: target.fill_(torch.nan))
    with pytest.raises(AssertionError, match="off by nan"):
        gpu_checks.kernel("polyak", CPU, batch=3)


def test_dlpack_and_copies_either_way(monkeypatch):
    assert gpu_checks.dlpack(CPU) == "equal pointers from torch to jax and from jax to torch"
    view, array = gpu_checks.to_torch, gpu_checks.to_jax
    monkeypatch.setattr(gpu_checks, "to_torch", lambda x: view(x).clone())
    with pytest.raises(AssertionError, match="copied from jax to torch"):
        gpu_checks.dlpack(CPU)
    monkeypatch.setattr(gpu_checks, "to_jax", lambda x: array(x.clone()))
    with pytest.raises(AssertionError, match="copied from torch to jax"):
        gpu_checks.dlpack(CPU)


def test_versions_and_the_device_of_jax(monkeypatch):
    assert "jax " in gpu_checks.versions(CPU) and "triton " in gpu_checks.versions(CPU)
    assert gpu_checks.jax_is_there(CPU) == "jax and torch are both on cpu"
    with pytest.raises(AssertionError, match="jax runs on cpu, torch on cuda:0"):
        gpu_checks.jax_is_there(torch.device("cuda", 0))
    monkeypatch.setattr(gpu_checks, "_PACKAGES", ("no-such-package",))
    with pytest.raises(ModuleNotFoundError, match="no-such-package"):
        gpu_checks.versions(CPU)


def test_memory_against_the_plan(monkeypatch):
    monkeypatch.setattr(gpu_checks, "_LARGE", "pendulum_swingup")
    assert "pendulum_swingup --preset fast plans " in gpu_checks.memory(CPU)
    monkeypatch.setattr("fastsac.training.memory_plan.free_bytes", lambda _: 10**6)
    with pytest.raises(ConfigError, match="0.00 GB are free"):
        gpu_checks.memory(CPU)


class Forgetful(GraphedCall):
    """A graph whose replays do nothing."""

    def __call__(self):
        self._eager_calls += 1
        return super().__call__() if self._eager_calls <= 3 else None


@pytest.mark.filterwarnings("ignore:this CPU has no units")
def test_updates_in_a_graph(monkeypatch):
    assert gpu_checks.captured_update(CPU).endswith("eager ones agree to the last bit")
    monkeypatch.setattr(gpu_checks, "GraphedCall", Forgetful)
    with pytest.raises(AssertionError, match="weights after 6 updates differ by"):
        gpu_checks.captured_update(CPU)


@pytest.mark.filterwarnings("ignore:this CPU has no units")
def test_updates_that_fell_back_to_eager_ones_are_no_graph(monkeypatch):
    class Captured(GraphedCall):
        def __call__(self):
            self.captures = 1
            return super().__call__()

    monkeypatch.setattr(gpu_checks, "GraphedCall", Captured)  # on a CPU it must not be
    with pytest.raises(AssertionError, match="were not captured"):
        gpu_checks.captured_update(CPU)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["warp", "mjx"])
def test_the_compiled_step(engine):
    pytest.importorskip(engine if engine == "warp" else "mujoco.mjx")
    said = gpu_checks.compiled_step(engine, CPU, num_envs=4, steps=3)
    assert said.startswith("3 steps of 4 pendulums agree with C MuJoCo within ")


@pytest.mark.parametrize(
    "fault, sentence",
    [
        ({}, None),
        ({"seed": 1}, "step 1 differs from C MuJoCo's by"),
        ({"reward": 1.0}, "the reward of step 1 is another in 100.0% of worlds"),
    ],
    ids=["none", "another state", "another reward"],
)
def test_what_differs_from_the_native_engine(monkeypatch, fault, sentence):
    """In the place of MJX, which takes seconds to compile, the native engine itself."""

    def make(task, num_envs, engine, device):
        env = fastsac.make(task, num_envs, "native")
        if engine == "mjx":
            reset, step = env.reset, env.step
            env.reset = lambda seed: reset(seed=seed + fault.get("seed", 0))
            plus = fault.get("reward", 0.0)
            env.step = lambda a: (lambda obs, r, *rest: (obs, r + plus, *rest))(*step(a))
        return env

    monkeypatch.setattr(gpu_checks, "make", make)
    if sentence is None:
        assert gpu_checks.compiled_step("mjx", CPU, 4, 3).endswith(
            "agree with C MuJoCo to the last bit"
        )
        return
    with pytest.raises(AssertionError, match=sentence):
        gpu_checks.compiled_step("mjx", CPU, 4, 3)


def test_throughput(monkeypatch, tmp_path):
    config = preset_config(
        "pendulum_swingup",
        num_envs=4,
        engine="native",
        device="cpu",
        updates_per_step=2,
        batch_size=8,
        learning_starts=40,
        replay_capacity=10_000,
        sac=SACConfig(hidden_sizes=(8, 8)),
    )
    monkeypatch.chdir(tmp_path)
    said = gpu_checks.throughput(CPU, config, seconds=0.2)
    numbers = [float(x.replace(",", "")) for x in said.split() if x[0].isdigit()]
    assert "measured now" in said and numbers[0] > 100 and numbers[1] > 10
    assert numbers[0] == pytest.approx(2 * numbers[1], rel=0.1)  # 4 steps to 2 updates
    assert not list(tmp_path.iterdir())
    sample = ReplayBuffer.sample
    poisoned = lambda *a: (lambda batch: batch._replace(reward=batch.reward / 0))(sample(*a))  # noqa: E731
    monkeypatch.setattr(ReplayBuffer, "sample", poisoned)
    with pytest.raises(AssertionError, match="updates were skipped"):
        gpu_checks.throughput(CPU, config, seconds=0.0)
