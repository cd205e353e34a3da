"""The suite's tasks as batched environments over torch tensors."""

import importlib.util
import os

from fastsac.envs import opengl

# The one place where the environment is set before jax and MuJoCo are imported. The user's own
# values win, but for an OpenGL that is not here, which would end programs that draw nothing.
# - jax takes 75% of the GPU at its first use unless told otherwise; torch needs the rest.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
NO_OPENGL = opengl.choose()  # why, or ""
# torch imports triton by itself, late. Where Mesa's EGL was loaded before it, the LLVM in
# triton 3.7 crashes the process; the other way round both work.
if os.environ.get("MUJOCO_GL") == "egl" and importlib.util.find_spec("triton"):
    importlib.import_module("triton")
NO_OPENGL = opengl.load() or NO_OPENGL

from fastsac.envs.factory import ENGINES, EngineUnavailable, make  # noqa: E402
from fastsac.envs.registry import UnknownTask  # noqa: E402
from fastsac.envs.vector_env import VectorEnv  # noqa: E402

__all__ = ["ENGINES", "NO_OPENGL", "EngineUnavailable", "UnknownTask", "VectorEnv", "make"]
