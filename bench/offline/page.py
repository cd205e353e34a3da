"""The page of the rows of ``fastsac bench offline``."""

from pathlib import Path
from typing import Any

from fastsac.bench.offline.row import Row
from fastsac.bench.page_tables import markdown
from fastsac.errors import ConfigError

_TITLE = "# What a GPU would have to do\n"
_HOW = """
Written by `fastsac bench offline --page` from the rows that `fastsac bench offline` made
(`make prove-gpu` does both, on any machine).

**These are counts of compilers, not times.** No GPU was there. Each program was compiled
for the device named, down to machine code, on a CPU: MJX's and the tasks' functions by XLA, Warp's
kernels by NVRTC. What XLA launches was read from the compiled program, what Warp launches was
written down as it would have launched it. How long a launch takes, what the device does at once,
and whether the counts decide the time at all is not known from here; `h200.md` has times.

A launch is a kernel, a call of a library (cuSOLVER, cuBLAS; each call launches one kernel or more,
which are not counted apart), or a copy or fill on the device. XLA puts runs of them into CUDA
graphs, and a control step of Warp's is one: the host launches a graph as one, and "launches of the
host" counts it so.

The rounds of the solver are the one thing the compiler does not know: they are measured on a CPU
with C MuJoCo (float64, same budget), of the slowest of 4096 worlds, which all others wait for;
"most" is the largest number in any physics step measured, and the totals are with it. One round of
resets a control step. With MJX the host waits once a round, and once more, at each loop whose end
the data decide; Warp's loops are in its graph. "Bare physics" is `mjx.step` or `mujoco_warp.step`,
as often as a control step has physics steps, compiled alike; "ours" has observation, reward, time
limit and resets besides, and what brings them up to date with the new state, as dm_control has."""
_PARTS = ("entry", "substep", "solver_round", "line_search_round", "reset_round")


def write(rows: list[Row], path: Path) -> None:
    """Writes the page; ConfigError where that cannot be or is another's."""
    if not rows:
        raise ConfigError("there are no rows: make some with `fastsac bench offline`")
    try:
        if path.exists() and not path.read_text(errors="replace").startswith(_TITLE):
            raise ConfigError(f"{path} is not ours to overwrite")
        path.write_text(text(rows))
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
    print(f"{path}: from {len(rows)} rows")


def text(rows: list[Row]) -> str:
    """Returns the page in Markdown; of a case the last row counts."""
    names = ("engine", "arch", "solver", "task", "num_envs")
    newest = {tuple(row[name] for name in names): row for row in rows}
    groups: dict[tuple[str, ...], list[Row]] = {}
    for key in sorted(newest):
        groups.setdefault(key[:3], []).append(newest[key])
    parts = [_TITLE.strip(), _HOW.strip(), *_side_by_side(newest)]
    for (engine, arch, solver), of in groups.items():
        parts += [f"## {engine}, {arch} ({of[0]['device']}), solver {solver}"]
        parts += ["### Launches a control step", _totals(of)]
        parts += ["### Where they are", _PARTS_HOW, _by_part(of)]
        parts += ["### Memory, precision, layout, compilation", _MEMORY_HOW, _programs(of)]
        parts += [_kernels(of), _reasons(of)]
    commits = ", ".join(sorted({row["commit"] for row in rows}))
    compilers = ", ".join(sorted({str(row["compiler"]) for row in rows}))
    parts += [f"Made at commit {commits} with XLA of jax {compilers}."]
    return "\n\n".join(part for part in parts if part) + "\n"


def _side_by_side(newest: dict[Any, Row]) -> list[str]:
    """The launches of both engines, of each case that both have."""
    header = ["task", "worlds", "device", "warp: launches", "of the host", "ours / bare physics"]
    header += ["mjx: launches", "of the host", "ours / bare physics"]
    table = []
    for (engine, *case), row in sorted(newest.items()):
        other = newest.get(("mjx", *case), {})
        if engine != "warp" or not (row.get("launches") and other.get("launches")):
            continue
        cells = [row["task"], row["num_envs"], row["arch"]]
        for of in (row, other):
            cells += [of["launches"]["total"], of["launches"]["of_host"], of.get("ratio", "-")]
        table.append([_shown(cell) for cell in cells])
    return ["## Both engines: launches a control step", markdown(header, table)] if table else []


def _totals(rows: list[Row]) -> str:
    header = ["task", "worlds", "physics steps", "solver rounds, most (mean)", "launches"]
    header += [
        "with the mean rounds",
        "of them library calls",
        "launches of the host",
        "host waits",
    ]
    header += ["bare physics: launches", "launches of the host", "host waits"]
    header += ["ours / bare physics"]
    table = []
    for row in rows:
        if not (of := row.get("launches")):
            continue
        most, mean = row["rounds"]["most"], row["rounds"]["mean"]
        cells = [row["task"], row["num_envs"], row["programs"]["step"]["substeps"]]
        cells += [f"{most} ({mean:g})" if of["solvers"] else "no solver", of["total"]]
        shown = ("total_with_mean_rounds", "library_calls", "of_host", "host_waits")
        cells += [of[name] for name in shown]
        bare = row.get("physics", {})
        cells += [bare.get(name, "-") for name in ("total", "of_host", "host_waits")]
        cells += [row.get("ratio", "-")]
        table.append([_shown(cell) for cell in cells])
    return markdown(header, table)


_PARTS_HOW = """\
Kernels + library calls + copies. A physics step runs so many times what is in its column, each of
the solver's loops so many rounds (RK4 has four loops, shown together), each with so many rounds of
its line search. Where a control step has one physics step, the entry holds it."""


def _by_part(rows: list[Row]) -> str:
    header = ["task", "worlds", "of", "entry", "a physics step", "solver loops", "a round of them"]
    header += ["line search rounds", "a round of them", "a round of resets"]
    table = []
    for row in rows:
        for name, of in (("ours", row.get("launches")), ("bare physics", row.get("physics"))):
            if not of:
                continue
            cells = {part: " + ".join(map(str, of["parts"][part])) for part in _PARTS}
            searches = " + ".join(map(str, of["line_search_rounds"]))
            line = [row["task"], str(row["num_envs"]), name, cells["entry"], cells["substep"]]
            line += [str(of["solvers"]), cells["solver_round"], searches or "-"]
            table.append([*line, cells["line_search_round"], cells["reset_round"]])
    return markdown(header, table)


_MEMORY_HOW = """\
"Sizes of a world" are arguments and temporaries together, in sizes of one mjx.Data a world. Dots of
DEFAULT precision are TF32 on these devices, three digits, where XLA gives them to the tensor cores:
"TF32" counts such instructions in the compiled code."""


def _programs(rows: list[Row]) -> str:
    header = ["task", "worlds", "program", "arguments, MiB", "temporaries, MiB", "results, MiB"]
    header += ["sizes of a world", "dots: DEFAULT", "higher", "TF32", "float64"]
    header += ["row-major for torch", "lowering, s", "compiling, s"]
    table = []
    for row in rows:
        for name, found in row["programs"].items():
            if "argument_bytes" not in found:
                continue
            sizes = [found[f"{part}_bytes"] for part in ("argument", "temporary", "output")]
            cells = [row["task"], row["num_envs"], name, *(f"{s / 2**20:,.1f}" for s in sizes)]
            cells += [found.get("sizes_of_a_world", "-")]
            cells += [found[k] for k in ("dots_default", "dots_higher", "tf32_instructions")]
            is_row_major = found.get("row_major") if name != "physics" else None
            cells += ["yes" if found["f64"] else "none"]
            cells += [{None: "-", True: "yes", False: "**no**"}[is_row_major]]
            table.append([*map(_shown, (*cells, found["lower_s"], found["compile_s"]))])
    return markdown(header, table)


def _kernels(rows: list[Row]) -> str:
    header = ["task", "worlds", "Warp's arrays, MiB", "kernel modules", "machine code, MiB"]
    header += ["compiling all of them from nothing on two cores, s"]
    steps = [row | row["programs"].get("step", {}) for row in rows]
    table = [
        [
            *(row["task"], _shown(row["num_envs"]), f"{row['array_bytes'] / 2**20:,.1f}"),
            *(str(row["modules"]), f"{row['code_bytes'] / 2**20:,.1f}", str(row["compile_s"])),
        ]
        for row in steps
        if "modules" in row
    ]
    return markdown(header, table) if table else ""


def _reasons(rows: list[Row]) -> str:
    lines = [
        f"- {row['task']}, {row['num_envs']} worlds, {name}: {found['reason']!r}"
        for row in rows
        for name, found in {"rounds": row["rounds"], **row["programs"]}.items()
        if "reason" in found
    ]
    return "\n".join(["Not compiled:", "", *lines]) if lines else ""


def _shown(cell: Any) -> str:
    return f"{cell:,}" if isinstance(cell, int) else str(cell)
