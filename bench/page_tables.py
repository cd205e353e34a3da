"""Tables of ``fastsac bench page``: ours beside the peers, the loop's parts, all there is."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastsac.bench.rows import LABELS, Row, rate_text, ratio
from fastsac.runs.statistics import interquartile_mean

PARTS = ("env", "learner", "transfer")  # of the training loop, each alone
_LIMITS = ("matmul", "copy")
_OURS = ("ours", "ours+graph", "ours-compiled")
_BUSY = "busy"  # ours beside other programs
_COMPILED = ("compile", "sbx")  # peers whose updates are one program
# What an environment step may cost of its bare physics, with and without a GPU.
_GOALS = {True: 1.15, False: 1.3}
_GOAL_DOMAINS = ("humanoid", "walker")

_HEADINGS = {
    "num_envs": "worlds",
    "batch_size": "batch",
    "hidden_sizes": "width",
    "updates_per_call": "updates a call",
    "updates_per_step": "updates a vector step",
}
_IN_NAMES = {
    "num_envs": "{} world{s}",
    "batch_size": "batch {}",
    "updates_per_call": "{} update{s} a call",
    "updates_per_step": "{} update{s} a vector step",
}


class Comparison(NamedTuple):
    """A peer beside ours, and how many times as fast ours is.

    Attributes:
        peer: its row.
        ours: the row that it is held against.
        times: ours / peer.
    """

    peer: Row
    ours: Row
    times: float

    @property
    def is_same_work(self) -> bool:
        """Whether both did as many updates a call."""
        return case(self.peer) == case(self.ours)


def is_peer(row: Row) -> bool:
    """Whether the row is neither ours nor a limit."""
    return row["variant"] not in (*_OURS, *PARTS, *_LIMITS, _BUSY, "physics")


def case(row: Row) -> tuple[Any, ...]:
    """Returns a row's labels but which variant it is."""
    return tuple(row.get(name) for name in LABELS[row["level"]] if name != "variant")


def case_name(row: Row) -> str:
    """Returns the same in words, without the device, which the machine tells."""
    names = [n for n in LABELS[row["level"]] if n in row and n not in ("variant", "device")]
    return ", ".join(
        _IN_NAMES.get(name, "{}").format(row[name], s="" if row[name] == 1 else "s")
        for name in names
    )


def comparisons(rows: Iterable[Row]) -> list[Comparison]:
    """Returns each measured peer with ours, from rows of any levels and machines."""
    rows = list(rows)
    return [
        Comparison(row, ours, times)
        for row in rows
        if is_peer(row) and (ours := _ours_for(row, rows)) and (times := ratio(ours, row))
    ]


def _ours_for(peer: Row, rows: Iterable[Row]) -> Row | None:
    """Ours of the peer's group, as precise as it is; None where there is none.

    Of several the one in a graph where the peer is in one, compiled where it is, with as many
    updates a call, or else with the most.
    """

    def likeness(row: Row) -> tuple[bool, bool, bool, float]:
        graph = row["variant"].endswith("+graph") == peer["variant"].endswith("+graph")
        compiled = row["variant"].endswith("-compiled") == (peer["variant"] in _COMPILED)
        return graph, compiled, case(row) == case(peer), row.get("updates_per_call", 0)

    same = ("level", "group", "run", "precision")
    ours = [
        row
        for row in rows
        if row["variant"] in _OURS
        and "median" in row
        and all(row.get(name) == peer.get(name) for name in same)
    ]
    return max(ours, key=likeness, default=None)


def markdown(header: Sequence[str], table: Iterable[Sequence[str]]) -> str:
    """Returns a table without the columns that are empty, and nothing without rows."""
    table = [[cell.replace("|", r"\|") for cell in row] for row in table]
    if not table:
        return ""
    kept = [i for i in range(len(header)) if any(row[i] for row in table)]
    lines = [[header[i] for i in kept], ["---"] * len(kept)]
    lines += [[row[i] for i in kept] for row in table]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def by_case(rows: Iterable[Row]) -> dict[tuple[Any, ...], dict[str, Row]]:
    """Returns the rows of each case by their variant."""
    found: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        if row["variant"] not in _LIMITS:
            found.setdefault(case(row), {})[row["variant"]] = row
    return found


def side_by_side(rows: list[Row]) -> str:
    """Returns a level's table on one machine: a line a case, ours and every peer."""
    cases = by_case(rows)
    level = rows[0]["level"]
    labels = [name for name in LABELS[level] if name != "variant"]
    variants = {row["variant"]: is_peer(row) for row in rows}
    ours = [name for name in _OURS if name in variants]
    peers = [name for name, peer in variants.items() if peer]
    times = {id(one.peer): one for one in comparisons(rows)}
    header = [_HEADINGS.get(name, name) for name in labels] + ours
    header += [name for peer in peers for name in (peer, f"ours / {peer}")]
    header += ["ours, of roofline"]
    if level == "envs":
        header += ["physics alone", "our step costs", "goal"]
    table = []
    for labelled, of in cases.items():
        cells = ["" if label is None else str(label) for label in labelled]
        cells += [_rate(of.get(name)) for name in ours]
        for name in peers:
            cells += [_rate(of.get(name)), _times(times.get(id(of.get(name))))]
        fraction = of.get("ours", {}).get("roofline")
        cells += ["" if fraction is None else f"{fraction:.1%}"]
        if level == "envs":
            cells += _over_physics(of)
        table.append(cells)
    return markdown(header, table)


def _rate(row: Row | None) -> str:
    if row is None:
        return ""
    return rate_text(row["median"]) if "median" in row else "-"


def _times(one: Comparison | None) -> str:
    if one is None:
        return ""
    text = f"{one.times:.2f}x"
    note = "" if one.is_same_work else r" \*"
    return (f"**{text}**" if one.times < 1 else text) + note


def _over_physics(of: dict[str, Row]) -> list[str]:
    """Cells: the bare physics' rate, what a step of ours costs of it, and the goal."""
    physics, ours = of.get("physics"), of.get("ours")
    times = ratio(physics, ours) if physics and ours else None
    if not times or not ours:
        return [_rate(physics), "", ""]
    goal = _GOALS[bool(ours.get("gpu"))]
    met = "met" if times <= goal else "missed"
    has_goal = ours["task"].rsplit("_", 1)[0] in _GOAL_DOMAINS
    return [_rate(physics), f"{times:.2f}x", f"{goal}x: {met}" if has_goal else ""]


def parts_of_loop(rows: list[Row]) -> str:
    """Returns the table of which share of the training loop's time its parts take alone."""
    table = []
    for labelled, of in by_case(rows).items():
        if not set(PARTS) & of.keys():
            continue
        shares = [ratio(of["ours"], of[p]) if {p, "ours"} <= of.keys() else None for p in PARTS]
        known = [share for share in shares if share is not None]
        rest = 1 - sum(known) if len(known) == len(PARTS) else None
        cells = ["-" if share is None else f"{share:.1%}" for share in (*shares, rest)]
        kept = ratio(of[_BUSY], of["ours"]) if {_BUSY, "ours"} <= of.keys() else None
        cells += ["" if kept is None else f"{kept:.1%}"]
        table.append([*map(str, labelled), _rate(of.get("ours")), *cells])
    labels = [_HEADINGS.get(name, name) for name in LABELS["train"] if name != "variant"]
    busy = "of its speed beside as many busy programs as cores"
    return markdown([*labels, "ours", *PARTS, "rest", busy], table)


def everything(rows: list[Row]) -> str:
    """Returns the table of all measured rows: spread, roofline, and what setting up took."""
    labels = LABELS[rows[0]["level"]]
    header = [_HEADINGS.get(name, name) for name in labels]
    header += ["median", "quartiles", "unit", "rounds", "of roofline"]
    costs = {
        "setup_s": "until timed, s",
        "compile_s": "of it compiling, s",
        "memory_mb": "memory, MB",
        "device_memory_mb": "GPU memory, MB",
    }
    table = []
    for row in rows:
        if "median" not in row:
            continue
        cells = [str(row.get(name, "")) for name in labels]
        scale, unit = (1e9, "G") if row["variant"] in _LIMITS else (1, "")
        rates = [rate_text(rate / scale) for rate in (row["median"], *row["quartiles"])]
        cells += [rates[0], f"{rates[1]} - {rates[2]}", unit + row["unit"]]
        cells += [str(len(row["samples"])) if "samples" in row else ""]
        cells += [f"{row['roofline']:.1%}" if "roofline" in row else ""]
        table.append(cells + [f"{row[name]:g}" if name in row else "" for name in costs])
    return markdown([*header, *costs.values()], table)


def trainings(rows: list[Row]) -> str:
    """Returns level 4's table: a line a task and setting, interquartile means over its runs."""
    groups: dict[tuple[str, str], list[Row]] = {}
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    for row in sorted(rows, key=lambda row: tasks.index(row["task"])):
        groups.setdefault((row["task"], row["setting"]), []).append(row)
    header = ["task", "setting", "seeds", "return", "environment steps", "seconds", "CPU seconds"]
    table = []
    for names, of in groups.items():
        cells = [*names, str(len(of)), f"{_mean(of, 'final_return'):.1f}"]
        for name in ("steps", "seconds", "cpu_seconds"):
            has_all = all(name in row for row in of)
            cells.append(f"{_mean(of, name):,.0f}" if has_all else "")
        table.append(cells)
    return markdown(header, table)


def _mean(rows: Iterable[Row], name: str) -> float:
    return float(interquartile_mean(np.array([row[name] for row in rows])))
