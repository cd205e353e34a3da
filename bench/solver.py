"""Error and cost of MJX's float32 solver budgets against C MuJoCo; writes results/solver.md.

    python -m fastsac.bench.solver [TASK ...]

Each budget runs the same worlds from the same initial states with the same random actions as the
native engine. "dm_control" is dm_control's own budget (100 iterations, 50 of the line search,
tolerance 1e-8), so that its error is what float32 causes by itself. Costs are of this machine's
CPU and relative to it; on a GPU the slowest world sets the pace.
"""

import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import torch

import fastsac.envs.tasks  # noqa: F401  (registers them)
from fastsac.bench.envs import started_mjx
from fastsac.bench.harness import RESULTS
from fastsac.envs.engines.mjx import MjxEngine
from fastsac.envs.engines.native import NativeEngine
from fastsac.envs.registry import Solver, Task, find, tasks
from fastsac.envs.suite import Suite, load_suite
from fastsac.machine import machine

DM_CONTROL = Solver(iterations=100, ls_iterations=50, tolerance=1e-8)
WORLDS = 8
AFTER = (1, 10, 50)  # control steps
_ROWS = RESULTS / "solver.jsonl"
_TABLE = RESULTS / "solver.md"
_TIMED_REPETITIONS = 5
_STEPS_PER_REPETITION = 10

_HEADER = """\
# MJX's solver budgets in float32

Written by `python -m fastsac.bench.solver`. An error is the largest difference of a world's qpos
(m, rad) from C MuJoCo's in float64, the median of {worlds} worlds, after so many control steps of
the same random actions from the same initial states. "dm_control" is its own budget, so its error
is what float32 causes by itself; once contacts make a run chaotic (1e-2 and more) the three
budgets are equally far off. Cost is the time of a control step relative to dm_control's budget on
the same machine, which solver.jsonl names.

| task | budget | iterations, line search, tolerance | {after} | cost | commit |
|---|---|---|{dashes}|---|---|
"""


def budgets(task: Task) -> dict[str, Solver]:
    """The budgets to compare, dm_control's first."""
    return {"dm_control": DM_CONTROL, "faithful": task.solver, "fast": task.fast_solver}


def models() -> list[str]:
    """A task for each model that MJX holds: those of a domain often share theirs."""
    seen, names = set[Any](), []
    for name in tasks():
        task = find(name)
        if task.mjx_refusal:
            continue
        model = load_suite(task).model
        key = (task.domain, model.nq, model.nu, model.ngeom, model.dof_damping.tobytes())
        if key not in seen:
            seen.add(key)
            names.append(name)
    return names


def measure(name: str) -> Iterator[dict[str, Any]]:
    """Yields a row a budget: errors after 1, 10 and 50 control steps, and the relative cost."""
    suite = load_suite(find(name))
    generator = np.random.default_rng(0)
    actions = generator.uniform(-1, 1, (max(AFTER), WORLDS, suite.action_dim)).astype(np.float32)
    expected = _native_positions(suite, actions)
    _, *start = started_mjx(suite, WORLDS)  # with the task's own budget
    runs = {}
    for budget, solver in budgets(suite.task).items():
        task = dataclasses.replace(suite.task, solver=solver)
        runs[budget] = _Mjx(dataclasses.replace(suite, task=task), start)
    errors = {k: np.abs(run.positions(actions) - expected).max(axis=2) for k, run in runs.items()}
    seconds = _seconds(runs, actions)
    for budget, solver in budgets(suite.task).items():
        yield {
            "task": name,
            "budget": budget,
            **dataclasses.asdict(solver),
            "worlds": WORLDS,
            "qpos_error": {n: float(np.median(errors[budget][n - 1])) for n in AFTER},
            "qpos_error_worst": {n: float(errors[budget][n - 1].max()) for n in AFTER},
            "cost": round(seconds[budget] / seconds["dm_control"], 3),
        }


def _native_positions(suite: Suite, actions: np.ndarray) -> np.ndarray:
    """Returns qpos (steps, B, nq) after each of the actions (steps, B, A)."""
    engine = NativeEngine(suite, WORLDS)
    engine.reset(0, np.zeros(WORLDS, np.int64))
    found = []
    for action in actions:
        engine.send(torch.from_numpy(action), overlap=False)
        engine.recv()
        found.append(engine.get_state()["qpos"].numpy())
    engine.close()
    return np.stack(found)


class _Mjx:
    """MJX's control step with a budget, from the same start, without resets: quick to compile."""

    def __init__(self, suite: Suite, start: list[Any]):
        engine = MjxEngine(suite, WORLDS)
        self._start, self._fields = start
        self._step = jax.jit(jax.vmap(engine._control_step))

    def positions(self, actions: np.ndarray) -> np.ndarray:
        """Returns qpos (steps, B, nq) after each of the actions (steps, B, A)."""
        data, found = self._start, []
        for action in actions:
            data, _ = self._step(data, self._fields, action)
            found.append(np.asarray(data.qpos, np.float64))
        return np.stack(found)


def _seconds(runs: dict[str, _Mjx], actions: np.ndarray) -> dict[str, float]:
    """Returns the median seconds of some control steps, the runs taking turns."""
    samples: dict[str, list[float]] = {k: [] for k in runs}
    for _ in range(_TIMED_REPETITIONS):
        for budget, run in runs.items():
            start = time.perf_counter()
            run.positions(actions[:_STEPS_PER_REPETITION])
            samples[budget].append(time.perf_counter() - start)
    return {k: statistics.median(v) for k, v in samples.items()}


def _write_table(rows: list[dict[str, Any]]) -> None:
    after = " | ".join(f"after {n}" for n in AFTER)
    text = _HEADER.format(worlds=WORLDS, after=after, dashes="|".join(["---"] * len(AFTER)))
    for row in rows:
        errors = " | ".join(f"{row['qpos_error'][str(n)]:.0e}" for n in AFTER)
        text += (
            f"| {row['task']} | {row['budget']} | {row['iterations']}, {row['ls_iterations']}, "
            f"{row['tolerance']:g} | {errors} | {row['cost']:.2f} | "
            f"{row['commit']} |\n"
        )
    _TABLE.write_text(text)


def main(names: list[str]) -> None:
    """Measures these tasks, or one of each model, and writes the table of all rows so far."""
    where = machine()
    rows = [json.loads(x) for x in _ROWS.read_text().splitlines()] if _ROWS.exists() else []
    for name in names or models():
        measured = [json.loads(json.dumps({**row, **where})) for row in measure(name)]
        rows = sorted([r for r in rows if r["task"] != name] + measured, key=lambda r: r["task"])
        _ROWS.write_text("".join(json.dumps(row) + "\n" for row in rows))
        _write_table(rows)
        for row in measured:
            print(name, row["budget"], row["qpos_error"], row["cost"], flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
