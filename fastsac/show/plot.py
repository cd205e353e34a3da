"""Learning curves of runs as a picture."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastsac.errors import RunError
from fastsac.runs.directory import CONFIG, short_name
from fastsac.runs.listing import read_config, read_metrics
from fastsac.runs.statistics import Curve, Summary, bootstrap_interval

AXES = {"step": "environment steps", "seconds": "seconds"}
# Pictures have no ground of their own. Contrasts on white and on GitHub's dark #0d1117: of the text
# 4.1 and 4.7 to 1, of the lines at least 3.2 to 1 on either.
INK = "#777f88"
LEGEND: dict[str, Any] = {"labelcolor": INK, "frameon": False}
_COLORS = ("#2f81d6", "#d9730d", "#2f9e44", "#e03e3e", "#9b6ddb", "#128a94", "#c2559d", "#b8860b")


def plot_runs(runs: Sequence[str], output: Path, group_by: str | None = None) -> None:
    """Draws the evaluation returns of runs against steps and against seconds.

    Args:
        runs: run directories.
        output: the picture to write, .png, .svg or .pdf.
        group_by: draw one line for all runs with the same "task", "preset" or "seed": their
            interquartile mean and its 95% interval, at the steps that they have in common.

    Raises:
        RunError: a run without evaluations or with damaged files, a group without common steps,
            matplotlib missing, or an unknown kind of picture.
    """
    if output.suffix not in (".png", ".svg", ".pdf"):
        raise RunError(f"-o must end in .png, .svg or .pdf, got {output}")
    paths = list({os.path.realpath(run): Path(run) for run in runs}.values())
    curves = {path: _evaluations(path) for path in paths}
    if group_by is None:
        figure = draw_runs(dict(zip(labels(paths), curves.values(), strict=True)))
    else:
        groups: dict[str, list[Curve]] = {}
        for path, curve in curves.items():
            value = str(read_config(path)[group_by])
            name = value if group_by == "task" else f"{group_by} {value}"
            groups.setdefault(name, []).append(curve)
        figure = draw_groups(groups)
    try:
        figure.savefig(output, dpi=120, bbox_inches="tight")  # long labels too
    except OSError as error:
        raise RunError(f"cannot write -o {output}: {error.strerror}") from error


def _evaluations(run: Path) -> Curve:
    curve, _ = read_metrics(run)
    if not len(curve["step"]):
        raise RunError(f"{run} has no evaluation yet")
    return curve


def draw_runs(curves: Mapping[str, Curve], axes: Mapping[str, str] = AXES) -> Any:
    """Returns a figure of curves by their labels, with the deviation over episodes.

    Without a label, a single curve gets no legend.

    Raises:
        RunError: matplotlib is missing.
    """
    figure, panels = panels_of_returns(axes)
    for column, panel in panels.items():
        for label, curve in curves.items():
            mean, std = curve["eval_return"], curve["eval_return_std"]
            band = mean - std, mean + std
            _line(panel, curve[column], mean, band, label)
        panel.set_xlim(0, None)
    first = next(iter(panels.values()))
    first.set_ylabel("return, mean and std over episodes")
    if any(curves):
        _add_legend(figure, first, "each line is one run" if len(curves) > 1 else "one run")
    return figure


def draw_groups(groups: Mapping[str, Sequence[Curve]]) -> Any:
    """Returns a figure of groups of runs by their names: their IQM, with its 95% interval.

    Raises:
        RunError: runs of a group have no steps in common, or matplotlib is missing.
    """
    figure, panels = panels_of_returns(AXES)
    for name, curves in groups.items():
        if max(c["step"][0] for c in curves) > min(c["step"][-1] for c in curves):
            raise RunError(f"the runs of {name} have no steps in common to average over")
        summary = Summary(curves)
        label = f"{name} ({len(curves)} run{'s' * (len(curves) > 1)})"
        for column, panel in panels.items():
            band = bootstrap_interval(summary.returns)
            _line(panel, summary.x[column], summary.mean, band, label)
    panels["step"].set_ylabel("return, IQM and 95% interval over runs")
    panels["seconds"].set_xlabel("seconds, IQM over runs")
    _add_legend(figure, panels["step"])
    return figure


def _line(
    panel: Any, x: np.ndarray, y: np.ndarray, band: tuple[np.ndarray, np.ndarray] | None, label: str
) -> None:
    # A dollar sign would begin a formula.
    (line,) = panel.plot(x, y, marker=".", label=label.replace("$", r"\$"))
    if band is not None:
        panel.fill_between(x, *band, color=line.get_color(), alpha=0.2, linewidth=0)


def _add_legend(figure: Any, panel: Any, title: str | None = None) -> None:
    """Puts a legend of a panel's lines below the panels, which keep their height."""
    handles = panel.get_lines()
    columns = len(figure.axes)
    figure.set_figheight(figure.get_figheight() + 0.22 * (-(-len(handles) // columns) + 1))
    names = [line.get_label() for line in handles]
    legend = figure.legend(
        handles, names, title=title, loc="outside lower center", ncols=columns, **LEGEND
    )
    legend.get_title().set_color(INK)


def panels_of_returns(axes: Mapping[str, str], sharey: bool = True) -> tuple[Any, dict[str, Any]]:
    """Returns a matplotlib figure and its panels, side by side, of returns from 0 to 1000.

    It reads on a light and on a dark page.

    Args:
        axes: a key and the label of the x axis for each.
        sharey: whether the panels have one y axis.

    Raises:
        RunError: matplotlib is missing.
    """
    try:
        from cycler import cycler
        from matplotlib import rc_context
        from matplotlib.figure import Figure
        from matplotlib.ticker import EngFormatter
    except ModuleNotFoundError as error:
        raise RunError("plots need matplotlib: pip install 'fastsac[plot]'") from error
    axes_parts = ("axes.edgecolor", "axes.labelcolor", "grid.color", "xtick.color", "ytick.color")
    inked: Any = dict.fromkeys(("text.color", *axes_parts), INK)
    with rc_context(inked):
        figure = Figure(figsize=(5 * len(axes), 4), layout="constrained", facecolor="none")
        (row,) = figure.subplots(1, len(axes), sharey=sharey, squeeze=False)
    panels = dict(zip(axes, row, strict=True))
    styles = cycler(linestyle=("-", "--", ":")) * cycler(color=_COLORS)
    for panel, label in zip(panels.values(), axes.values(), strict=True):
        panel.set(xlabel=label, ylim=(0, 1000), facecolor="none", prop_cycle=styles)
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panel.grid(alpha=0.3)
    return figure, panels


def labels(runs: Sequence[Path]) -> list[str]:
    """Returns a label of each run, all different; RunError where a configuration is damaged."""
    names = [_label(run) for run in runs]
    count = Counter(names)
    return [
        name if count[name] == 1 else f"{name}, {run}"
        for name, run in zip(names, runs, strict=True)
    ]


def _label(run: Path) -> str:
    if not (run / CONFIG).exists():
        return f"run {os.path.basename(os.path.realpath(run))}"
    config = read_config(run)
    return f"{short_name(config['task'])}, preset {config['preset']}, seed {config['seed']}"
