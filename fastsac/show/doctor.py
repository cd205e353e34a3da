"""What ``fastsac doctor`` prints: versions, devices, engines, rendering, and what is missing."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

from fastsac.errors import CheckError

_PACKAGES = (
    "torch",
    "triton",
    "jax",
    "jaxlib",
    "mujoco",
    "mujoco-mjx",
    "warp-lang",
    "dm_control",
    "numpy",
)
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
_SECONDS = 90.0  # that doctor --gpu takes at most
_CHECKS = "from fastsac.show.gpu_checks import run_from; run_from({first})"


def print_report() -> None:
    """Prints what works here; each engine and GL backend is tried in a process of its own."""
    print(f"python      {platform.python_version()} on {platform.machine()} {platform.system()}")
    for name in _PACKAGES:
        print(f"{name:11} {_version(name)}")
    print(f"cpu         {os.cpu_count()} cores")
    print(f"gpu         {_gpu()}")
    for engine in ("native", "warp", "mjx"):
        works, output = _try(_ENGINE.format(engine=engine))
        print(f"{engine:11} {'works on ' + output if works else 'fails: ' + output}")
    for backend, packages in _GL_PACKAGES.items():
        works, _ = _try(_RENDER, MUJOCO_GL=backend)
        advice = "works" if works else f"missing; on Debian: apt-get install {packages}"
        print(f"{backend:11} {advice} (rendering only)")


def print_gpu_report() -> None:
    """Prints what works of the GPU's path, a line a check, within 90 s.

    The checks run in a process of their own, and after a crash in another one.

    Raises:
        CheckError: there is no GPU for torch, or a check failed.
    """
    _require_gpu()
    from fastsac.show.gpu_checks import CHECKS

    deadline, failed, done = time.monotonic() + _SECONDS, 0, 0
    while done < len(CHECKS):
        for passed, sentence in _results(_CHECKS.format(first=done), len(CHECKS) - done, deadline):
            check, done = CHECKS[done], done + 1
            print(f"{'ok' if passed else 'FAIL':4}  {check.name:26} {sentence}", flush=True)
            if not passed:
                failed += 1
                print(f"{'':32} -> {check.advice}", flush=True)
    if failed:
        raise CheckError(f"{failed} of {len(CHECKS)} checks failed")


def _require_gpu() -> None:
    import torch

    from fastsac.envs.devices import EngineUnavailable, seen

    if torch.cuda.is_available():
        return
    try:
        jax_too = "though jax sees one" if seen().jax_gpu else "and jax sees none either"
    except EngineUnavailable as error:
        jax_too = f"and {error}"
    build = torch.version.cuda
    raise CheckError(
        f"torch {torch.__version__}, {f'for CUDA {build}' if build else 'a build for the CPU'}, "
        f"sees no GPU here, {jax_too}: where `nvidia-smi` shows one, install a torch with CUDA and "
        "'fastsac[cuda]'"
    )


def _results(code: str, count: int, deadline: float) -> Iterator[tuple[bool, str]]:
    """Runs checks in a fresh interpreter; yields success and sentence of each that had its turn.

    The one under way when the process ends too early, or time is up, is one that failed.
    """
    from fastsac.show.gpu_checks import RESULT

    passed = True
    with (
        tempfile.TemporaryDirectory() as folder,  # of all that a process leaves that is killed
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | {"TMPDIR": folder},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as child,
    ):
        timer = threading.Timer(deadline - time.monotonic(), child.kill)
        timer.start()
        try:
            assert child.stdout
            for line in child.stdout:
                if line.startswith(RESULT):
                    passed, sentence = json.loads(line.removeprefix(RESULT))
                    count -= 1
                    yield passed, sentence
            status = child.wait()
        finally:
            timer.cancel()
            child.kill()
        errors.seek(0)
        said = errors.read().strip().splitlines()[-1:]
    if count and passed:  # else it ended because of a failure that was told
        crashed = " ".join([f"its process ended with code {status}:", *said])
        late = time.monotonic() >= deadline
        yield False, f"no answer within {_SECONDS:.0f} s of all checks" if late else crashed


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
    warning = choose("auto", None, "warp", gpu).warning
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
