r"""Learning speed: settings of `fastsac train` side by side, over tasks and seeds.

    fastsac bench learning cheetah_run walker_run --seeds 3 -o DIR \
        --setting seed="--preset seed --total-steps 100000" --setting cpu="--preset cpu"

A run is a `fastsac train` of its own in DIR/TASK/SETTING-SEED and a row of DIR/runs.jsonl. Drawn
and tabled is the interquartile mean (IQM) over a setting's runs with a 95% bootstrap interval.
"""

import argparse
import csv
import dataclasses
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastsac import tasks
from fastsac.bench.learning_kinds import best_by_kind, draw_kinds, table_of_kinds
from fastsac.envs.registry import find
from fastsac.errors import ConfigError, RunError
from fastsac.machine import machine
from fastsac.parser import Parser
from fastsac.runs.directory import RESULT, short_name
from fastsac.runs.statistics import (
    Curve,
    Summary,
    bootstrap_interval,
    interquartile_mean,
    time_to_return,
)
from fastsac.show.plot import INK, LEGEND, panels_of_returns

# pytorch_sac's averages, (environment steps, return): github.com/denisyarats/pytorch_sac.
PUBLISHED = {
    "cartpole_swingup": [(100_000, 824), (1_000_000, 880)],
    "reacher_hard": [(250_000, 865), (1_000_000, 923)],
    "cheetah_run": [(250_000, 430), (500_000, 680), (1_000_000, 800)],
    "walker_run": [(250_000, 526), (500_000, 636), (1_000_000, 736)],
    "humanoid_walk": [(500_000, 205), (1_000_000, 315), (5_000_000, 827)],
}
_AXES = {"step": "environment steps", "seconds": "seconds", "cpu_seconds": "CPU seconds"}
_COLUMNS = (*_AXES, "updates", "eval_return", "eval_return_std")

_TITLE = "# Learning speed\n"
_TABLE = """
Written by `fastsac bench learning`; runs.jsonl has each run's flags, machine and commit. A final
return is the interquartile mean of the seeds' last evaluations, in dm_control, with its 95%
bootstrap interval. R is that of `{baseline}`: "to R" is when a setting's mean curve first reaches
it (how many times as fast as `{baseline}`); <= where the first evaluation had reached it already.

| task | setting | seeds | final return | steps | seconds | CPU seconds | s to R | CPU s to R |
|---|---|---|---|---|---|---|---|---|
"""

_KINDS = """
## The suite by kind

The best setting of each task, its seeds' interquartile mean, whatever its budget was.
"""

Row = dict[str, Any]  # of runs.jsonl


@dataclasses.dataclass(frozen=True)
class Run:
    """One training, in the experiment's directory; a setting is a name for flags."""

    directory: Path
    task: str
    setting: str
    flags: tuple[str, ...]
    seed: int

    @property
    def folder(self) -> Path:
        """The run's own directory."""
        return self.directory / short_name(self.task) / f"{self.setting}-{self.seed}"

    def curve(self, finished: bool = True) -> Curve | None:
        """Returns the evaluations, or None where there are none or, if asked, the last lacks."""
        try:
            config = json.loads((self.folder / "config.json").read_text())
            with (self.folder / "metrics.csv").open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if row["eval_return_std"]]
            curve = {column: np.array([float(row[column]) for row in rows]) for column in _COLUMNS}
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        if not rows:
            return None
        # --max-seconds ends a run before its steps.
        ended = (self.folder / RESULT).exists() or curve["step"][-1] >= config["total_steps"]
        return curve if ended or not finished else None


def train_all(runs: Sequence[Run], jobs: int, threads: int) -> int:
    """Trains and records what is unfinished; returns how many failed. RunError if flags changed."""
    threads = threads or max(1, len(os.sched_getaffinity(0)) // jobs)
    rows, baseline = recorded(runs[0].directory), runs[0].setting
    flags = {(row["task"], row["setting"]): tuple(row["flags"]) for row in rows}
    for run in runs:
        if (before := flags.get((run.task, run.setting), run.flags)) != run.flags:
            raise RunError(f"--setting {run.setting} was {shlex.join(before)!r}; rename this one")
    known = {(row["task"], row["setting"], row["seed"]) for row in rows}
    how = {"baseline": baseline, "jobs": jobs, "threads": threads}
    waiting, failed = [], 0
    for run in runs:
        if (curve := run.curve()) is None:
            waiting.append(run)
        elif (run.task, run.setting, run.seed) not in known:  # nobody saw where and when it ran
            _record(run, curve, {"baseline": baseline})
    print(f"{len(waiting)} of {len(runs)} runs to do, {jobs} at once, {threads} threads each")
    for run, code, where in _trained(waiting, jobs, threads):
        name = f"{run.task} {run.setting} seed {run.seed}"
        if curve := run.curve():
            row = _record(run, curve, how | where)
            print(f"{name}: {row['final_return']:.1f} in {row['seconds']:.0f} s", flush=True)
        else:
            failed += 1
            last = Path(f"{run.folder}.log").read_text().strip().rpartition("\n")[2]
            reason = f"exit code {code}: {last.removeprefix('fastsac: ')}"
            print(f"{name} failed with {reason} ({run.folder}.log)", file=sys.stderr, flush=True)
    return failed


def _trained(runs: Sequence[Run], jobs: int, threads: int) -> Iterator[tuple[Run, int, Row]]:
    """Yields runs as they end, with their exit code and the machine as it was at their start."""
    waiting, running = list(runs), dict[subprocess.Popen, tuple[Run, Row]]()
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                run, where = waiting.pop(0), machine()
                running[_start(run, threads)] = run, where
            for process in [p for p in running if p.poll() is not None]:
                run, where = running.pop(process)
                yield run, process.returncode, where
            time.sleep(0.2)
    finally:  # an interrupted experiment leaves nothing running
        for process in running:
            process.terminate()
            process.wait()
        signal.signal(signal.SIGTERM, before)


def _start(run: Run, threads: int) -> subprocess.Popen:
    if (run.folder / "config.json").exists():  # unfinished: `fastsac train` takes no used directory
        shutil.rmtree(run.folder)
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "fastsac", "train", run.task, *run.flags]
    command += ["--seed", str(run.seed), "--run-dir", str(run.folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with open(f"{run.folder}.log", "w") as log:  # the run wants an empty directory
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)


def _record(run: Run, curve: Curve, how: Row) -> Row:
    """Appends a run's row to runs.jsonl and returns it."""
    last = {column: float(values[-1]) for column, values in curve.items()}
    row = {"task": run.task, "setting": run.setting, "flags": run.flags, "seed": run.seed}
    row |= {"steps": int(last["step"]), "updates": int(last["updates"])}
    row |= {"seconds": last["seconds"], "cpu_seconds": last["cpu_seconds"]}
    row |= {"final_return": last["eval_return"], "final_return_std": last["eval_return_std"], **how}
    with (run.directory / "runs.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    return row


def recorded(directory: Path) -> list[Row]:
    """Returns the rows of runs.jsonl, the baseline's first; RunError where one is damaged."""
    path = directory / "runs.jsonl"
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}") from error
    return sorted(rows, key=lambda row: row["setting"] != rows[0]["baseline"])


def report(directory: Path) -> None:
    """Prints the finished runs' table, writes README.md and TASK.png; RunError without runs."""
    curves: dict[str, dict[str, list[Curve]]] = {}
    rows = {(row["task"], row["setting"], row["seed"]): row for row in recorded(directory)}
    for task, setting, seed in rows:
        if curve := Run(directory, task, setting, (), seed).curve(finished=False):
            curves.setdefault(task, {}).setdefault(setting, []).append(curve)
    if not curves:
        raise RunError(f"there is no finished run in {directory}")
    summaries = {task: {s: Summary(c) for s, c in each.items()} for task, each in curves.items()}
    text = table(summaries, next(iter(rows.values()))["baseline"])
    print(text)
    finals = {
        task: float(np.fmax.reduce([interquartile_mean(one.final) for one in settings.values()]))
        for task, settings in summaries.items()
    }
    if len(finals) > len(tasks()) / 2:
        kinds = best_by_kind(finals)
        draw_kinds(kinds).savefig(directory / "kinds.png", dpi=110)
        text += _KINDS + table_of_kinds(kinds) + "\n![kinds](kinds.png)\n"
    pictures = "".join(f"\n![{task}]({short_name(task)}.png)\n" for task in summaries)
    (directory / "README.md").write_text(_TITLE + text + pictures)
    for task, settings in summaries.items():
        draw(task, settings).savefig(directory / f"{short_name(task)}.png", dpi=120)


def table(summaries: dict[str, dict[str, Summary]], baseline: str) -> str:
    """Returns the summaries by task and setting as a table in Markdown."""
    text = _TABLE.format(baseline=baseline)
    for task, settings in summaries.items():
        for name, one in settings.items():
            interval = bootstrap_interval(one.final)
            within = " [{:.1f}, {:.1f}]".format(*interval) if interval else ""
            cells = [
                task,
                name,
                str(len(one.returns)),
                f"{interquartile_mean(one.final):.1f}{within}",
            ]
            cells += [f"{one.x[axis][-1]:,.0f}" for axis in _AXES]
            cells += [_to_return(one, settings.get(baseline), a) for a in list(_AXES)[1:]]
            text += f"| {' | '.join(cells)} |\n"
    return text


def _to_return(one: Summary, baseline: Summary | None, axis: str) -> str:
    if baseline is None:
        return "-"
    target = baseline.mean[-1]
    own, theirs = (time_to_return(s.x[axis], s.mean, target) for s in (one, baseline))
    if not own or not theirs:
        return "not reached"
    return f"{'<= ' if own == one.x[axis][0] else ''}{own:,.1f} ({theirs / own:.2f}x)"


def draw(task: str, settings: dict[str, Summary]) -> Any:
    """Returns a figure of a task's settings against steps, seconds and CPU seconds."""
    figure, panels = panels_of_returns(_AXES)
    for axis, panel in panels.items():
        for name, one in settings.items():
            seeds = f"{name} (seeds: {len(one.returns)})"
            (line,) = panel.plot(one.x[axis], one.mean, marker=".", label=seeds)
            if band := bootstrap_interval(one.returns):
                panel.fill_between(one.x[axis], *band, color=line.get_color(), alpha=0.2)
        panel.set_xlim(0, None)
    last = max(one.x["step"][-1] for one in settings.values())
    if points := [point for point in PUBLISHED.get(task, []) if point[0] <= last]:
        label = "pytorch_sac, published average"
        panels["step"].plot(*zip(*points, strict=True), "x", color=INK, label=label)
    panels["step"].set(title=task, ylabel="return, IQM and 95% interval")
    panels["step"].legend(**LEGEND)
    return figure


def _setting(text: str) -> tuple[str, tuple[str, ...]]:
    name, equals, flags = text.partition("=")
    if not equals or not re.fullmatch(r"\w[\w.+-]*", name):
        raise ConfigError(f'--setting must be NAME="FLAGS", got {text!r}')
    try:
        split = tuple(shlex.split(flags))
    except ValueError as error:
        raise ConfigError(f"--setting {name}: {error}") from error
    given = {flag.partition("=")[0].replace("_", "-") for flag in split}
    if ours := {"--seed", "--run-dir"} & given:
        raise ConfigError(f"--setting {name} has {ours.pop()}, which each run gets of its own")
    return name, split


def main(args: list[str]) -> None:
    """Runs ``fastsac bench learning``."""
    form = argparse.RawDescriptionHelpFormatter
    parser = Parser("fastsac bench learning", None, __doc__, formatter_class=form)
    add = parser.add_argument
    add("tasks", nargs="*", metavar="TASK")
    add("--setting", type=_setting, action="append", default=[], help='NAME="TRAIN FLAGS"')
    add("--seeds", type=int, default=2, help="runs of each task and setting (2)")
    add("--jobs", type=int, default=1, help="runs at once (1)")
    add("--threads", type=int, default=0, help="OMP_NUM_THREADS of a run (cores // jobs)")
    add("-o", "--output", type=Path, default=Path("learning"), help="DIR (learning)")
    add("--draw", action="store_true", help="only table and pictures, of what is in DIR")
    parsed = parser.parse_intermixed_args(args)
    readme = parsed.output / "README.md"
    if os.path.exists(readme) and not readme.read_text().startswith(_TITLE):
        raise ConfigError(f"{readme} is not ours to overwrite; choose another --output")
    runs = _runs(parsed)
    failed = train_all(runs, parsed.jobs, parsed.threads) if runs else 0
    report(parsed.output)
    if failed:
        raise RunError(f"{failed} of {len(runs)} runs failed")


def _runs(parsed: argparse.Namespace) -> list[Run]:
    """All runs, the settings in turn: the machine's slow hours hit them alike."""
    named = {task: find(task) for task in parsed.tasks}  # UnknownTask now, not in each run
    settings = dict(parsed.setting)
    if parsed.draw and not named and not settings:
        return []
    if parsed.draw or not named or not settings or len(settings) < len(parsed.setting):
        raise ConfigError("give tasks and settings, each with a name of its own, or --draw alone")
    if min(parsed.seeds, parsed.jobs, parsed.threads or 1) < 1:
        raise ConfigError("--seeds, --jobs and --threads must be at least 1")
    return [
        Run(parsed.output, task, name, flags, seed)
        for task in named
        for seed in range(parsed.seeds)
        for name, flags in settings.items()
    ]
