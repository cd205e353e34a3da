"""Where physics and learner go: what jax and torch each see of a GPU, and where the two differ."""

import importlib.util
from typing import NamedTuple

import jax
import torch

from fastsac.forks import use

ENVIRONMENTS = "fastsac's environments"  # whose threads a fork loses
_GIVES_JAX_THE_GPU = "pip install 'fastsac[cuda]' gives jax the GPU"


class EngineUnavailable(ValueError):
    """An engine or device that this machine or task does not have."""


class Seen(NamedTuple):
    """What this process has.

    Attributes:
        jax_gpu: whether jax's default device is a GPU.
        torch_gpu: whether torch has a CUDA device.
        jax_cpu_wanted: whether JAX_PLATFORMS asks for the CPU, so that jax did not fall back to it.
    """

    jax_gpu: bool
    torch_gpu: bool
    jax_cpu_wanted: bool = False


class Choice(NamedTuple):
    """What make goes by.

    Attributes:
        engine: native, mjx or warp.
        device: as the user gave it; else cuda where auto found one for torch alone; None is the
            engine's own.
        warning: a sentence, where this is not what the machine could do.
    """

    engine: str
    device: str | torch.device | None
    warning: str | None = None


def choose(engine: str, device: str | torch.device | None, on_gpu: str | None, gpu: Seen) -> Choice:
    """Returns engine and device for what a user asked for.

    The most common wrong install is a jax for CPUs beside a torch with CUDA. There "auto" warns,
    takes the native engine and leaves the learner on the GPU; "mjx" and "warp" are refused, unless
    device is the CPU or JAX_PLATFORMS says so, since on a CPU they are for tests.

    Args:
        engine: auto, native, mjx or warp.
        device: the user's, or None.
        on_gpu: the engine that steps the task on a GPU, or None.
        gpu: what jax and torch see.

    Raises:
        EngineUnavailable: mjx or warp, and jax and torch are not on one device.
    """
    fell_back = gpu.torch_gpu and not gpu.jax_gpu and not gpu.jax_cpu_wanted
    if engine in ("mjx", "warp"):
        if gpu.jax_gpu and not gpu.torch_gpu:
            raise EngineUnavailable("jax has a GPU here and torch has none; use --engine native")
        if fell_back and (device is None or torch.device(device).type != "cpu"):
            raise EngineUnavailable(
                f"torch has a GPU here and jax only the CPU, where {engine} is for tests: "
                f"{_GIVES_JAX_THE_GPU}; or use --engine native"
            )
    if engine != "auto":
        return Choice(engine, device)
    if gpu.jax_gpu and gpu.torch_gpu and on_gpu:
        return Choice(on_gpu, device)
    warning = None
    if fell_back and on_gpu:
        warning = (
            "warning: torch has a GPU here and jax only the CPU, so C MuJoCo steps the worlds on "
            f"the CPU: {_GIVES_JAX_THE_GPU}"
        )
    elif gpu.jax_gpu and not gpu.torch_gpu:
        warning = (
            "warning: jax has a GPU here and torch none, so all runs on the CPU: install a torch "
            "with CUDA"
        )
    return Choice("native", "cuda" if device is None and gpu.torch_gpu else device, warning)


def has_warp() -> bool:
    """Returns whether warp-lang is installed, which the engine warp needs."""
    return importlib.util.find_spec("warp") is not None


def seen() -> Seen:
    """Returns what jax and torch see here.

    Raises:
        EngineUnavailable: jax does not start.
    """
    wanted = _platforms().split(",")[0] == "cpu"
    return Seen(jax_device().platform == "gpu", torch.cuda.is_available(), wanted)


def _platforms() -> str:
    """Returns JAX_PLATFORMS, or what the program set instead."""
    return jax.config.values["jax_platforms"] or ""


def jax_device() -> jax.Device:
    """Returns jax's default device.

    Raises:
        EngineUnavailable: jax does not start, as with JAX_PLATFORMS=cuda where there is no CUDA.
        RuntimeError: this process was forked from one that had jax's threads.
    """
    use(ENVIRONMENTS)
    try:
        return jax.devices()[0]
    except (AssertionError, RuntimeError) as error:  # the former is jax 0.10's, without a message
        raise EngineUnavailable(
            f"jax finds no device with JAX_PLATFORMS={_platforms()}: unset it, or "
            f"{_GIVES_JAX_THE_GPU}"
        ) from error


def require_jax_cpu() -> None:
    """Refuses a jax without the CPU, where the native engine observes and rewards.

    Raises:
        EngineUnavailable: JAX_PLATFORMS leaves it out.
    """
    jax_device()
    try:
        jax.devices("cpu")
    except RuntimeError as error:
        raise EngineUnavailable(
            f"the native engine needs jax's CPU, which JAX_PLATFORMS={_platforms()} leaves out: "
            f"set JAX_PLATFORMS={_platforms()},cpu"
        ) from error


def torch_device(device: jax.Device) -> torch.device:
    """Returns torch's name of a jax device: both count the GPUs that CUDA_VISIBLE_DEVICES shows."""
    if device.platform != "gpu":
        return torch.device("cpu")
    return torch.device("cuda", device.local_hardware_id)


def require_one_gpu(worlds: torch.device, learner: torch.device, current: int | None) -> None:
    """Refuses worlds and learner on two GPUs.

    Args:
        worlds: the engine's device.
        learner: where observations and actions live.
        current: torch's current CUDA device: torch exports only that one's tensors to jax.

    Raises:
        EngineUnavailable: they differ.
    """
    for other in (learner, torch.device("cuda", worlds.index if current is None else current)):
        if worlds.type == other.type == "cuda" and worlds != other:
            raise EngineUnavailable(
                f"the worlds run on {worlds}, jax's first GPU, and torch's tensors would be on "
                f"{other}: choose one GPU for both with CUDA_VISIBLE_DEVICES"
            )
