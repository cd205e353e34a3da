"""Learning curves of runs as a picture."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastsac.errors import RunError

_AXES = {"step": "environment steps", "seconds": "seconds"}


def plot_runs(runs: Sequence[str], output: Path) -> None:
    """Draws the evaluation returns of runs against steps and against seconds.

    Args:
        runs: run directories.
        output: the picture to write, .png, .svg or .pdf.

    Raises:
        RunError: a run without evaluations, matplotlib missing, or an unknown kind of picture.
    """
    figure, panels = panels_of_returns(_AXES)
    if output.suffix not in (".png", ".svg", ".pdf"):
        raise RunError(f"-o must end in .png, .svg or .pdf, got {output}")
    curves = {run: _read(Path(run)) for run in runs}
    for column, panel in panels.items():
        for run, rows in curves.items():
            x = [float(row[column]) for row in rows]
            mean = [float(row["eval_return"]) for row in rows]
            std = [float(row["eval_return_std"]) for row in rows]
            (line,) = panel.plot(x, mean, marker=".", label=_label(Path(run)))
            low = [m - s for m, s in zip(mean, std, strict=True)]
            high = [m + s for m, s in zip(mean, std, strict=True)]
            panel.fill_between(x, low, high, color=line.get_color(), alpha=0.2)
    panels["step"].set_ylabel("return, mean and std over episodes")
    panels["step"].legend()
    figure.savefig(output, dpi=120)


def panels_of_returns(axes: Mapping[str, str]) -> tuple[Any, dict[str, Any]]:
    """Returns a matplotlib figure and its panels, side by side, of returns from 0 to 1000.

    Args:
        axes: a key and the label of the x axis for each.

    Raises:
        RunError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import EngFormatter
    except ModuleNotFoundError as error:
        raise RunError("plots need matplotlib: pip install 'fastsac[plot]'") from error
    figure = Figure(figsize=(5 * len(axes), 4), layout="constrained")
    panels = dict(zip(axes, figure.subplots(1, len(axes), sharey=True), strict=True))
    for panel, label in zip(panels.values(), axes.values(), strict=True):
        panel.set(xlabel=label, ylim=(0, 1000))
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panel.grid(alpha=0.3)
    return figure, panels


def _read(run: Path) -> list[dict[str, str]]:
    try:
        with (run / "metrics.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["eval_return"]]
    except (OSError, KeyError) as error:
        raise RunError(f"{run} holds no readable metrics.csv") from error
    if not rows:
        raise RunError(f"{run} has no evaluation yet")
    return rows


def _label(run: Path) -> str:
    try:
        config = json.loads((run / "config.json").read_text())
        return f"{config['task']}, preset {config['preset']}, seed {config['seed']}"
    except (OSError, ValueError, KeyError):
        return run.name
