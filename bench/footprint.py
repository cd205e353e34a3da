"""What setting a case up costs: seconds, of them compiling for JAX, and memory."""

import ctypes
import gc
import multiprocessing
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import torch

_COMPILING = "/jax/core/compile/"  # tracing, lowering and the backend's own compilation


class Footprint:
    """Counts over a case's setting up.

    Attributes:
        seconds: that it took.
        compile_seconds: of them JAX's.
        memory: bytes by which the process grew at the most, on the host.
        device_memory: the same of torch's and JAX's memory on the GPU; None without one.
    """

    def __init__(self) -> None:
        self.seconds = self.compile_seconds = 0.0
        self.memory: int | None = None
        self.device_memory: int | None = None

    def row(self) -> dict[str, float]:
        """Returns the columns of a bench row, megabytes rounded, without what was not measured."""
        columns = {
            "setup_s": round(self.seconds, 2),
            "compile_s": round(self.compile_seconds, 2) or None,
            "memory_mb": _megabytes(self.memory),
            "device_memory_mb": _megabytes(self.device_memory),
        }
        return {name: value for name, value in columns.items() if value is not None}


@contextmanager
def footprint(counted: Footprint) -> Iterator[None]:
    """Adds to counted what happens within."""

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event.startswith(_COMPILING):
            counted.compile_seconds += duration_secs

    before = _forget_peak()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()  # now what is held
    device_before = _device_bytes()
    jax.monitoring.register_event_duration_secs_listener(listen)
    start = time.perf_counter()
    try:
        yield
    finally:
        counted.seconds += time.perf_counter() - start
        jax.monitoring.unregister_event_duration_listener(listen)
    # Of a case with processes of its own this one's memory says nothing.
    if before is not None and not multiprocessing.active_children():
        counted.memory = max(0, (_status("VmHWM") or 0) - before)
    if device_before is not None and (after := _device_bytes()) is not None:
        counted.device_memory = sum(
            # JAX cannot forget its peak: below an earlier one, what is held now is all we know.
            (peak if peak > peak_before else held) - held_before
            for (held_before, peak_before), (held, peak) in zip(device_before, after, strict=True)
        )


def _forget_peak() -> int | None:
    """Begins a new peak of the host's memory and returns the bytes held; None if unknown."""
    if sys.platform != "linux":
        return None
    gc.collect()  # EnvPool's environments hold up to 6 GB each, in cycles of Python's objects
    try:  # else what earlier cases freed would be used again, uncounted
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:  # not glibc
        pass
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _status("VmRSS")


def _status(name: str) -> int | None:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    return None


def _device_bytes() -> list[tuple[int, int]] | None:
    """Returns bytes held and at the peak, of torch and of JAX; None without a GPU."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.synchronize()
    stats = jax.devices()[0].memory_stats() or {}
    of_jax = stats.get("bytes_in_use", 0), stats.get("peak_bytes_in_use", 0)
    return [(torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()), of_jax]


def _megabytes(size: int | None) -> float | None:
    return None if size is None else round(size / 1e6, 1)
