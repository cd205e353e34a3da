"""The suite's tasks as batched environments over torch tensors."""

import ctypes.util
import importlib.util
import os

# The one place where the environment is set before jax and MuJoCo are imported. The user's own
# values win.
# - jax takes 75% of the GPU at its first use unless told otherwise; torch needs the rest.
# - without a display MuJoCo's default GL backend prints errors; EGL renders headless, and physics
#   needs none.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
    os.environ.setdefault("MUJOCO_GL", "egl" if ctypes.util.find_library("EGL") else "disabled")
# torch imports triton by itself, late. Where Mesa's EGL was loaded before it, the LLVM in
# triton 3.7 crashes the process; the other way round both work.
if os.environ.get("MUJOCO_GL") == "egl" and importlib.util.find_spec("triton"):
    importlib.import_module("triton")

from fastsac.envs.factory import ENGINES, EngineUnavailable, make  # noqa: E402
from fastsac.envs.registry import UnknownTask  # noqa: E402
from fastsac.envs.vector_env import VectorEnv  # noqa: E402

__all__ = ["ENGINES", "EngineUnavailable", "UnknownTask", "VectorEnv", "make"]
