"""What a figure depends on besides the code."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import fastsac

_PACKAGES = ("torch", "triton", "jax", "mujoco", "mujoco-mjx", "warp-lang", "dm_control", "numpy")


def machine() -> dict[str, Any]:
    """Returns the hardware, versions, commit and date."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": gpu,
        "python": platform.python_version(),
        "versions": {
            "fastsac": fastsac.__version__,
            **{name: _version(name) for name in _PACKAGES},
        },
        "commit": _commit(),
        "date": datetime.date.today().isoformat(),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str:
    """The source tree's commit, "+" behind it where files differ from it."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():  # installed: a repository around it is somebody else's
        return "unknown"
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=+"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"
