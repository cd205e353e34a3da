"""Which engine and device a user gets, on machines that are not this one."""

from types import SimpleNamespace

import jax
import pytest
import torch

import fastsac
from fastsac.envs import EngineUnavailable, devices, factory
from fastsac.envs.devices import (
    Choice,
    Seen,
    choose,
    jax_device,
    require_jax_cpu,
    require_one_gpu,
    torch_device,
)
from fastsac.envs.registry import find

NOTHING, BOTH = Seen(False, False), Seen(True, True)
WRONG_JAX, WRONG_TORCH = Seen(False, True), Seen(True, False)
CPU_WANTED = Seen(False, True, jax_cpu_wanted=True)
GPU = [torch.device("cuda", i) for i in range(2)]
CPU = torch.device("cpu")
TASK = find("cartpole_balance")


def test_where_jax_and_torch_agree_nothing_is_said():
    assert choose("auto", None, "warp", NOTHING) == Choice("native", None)
    assert choose("auto", None, "warp", BOTH) == Choice("warp", None)
    assert choose("auto", CPU, "mjx", BOTH) == Choice("mjx", CPU)
    assert choose("auto", None, None, BOTH) == Choice("native", "cuda")  # the dogs
    for gpu in (NOTHING, BOTH):
        assert choose("mjx", None, "mjx", gpu) == Choice("mjx", None)


@pytest.mark.parametrize("gpu", [NOTHING, BOTH, WRONG_JAX, WRONG_TORCH, CPU_WANTED])
def test_native_is_native(gpu):
    assert choose("native", None, "mjx", gpu) == Choice("native", None)
    assert choose("native", GPU[0], "mjx", gpu) == Choice("native", GPU[0])


def test_a_jax_that_fell_back_to_the_cpu_is_named_and_the_learner_keeps_the_gpu():
    engine, device, warning = choose("auto", None, "warp", WRONG_JAX)
    assert (engine, device) == ("native", "cuda")
    assert "jax only the CPU" in warning and "pip install 'fastsac[cuda]'" in warning
    assert choose("auto", CPU, "mjx", WRONG_JAX)[:2] == ("native", CPU)
    assert choose("auto", None, None, WRONG_JAX) == Choice("native", "cuda")  # no loss


def test_mjx_is_not_silently_on_the_cpu():
    for device in (None, GPU[0], "cuda"):
        with pytest.raises(EngineUnavailable, match=r"fastsac\[cuda\].*--engine native"):
            choose("mjx", device, "mjx", WRONG_JAX)
    assert choose("mjx", CPU, "mjx", WRONG_JAX) == Choice("mjx", CPU)


def test_a_jax_that_is_wanted_on_the_cpu_is_no_mistake():
    assert choose("auto", None, "warp", CPU_WANTED) == Choice("native", "cuda")
    assert choose("mjx", None, "mjx", CPU_WANTED) == Choice("mjx", None)


def test_a_torch_without_cuda_is_named():
    engine, device, warning = choose("auto", None, "warp", WRONG_TORCH)
    assert (engine, device) == ("native", None) and "torch none" in warning
    with pytest.raises(EngineUnavailable, match="torch has none; use --engine native"):
        choose("mjx", None, "mjx", WRONG_TORCH)


def test_make_goes_by_it(monkeypatch, caplog):
    monkeypatch.setattr("fastsac.envs.factory.seen", lambda: WRONG_JAX)
    with pytest.raises(EngineUnavailable, match="where mjx is for tests"):
        fastsac.make("cartpole_balance", engine="mjx")
    env = fastsac.make("cartpole_balance", device="cpu")
    env.close()
    assert env.engine_name == "native" and env.device == CPU
    [said] = caplog.records
    assert said.getMessage().startswith("warning: torch has a GPU here and jax only the CPU")


def test_auto_goes_on_where_an_engine_cannot_hold_a_model(monkeypatch, caplog):
    built = factory._built

    def only_native(name, *arguments):
        if name != "native":
            raise EngineUnavailable(f"{name} cannot hold it")
        return built(name, *arguments)

    monkeypatch.setattr(factory, "seen", lambda: BOTH)
    monkeypatch.setattr(factory, "_built", only_native)
    env = fastsac.make("cartpole_balance", device="cpu")
    env.close()
    assert env.engine_name == "native"
    said = [record.getMessage() for record in caplog.records]
    assert said[-1] == "warning: mjx cannot hold it" and len(said) == len([*factory._on_gpu(TASK)])
    for engine in ("warp", "mjx"):
        with pytest.raises(EngineUnavailable, match=f"{engine} cannot hold it"):
            fastsac.make("cartpole_balance", engine=engine, device="cpu")


def test_a_jax_that_does_not_start_is_one_sentence(monkeypatch):
    def fails(*_):
        raise AssertionError  # jax 0.10 with JAX_PLATFORMS=cuda and no CUDA

    monkeypatch.setattr(jax, "devices", fails)
    for engine in ("auto", "native", "mjx"):
        with pytest.raises(EngineUnavailable, match="jax finds no device with JAX_PLATFORMS="):
            fastsac.make("cartpole_balance", engine=engine)


def test_a_jax_without_the_cpu_is_one_sentence(monkeypatch):
    here = jax.devices()

    def no_cpu(backend=None):
        if backend == "cpu":
            raise RuntimeError("Unknown backend cpu")
        return here

    monkeypatch.setattr(jax, "devices", no_cpu)
    monkeypatch.setattr(devices, "_platforms", lambda: "cuda")
    assert jax_device() == here[0]
    with pytest.raises(EngineUnavailable, match="set JAX_PLATFORMS=cuda,cpu"):
        require_jax_cpu()


def test_a_jax_gpu_has_torchs_number():
    assert torch_device(SimpleNamespace(platform="gpu", local_hardware_id=1)) == GPU[1]
    assert torch_device(jax.devices("cpu")[0]) == CPU


def test_worlds_and_learner_on_two_gpus_are_refused():
    require_one_gpu(CPU, CPU, None)
    require_one_gpu(CPU, GPU[1], None)
    require_one_gpu(GPU[0], CPU, 0)
    require_one_gpu(GPU[1], GPU[1], 1)
    for learner, current in ((GPU[1], 0), (GPU[0], 1), (CPU, 1)):
        with pytest.raises(EngineUnavailable, match="on cuda:0, .* cuda:1: .*CUDA_VISIBLE_DEVICES"):
            require_one_gpu(GPU[0], learner, current)
