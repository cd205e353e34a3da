"""What ``fastsac doctor`` prints: versions, devices, engines, rendering, and what is missing."""

import importlib.metadata
import os
import platform
import subprocess
import sys

_PACKAGES = ("torch", "triton", "jax", "jaxlib", "mujoco", "mujoco-mjx", "dm_control", "numpy")
_GL_PACKAGES = {"egl": "libegl1 libgl1-mesa-dri", "osmesa": "libosmesa6"}
_RENDER = """
import mujoco, numpy
model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><light pos="0 0 3"/>'
    '<geom type="sphere" size="1" rgba="1 0 0 1"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 32, 32) as renderer:
    renderer.update_scene(data)
    assert renderer.render().std() > 0
"""
_ENGINE = """
import fastsac, torch
env = fastsac.make("pendulum_swingup", num_envs=2, engine="{engine}")
env.reset()
reward = env.step(torch.zeros(2, 1, device=env.device))[1]
assert torch.isfinite(reward).all()
print(env.device)
"""


def print_report() -> None:
    """Prints what works here; each engine and GL backend is tried in a process of its own."""
    print(f"python      {platform.python_version()} on {platform.machine()} {platform.system()}")
    for name in _PACKAGES:
        print(f"{name:11} {_version(name)}")
    print(f"cpu         {os.cpu_count()} cores")
    print(f"gpu         {_gpu()}")
    for engine in ("native", "mjx"):
        works, output = _try(_ENGINE.format(engine=engine))
        print(f"{engine:11} {'works on ' + output if works else 'fails: ' + output}")
    for backend, packages in _GL_PACKAGES.items():
        works, _ = _try(_RENDER, MUJOCO_GL=backend)
        advice = "works" if works else f"missing; on Debian: apt-get install {packages}"
        print(f"{backend:11} {advice} (rendering only)")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return f"missing; pip install {name}"


def _gpu() -> str:
    import torch

    from fastsac.envs.devices import EngineUnavailable, choose, seen

    try:
        gpu = seen()
    except EngineUnavailable as error:
        return str(error)
    name = torch.cuda.get_device_name() if gpu.torch_gpu else None
    warning = choose("auto", None, True, gpu).warning
    return warning or name or "none: the native engine and the CPU do the work"


def _try(code: str, **environment: str) -> tuple[bool, str]:
    """Runs code in a fresh interpreter; returns success and its last line of output."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
    except subprocess.TimeoutExpired:
        return False, "no answer within 120 s"
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return done.returncode == 0, lines[-1] if lines else ""
