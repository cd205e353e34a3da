"""One program of a case, compiled for a GPU that is not there; a process of its own.

    python -m fastsac.bench.offline.program '{"task": ..., "num_envs": ..., ...}' DUMPS

Compiling leaks memory and can hang, so ``fastsac bench offline`` runs this once a program, with a
limit of time. It prints what it found out as JSON, on the last line of its output.
"""

import dataclasses
import json
import math
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

import fastsac.envs.tasks  # noqa: F401  (registers them)
from fastsac.bench.envs import bare_physics
from fastsac.bench.offline import launches
from fastsac.bench.offline.targets import target_config
from fastsac.envs.engines.mjx import MjxEngine
from fastsac.envs.registry import find
from fastsac.envs.suite import SENSORS, STATE, Suite, load_suite

# The results of a program that torch gets: the last ones. "physics" is no program of the engine's.
_TO_TORCH = {"step": 7, "set": 1, "start": 1, "physics": 0}


def main(request: dict[str, Any], dumps: Path) -> dict[str, Any]:
    """Compiles a program and returns what the compiler says of it.

    Args:
        request: task, num_envs, solver, arch, program.
        dumps: the folder that XLA_FLAGS names for XLA's dumps.
    """
    suite = load_suite(find(request["task"]))
    engine = MjxEngine(suite, request["num_envs"], fast=request["solver"] == "fast")
    function, arguments, donated = _programs(engine, suite)[request["program"]]()
    found, hlo = compiled(function, arguments, donated, request["arch"], dumps)
    return {
        **found,
        **_sizes(found, engine, request["num_envs"]),
        "row_major": are_row_major(hlo, _TO_TORCH[request["program"]]),
        "substeps": suite.substeps,
    }


def compiled(
    function: Callable[..., Any], arguments: Any, donated: Any, arch: str, dumps: Path
) -> tuple[dict[str, Any], str]:
    """Compiles a function for a GPU and returns what the compiler says of it, and its HLO.

    Args:
        function: to be jitted.
        arguments: arrays or their shapes.
        donated: the arguments that are, by place.
        arch: one of ARCHITECTURES.
        dumps: the folder that XLA_FLAGS names for XLA's dumps.
    """
    topology = topologies.get_topology_desc(
        platform="cuda", target_config=target_config(arch), topology="1x1x1"
    )
    on_gpu = SingleDeviceSharding(topology.devices[0])
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=on_gpu), arguments
    )
    start = time.perf_counter()
    lowered = jax.jit(function, donate_argnums=donated).lower(*shapes)
    lowered_after = time.perf_counter() - start
    program = lowered.compile()
    compiled_after = time.perf_counter() - start - lowered_after
    hlo = program.as_text() or ""
    (thunks,) = _dumped(dumps, ".thunk_sequence.txt")
    (with_graphs,) = _dumped(dumps, ".thunk_sequence_after_thunk_passes.txt")
    found = {
        "lower_s": round(lowered_after, 1),
        "compile_s": round(compiled_after, 1),
        **_memory(program.memory_analysis()),
        **dots(lowered.as_text()),
        "tf32_instructions": sum(ptx.count(".tf32") for ptx in _dumped(dumps, ".ptx")),
        "f64": bool(re.search(r"\bf64\[", hlo)),
        "launches": dataclasses.asdict(launches.read(thunks, hlo)),
        "of_host": dataclasses.asdict(launches.read(with_graphs, hlo)),
    }
    return found, hlo


def _programs(engine: MjxEngine, suite: Suite) -> dict[str, Callable[[], tuple[Any, Any, Any]]]:
    """Returns for each program what makes its function, its arguments' shapes, what it donates."""
    worlds_count = engine._num_envs
    fields = {k: getattr(jax.eval_shape(engine._blank), k).shape for k in (*STATE, SENSORS)}
    fields |= {k: getattr(suite.model, k).shape for k in engine._model_fields}

    def of(rows: int) -> dict[str, Any]:
        return {k: jax.ShapeDtypeStruct((rows, *v), engine._dtype) for k, v in fields.items()}

    clocks = jax.ShapeDtypeStruct((worlds_count,), jnp.int32)
    start = of(engine._pool_rows), clocks, jax.ShapeDtypeStruct((), jnp.int32)
    action = jax.ShapeDtypeStruct((worlds_count, suite.action_dim), jnp.float32)

    def worlds() -> Any:
        return jax.eval_shape(engine._start_worlds, *start)[0]

    def state() -> Any:  # a caller's states have no sensors: the forces are solved for
        return {k: v for k, v in of(worlds_count).items() if k != SENSORS}

    def physics() -> Any:
        before = worlds()
        return bare_physics(engine), (before.data, before.model_fields, action), 0

    return {
        "step": lambda: (engine._step_worlds, (worlds(), action), 0),
        "set": lambda: (engine._set_worlds, (worlds(), state()), 0),
        "start": lambda: (engine._start_worlds, start, ()),
        "physics": physics,
    }


def _memory(analysis: Any) -> dict[str, int]:
    return {
        f"{part}_bytes": getattr(analysis, f"{of}_size_in_bytes")
        for part, of in (
            *(("argument", "argument"), ("output", "output"), ("donated", "alias")),
            *(("temporary", "temp"), ("code", "generated_code")),
        )
    }


def _sizes(found: dict[str, Any], engine: MjxEngine, num_envs: int) -> dict[str, Any]:
    world = jax.tree.leaves(jax.eval_shape(engine._blank))
    world_bytes = sum(math.prod(x.shape) * x.dtype.itemsize for x in world)
    needed = found["argument_bytes"] + found["temporary_bytes"]
    return {
        "world_bytes": world_bytes,
        "sizes_of_a_world": round(needed / (world_bytes * num_envs), 2),
    }


def dots(stablehlo: str) -> dict[str, int]:
    """Returns how many dots a lowered program has by precision; DEFAULT is TF32 on sm_80 and up."""
    counts = {"dots_default": 0, "dots_higher": 0}
    for line in stablehlo.splitlines():
        if "stablehlo.dot_general" in line or "stablehlo.convolution" in line:
            precision = re.search(r"precision(?:_config)? = \[(.*?)\]", line)
            is_default = not precision or "DEFAULT" in precision[1]
            counts["dots_default" if is_default else "dots_higher"] += 1
    return counts


def are_row_major(hlo: str, count: int) -> bool:
    """Whether the last results of a module lie in memory as torch takes them, last index fastest.

    Raises:
        ValueError: the module does not say how its results lie.
    """
    head = hlo.split("\n", 1)[0]
    if not (match := re.search(r"entry_computation_layout=\{.*->(.*)\}", head)):
        raise ValueError("an HLO module without the layout of its results")
    shapes = re.findall(r"\w+\[([\d,]*)\](?:\{([\d,]*))?", match[1])
    if len(shapes) < count:
        raise ValueError(f"an HLO module with {len(shapes)} results")
    wanted = shapes[len(shapes) - count :]
    for dimensions, order in wanted:
        rank = len(dimensions.split(",")) if dimensions else 0
        if order != ",".join(map(str, reversed(range(rank)))):
            return False
    return True


def _dumped(dumps: Path, ending: str) -> list[str]:
    """Returns the files that XLA wrote with this ending; PTX is in one a kernel."""
    return [path.read_text() for path in sorted(dumps.glob(f"*{ending}"))]


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]), Path(sys.argv[2]))))
