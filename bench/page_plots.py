"""Pictures of ``fastsac bench page``, to be read on white and on dark pages."""

import math
from pathlib import Path
from typing import Any

from fastsac.bench.page_tables import Comparison, case_name
from fastsac.bench.rows import Row
from fastsac.show.plot import INK, LEGEND, panels_of_returns

MOST_CASES = 12  # of a bar chart
_INCHES_A_BAR, _INCHES_AROUND = 0.19, 1.2
# The same rows give the same bytes.
_FIXED = {"svg.hashsalt": "fastsac", "svg.fonttype": "path"}


def bars(compared: list[Comparison]) -> Any:
    """Returns a figure of how many times as fast as each peer ours is, a group of bars a case.

    The cases are those with the most peers, at most MOST_CASES.
    """
    cases: dict[str, dict[str, float]] = {}
    for one in compared:
        cases.setdefault(case_name(one.peer), {})[one.peer["variant"]] = one.times
    most = sorted(cases, key=lambda name: -len(cases[name]))[:MOST_CASES]
    cases = {name: of for name, of in cases.items() if name in most}
    peers = list(dict.fromkeys(peer for of in cases.values() for peer in of))
    figure, panel = _panel("ours / peer (right of 1: ours is faster)")
    position, middles = 0.0, []
    places: dict[str, list[tuple[float, float]]] = {peer: [] for peer in peers}
    for of in cases.values():
        middles.append(position + (len(of) - 1) / 2)
        for peer in peers:
            if peer in of:
                places[peer].append((position, of[peer]))
                position += 1
        position += 0.7
    for peer in peers:
        at, times = zip(*places[peer], strict=True)
        widths = [x - 1 for x in times]
        drawn = panel.barh(at, widths, height=0.85, left=1, linewidth=0, label=peer)
        panel.bar_label(drawn, [f"{x:.2f}x" for x in times], padding=3, color=INK, fontsize=8)
    panel.axvline(1, color=INK, linewidth=1)
    panel.set(xscale="log", yticks=middles, yticklabels=list(cases), ylim=(position - 0.9, -0.8))
    # Room for the labels at the bars' ends.
    every = [times for of in cases.values() for times in of.values()]
    panel.set_xlim(min(*every, 1 / 1.2) / 1.35, max(*every, 1.2) * 1.5)
    _plain_ticks(panel.xaxis, "x")
    panel.grid(False, axis="y")
    panel.tick_params(axis="y", length=0)
    figure.set_size_inches(8, _INCHES_AROUND + _INCHES_A_BAR * position)
    figure.legend(loc="outside upper center", ncols=min(len(peers), 5), **LEGEND)
    return figure


def scaling(curves: dict[str, dict[str, list[Row]]]) -> Any:
    """Returns a figure of env steps a second against the worlds, by names and variants."""
    figure, panel = _panel("worlds")
    worlds = set()
    for name, variants in curves.items():
        color = None
        for i, (variant, rows) in enumerate(variants.items()):
            x = [row["num_envs"] for row in rows]
            worlds |= set(x)
            style = {"linestyle": ("-", "--", ":", "-.")[i % 4], "marker": ".", "color": color}
            label = f"{name}, {variant}"
            (line,) = panel.plot(x, [row["median"] for row in rows], label=label, **style)
            low, high = zip(*(row["quartiles"] for row in rows), strict=True)
            color = line.get_color()
            panel.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
    panel.set(xscale="log", yscale="log", ylabel="env steps/s")
    panel.set_xticks(sorted(worlds), [f"{x:g}" for x in sorted(worlds)], minor=False)
    panel.set_xticks([], minor=True)
    _plain_ticks(panel.yaxis, "")
    figure.set_size_inches(8, 4.2)
    figure.legend(loc="outside right upper", **LEGEND)
    return figure


def _panel(xlabel: str) -> tuple[Any, Any]:
    figure, panels = panels_of_returns({"x": xlabel})
    panel = panels["x"]
    panel.set_ylim(auto=True)
    return figure, panel


def _plain_ticks(axis: Any, suffix: str) -> None:
    """Ticks at 1, 2 and 5 of each power of ten, or where they are many the powers alone."""
    from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullLocator

    low, high = axis.get_view_interval()
    subs = (1.0, 2.0, 5.0) if math.log10(high / low) < 3 else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_minor_locator(NullLocator())
    plain = FuncFormatter(lambda value, _: f"{value:g}{suffix}")
    axis.set_major_formatter(plain if suffix else EngFormatter(sep=""))


def save(figure: Any, path: Path) -> None:
    """Writes an SVG whose bytes depend on the figure only."""
    from matplotlib import rc_context

    with rc_context(_FIXED):  # type: ignore[arg-type]
        figure.savefig(path, metadata={"Date": None, "Creator": None})
