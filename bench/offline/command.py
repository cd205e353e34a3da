"""``fastsac bench offline``: what an engine would cost on a GPU that is not there.

Each program of a case is compiled for CUDA in a process of its own and its launches, memory and
precisions are counted; a JSON row a case is appended. These are a compiler's counts, not times.
"""

import hashlib
import importlib.metadata
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import fastsac.envs
from fastsac.bench.harness import RESULTS
from fastsac.bench.offline import page
from fastsac.bench.offline.row import Row, summary
from fastsac.bench.offline.targets import ARCHITECTURES, device_name
from fastsac.bench.rows import parsed_lines
from fastsac.envs.devices import has_warp
from fastsac.envs.registry import Task, UnknownTask, find, tasks
from fastsac.errors import ConfigError
from fastsac.machine import machine
from fastsac.parser import Parser

ROWS = RESULTS / "offline.jsonl"
_SOLVERS = ("faithful", "fast")
_PROGRAMS = {"mjx": ("step", "set", "start", "physics"), "warp": ("step", "outcome", "physics")}
_CASE = ("engine", "task", "num_envs", "solver", "arch")
# Of XLA: autotuning needs a device.
_XLA_FLAGS = "--xla_gpu_autotune_level=0 --xla_dump_hlo_as_text"
# The names that jit gives the programs; XLA dumps these alone.
_MODULES = "jit_(_step_worlds|_set_worlds|_start_worlds|physics|_finished)$"
_MOST_REASON = 300  # characters


def main(args: list[str]) -> None:
    """Runs ``fastsac bench offline``."""
    parsed = _parsed(args)
    if parsed.page:
        page.write(read(parsed.json), parsed.json.with_suffix(".md"))
        return
    found = _tasks(parsed.tasks, parsed.engine)
    _require_compiler(parsed.engine)
    where = machine() | {"sources": sources(), "compiler": _version("jax-cuda13-plugin")}
    cases = itertools.product(parsed.arch, parsed.solver, parsed.num_envs, found)
    for arch, solver, num_envs, task in cases:
        case = dict(
            zip(_CASE, (parsed.engine, task.full_name, num_envs, solver, arch), strict=True)
        )
        rows = read(parsed.json) if parsed.json.exists() else []
        if any(_is_of(row, case, where, parsed.programs) for row in rows):
            print(f"{_name(case)}: is there already", flush=True)
            continue
        row = summary(_measured(case, task, parsed, where, rows))
        print(line(row), flush=True)
        _append(parsed.json, row)


def _parsed(args: list[str]) -> Any:
    parser = Parser("fastsac bench offline", None, __doc__)
    add = parser.add_argument
    add("tasks", nargs="*", metavar="TASK", help="(all that the engine holds)")
    add("--engine", choices=_PROGRAMS, default="mjx", help="(mjx)")
    add("--num-envs", nargs="+", type=int, default=[4096], metavar="N", help="worlds (4096)")
    add("--solver", nargs="+", choices=_SOLVERS, default=["faithful"], help="(faithful)")
    add("--arch", nargs="+", choices=ARCHITECTURES, default=["sm_90"], help="(sm_90)")
    known = sorted({*itertools.chain(*_PROGRAMS.values())})
    add("--programs", nargs="+", choices=known, help="(all of the engine's)")
    add("--json", type=Path, default=ROWS, metavar="FILE", help="(bench/results/offline.jsonl)")
    most = "the most that a program may take to compile (1800)"
    add("--timeout", type=float, default=1800.0, metavar="SECONDS", help=most)
    add("--page", action="store_true", help="write the page beside the rows, compile nothing")
    parsed = parser.parse_args(args)
    if min(parsed.num_envs) < 1:
        raise ConfigError(f"--num-envs must be above 0, got {min(parsed.num_envs)}")
    own = _PROGRAMS[parsed.engine]
    parsed.programs = parsed.programs or [*own]
    if strange := [name for name in parsed.programs if name not in own]:
        raise ConfigError(f"--engine {parsed.engine} has no program {strange[0]}: {', '.join(own)}")
    if not parsed.timeout > 0:
        raise ConfigError(f"--timeout must be above 0, got {parsed.timeout}")
    target = parsed.json if os.path.exists(parsed.json) else parsed.json.parent
    if os.path.isdir(parsed.json) or not os.access(target, os.W_OK):
        raise ConfigError(f"cannot write --json {parsed.json}")
    return parsed


def _tasks(names: list[str], engine: str) -> list[Task]:
    """Returns these tasks, or all that the engine holds."""
    if not names:
        return [task for task in map(find, tasks()) if engine in task.gpu_engines]
    try:
        found = list(map(find, names))
    except UnknownTask as error:
        raise ConfigError(str(error)) from error
    for task in found:
        if refusal := task.refusals[engine]:
            raise ConfigError(f"{engine} cannot hold {task.full_name}: {refusal}")
    return found


def _require_compiler(engine: str) -> None:
    if engine == "warp" and not has_warp():
        raise ConfigError("MuJoCo Warp is not installed: `make prove-gpu`, or the extra warp")
    jax, plugin = _version("jax"), _version("jax-cuda13-plugin")
    how = f"pip install --no-deps jax-cuda13-plugin=={jax} jax-cuda13-pjrt=={jax}"
    if plugin is None or importlib.util.find_spec("jax_cuda13_plugin") is None:
        raise ConfigError(f"XLA's CUDA compiler is not installed: `make prove-gpu`, or `{how}`")
    if plugin != jax:
        raise ConfigError(f"jax is {jax} and its CUDA compiler {plugin}: `{how}`")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def sources() -> str:
    """Returns a digest of what is compiled, fastsac.envs: rows of other sources are made anew."""
    root = Path(fastsac.envs.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def _is_of(row: Row, case: Row, where: Row, programs: list[str]) -> bool:
    """Whether a row has these programs of this case, made by the same sources and compiler."""
    same = case.items() <= row.items()
    same &= all(row.get(name) == where[name] for name in ("sources", "compiler"))
    return same and set(programs) <= row["programs"].keys()


def _measured(case: Row, task: Task, parsed: Any, where: Row, rows: list[Row]) -> Row:
    """Compiles a case's programs one after another."""
    budget = task.fast_solver if case["solver"] == "fast" else task.solver
    of = {name: case[name] for name in ("task", "solver")}
    same = of | {"sources": where["sources"]}
    known = (row["rounds"] for row in rows if same.items() <= row.items())
    rounds = next((found for found in known if "reason" not in found), None)
    module = "warp_program" if case["engine"] == "warp" else "program"
    return {
        **case,
        "device": device_name(case["arch"]),
        "iterations": budget.iterations,
        "ls_iterations": budget.ls_iterations,
        "rounds": rounds or _child("rounds", of, parsed.timeout),
        "programs": {
            program: _child(module, case | {"program": program}, parsed.timeout)
            for program in parsed.programs
        },
        **where,
    }


def _child(module: str, request: Row, timeout: float) -> Row:
    """Returns what a module prints in a process of its own, or the reason why it printed nothing.

    On the CPU: the compiler's plugin looks for a driver unless it is told not to. What was compiled
    before would not be dumped, so no cache.
    """
    with tempfile.TemporaryDirectory(prefix="fastsac-offline-") as folder:
        flags = f"--xla_dump_to={folder} --xla_dump_hlo_module_re={_MODULES}"
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {_XLA_FLAGS} {flags}".strip(),
        }
        name = f"fastsac.bench.offline.{module}"
        command = [sys.executable, "-m", name, json.dumps(request), folder]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=timeout, env=environment
            )
        except subprocess.TimeoutExpired:
            return {"reason": f"not done after {timeout:g} s"}
    if done.returncode:
        said = [text for text in done.stderr.splitlines() if text.strip()] or ["nothing said"]
        return {"reason": f"ended with {done.returncode}: {said[-1]}"[:_MOST_REASON]}
    return json.loads(done.stdout.splitlines()[-1])


def _append(path: Path, row: Row) -> None:
    try:
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
    except OSError as error:
        raise ConfigError(f"cannot write --json {path}: {error.strerror}") from error


def read(path: Path) -> list[Row]:
    """Returns the rows of a file.

    Raises:
        ConfigError: it is missing or damaged, or holds something else.
    """
    needed = (*_CASE, "rounds", "programs", "commit", "date", "sources", "compiler")
    rows = []
    for number, row in parsed_lines(path):
        if not isinstance(row, dict) or (missing := [k for k in needed if k not in row]):
            said = f"it has no {missing[0]}" if isinstance(row, dict) else "it is no object"
            raise ConfigError(f"{path}, line {number}, is no row of fastsac bench offline: {said}")
        rows.append(row)
    return rows


def line(row: Row) -> str:
    """Returns a case in one line."""
    reasons = [
        f"{name}: {found['reason']}"
        for name, found in {"rounds": row["rounds"], **row["programs"]}.items()
        if "reason" in found
    ]
    said = [_name(row), *reasons]
    if of := row.get("launches"):
        waits = f"{of['total']} launches, {of['host_waits']} waits of the host"
        said += [f"{waits} a control step of {row['rounds']['most']} solver rounds a substep"]
        said += [f"{row['ratio']}x bare physics"] if "ratio" in row else []
    return "; ".join(said)


def _name(case: Row) -> str:
    return " ".join(str(case[name]) for name in _CASE)
