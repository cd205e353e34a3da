"""One program of the Warp engine, counted and compiled for a GPU that is not there.

    python -m fastsac.bench.offline.warp_program '{"task": ..., "num_envs": ..., ...}' DUMPS

"step" and "physics" are what a CUDA graph would hold: Warp is told that it is on a GPU and what it
would launch is written down; the kernels of "step" are compiled by NVRTC, which needs no device.
"outcome" is jax's part of a step, compiled by XLA.
"""

import contextlib
import dataclasses
import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import warp as wp

import fastsac.envs.tasks  # noqa: F401  (registers them)
from fastsac.bench.offline.launches import Block, Launches, Loop
from fastsac.bench.offline.program import compiled
from fastsac.bench.offline.targets import core_count
from fastsac.envs.engines import Step, warp_physics
from fastsac.envs.engines.pool import pool_size
from fastsac.envs.engines.precision import in_float32
from fastsac.envs.engines.warp import WarpEngine
from fastsac.envs.registry import find
from fastsac.envs.suite import load_suite

_COMPILING_THREADS = 2
_CONTROLS = 1  # torch's kernel that makes controls of actions


def main(request: dict[str, Any], dumps: Path) -> dict[str, Any]:
    """Counts a program's launches and compiles it.

    Args:
        request: task, num_envs, solver, arch, program.
        dumps: the folder that XLA_FLAGS names for XLA's dumps.
    """
    suite = load_suite(find(request["task"]))
    engine = WarpEngine(suite, request["num_envs"], fast=request["solver"] == "fast")
    if request["program"] == "outcome":
        function, arguments = in_float32(engine._finished), _outcome_arguments(engine)
        return compiled(function, arguments, (), request["arch"], dumps)[0]
    physics, is_ours = engine.physics, request["program"] == "step"
    found = _launches_on_a_gpu(physics, request["arch"], is_ours)
    in_graph, loops = _block(found)
    # What torch does around the graph: the controls, copies of the results, states of new episodes.
    written = [k for k in physics.reset_fields if physics.views[k].numel()]
    around = Launches(_CONTROLS, 0, len(Step._fields) + len(written)) if is_ours else Launches()
    row = {
        "substeps": suite.substeps,
        "launches": dataclasses.asdict(Block(in_graph + around, loops)),
        "of_host": dataclasses.asdict(Block(Launches(graphs=1) + around)),
        "array_bytes": _bytes(physics.data) + _bytes(physics.model),
    }
    return row | _compilation(found, request["arch"]) if is_ours else row


def _outcome_arguments(engine: WarpEngine) -> tuple[Any, ...]:
    """The shapes of what jax takes a step's outcome from."""
    worlds = engine.physics.data.nworld

    def rows(count: int, shape: tuple[int, ...]) -> Any:
        return jax.ShapeDtypeStruct((count, *shape), jnp.float32)

    fields = {k: rows(worlds, tuple(v.shape[1:])) for k, v in engine.physics.views.items()}
    shapes = {k: fields[k].shape[1:] for k in engine.physics.reset_fields}
    shapes["obs"] = (engine.obs_dim,)
    pool = {k: rows(pool_size(worlds), v) for k, v in shapes.items()}
    count = jax.ShapeDtypeStruct((), jnp.int32)
    return fields, jax.ShapeDtypeStruct((worlds,), jnp.int32), pool, count, count


def _launches_on_a_gpu(
    physics: warp_physics.WarpPhysics, arch: str, is_ours: bool
) -> list[warp_physics.Launch]:
    """Returns what a control step would launch: Warp launches otherwise on a GPU than here."""
    real = wp.get_device()
    gpu = SimpleNamespace(
        is_cuda=True, is_cpu=False, sm_count=core_count(arch), arch=int(arch.removeprefix("sm_"))
    )

    def get_device(name: Any = None) -> Any:
        return real if name else gpu

    with warp_physics.replaced(
        wp, get_device=get_device, ScopedDevice=lambda _: contextlib.nullcontext()
    ):
        return warp_physics.launches(physics.step if is_ours else physics.bare_step)


def _block(found: list[warp_physics.Launch]) -> tuple[Launches, tuple[Loop, ...]]:
    """Returns what is launched once, and the solver's loops in their order."""
    once, before = Launches(), False
    rounds: list[Launches] = []
    for launch in found:
        one = Launches(1) if launch.kernel else Launches(copies=1)
        if not launch.in_loop:
            once += one
        elif before:  # launches that follow each other are of one loop
            rounds[-1] += one
        else:
            rounds.append(one)
        before = launch.in_loop
    return once, tuple(Loop(None, Block(Launches()), Block(of)) for of in rounds)


def _compilation(found: list[warp_physics.Launch], arch: str) -> dict[str, Any]:
    """Compiles all that is launched from nothing and returns how long that took.

    Raises:
        Exception: whatever NVRTC says of a kernel.
    """
    pairs = {(of.kernel.module, of.block_dim) for of in found if of.kernel}

    def compile_module(pair: tuple[wp.Module, int | None], folder: str) -> None:
        module, block_dim = pair
        if block_dim is not None:
            module.options["block_dim"] = block_dim
        number = int(arch.removeprefix("sm_"))
        wp.compile_aot_module(module, arch=number, module_dir=folder, use_ptx=False)

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(_COMPILING_THREADS) as pool:
        jobs = [pool.submit(compile_module, pair, f"{folder}/{i}") for i, pair in enumerate(pairs)]
        for job in jobs:
            job.result()
        sizes = sum(path.stat().st_size for path in Path(folder).rglob("*.cubin"))
    return {
        "modules": len(pairs),
        "code_bytes": sizes,
        "compile_s": round(time.perf_counter() - start, 1),
    }


def _bytes(of: Any) -> int:
    """Returns the size of the arrays of a Warp model or data."""
    arrays = [v for v in vars(of).values() if isinstance(v, wp.array)]
    nested = [v for v in vars(of).values() if dataclasses.is_dataclass(v)]
    return sum(a.capacity for a in arrays) + sum(map(_bytes, nested))


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]), Path(sys.argv[2]))))
