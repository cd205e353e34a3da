r"""Two files of ``fastsac bench`` rows, case by case.

    fastsac bench compare before.jsonl after.jsonl

B/A is how many times as fast B's median rate is, and its interval is from B's lower quartile over
A's upper one to B's upper over A's lower: where it holds 1, the two are the same. How the
machine drifted between the runs is not in it. Of a case with
several rows the newest counts; trainings have no rate and are left out.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastsac.bench import rows
from fastsac.bench.rows import LABELS, Row
from fastsac.errors import ConfigError
from fastsac.parser import Parser

_DRIFT = "not in the intervals: how the machine drifted between A and B; measure A again to see it"


def main(args: list[str]) -> None:
    """Runs ``fastsac bench compare``."""
    form = argparse.RawDescriptionHelpFormatter
    parser = Parser("fastsac bench compare", None, __doc__, formatter_class=form)
    parser.add_argument("a", type=Path, metavar="A.json", help="rows of `fastsac bench --json`")
    parser.add_argument("b", type=Path, metavar="B.json")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    parsed = parser.parse_args(args)
    found = compared(*(_cases(path) for path in (parsed.a, parsed.b)))
    found = {"a": str(parsed.a), "b": str(parsed.b), **found}
    print(json.dumps(found, indent=1) if parsed.json else text(found))


def _cases(path: Path) -> list[Row]:
    """Returns the newest row of each case with a rate, or with a reason for none."""
    found = [row for row in rows.newest(rows.read([path])) if row["level"] != "learning"]
    if not found:
        raise ConfigError(f"{path} has no rows with rates to compare")
    return found


def compared(a: list[Row], b: list[Row]) -> dict[str, Any]:
    """Returns what two files' rows say about each case.

    Returns:
        "commits" and "dates" of the two, what "differs" between the machines, the "cases" in both,
        those "unavailable" in either, and those "only_in_a" and "only_in_b".
    """
    in_a, in_b = ({rows.key(row): row for row in of} for of in (a, b))
    pairs = [(row, in_b[key]) for key, row in in_a.items() if key in in_b]
    measured = [pair for pair in pairs if not any("unavailable" in row for row in pair)]
    unavailable = [pair for pair in pairs if pair not in measured]
    return {
        **{f"{name}s": [_values(of, name) for of in (a, b)] for name in ("commit", "date")},
        "differs": _differences(a, b),
        "cases": [_case(*pair) for pair in measured],
        "unavailable": [
            {**_labels(one), "a": one.get("unavailable"), "b": two.get("unavailable")}
            for one, two in unavailable
        ],
        "only_in_a": [_labels(row) for key, row in in_a.items() if key not in in_b],
        "only_in_b": [_labels(row) for key, row in in_b.items() if key not in in_a],
    }


def _labels(row: Row) -> Row:
    names = ("level", *LABELS[row["level"]], "unit")
    return {name: row[name] for name in names if name in row}


def _case(a: Row, b: Row) -> Row:
    low, high = (_quotient(b["quartiles"][i], a["quartiles"][1 - i]) for i in (0, 1))
    slower, faster = high is not None and high < 1, low is not None and low > 1
    return {
        **_labels(a),
        "a": a["median"],
        "b": b["median"],
        "ratio": _quotient(b["median"], a["median"]),
        "interval": [low, high],
        "verdict": "faster" if faster else "slower" if slower else "same",
    }


def _quotient(over: float, under: float) -> float | None:
    """None where a rate was rounded to 0."""
    return round(over / under, 3) if under else None


def _values(of: Iterable[Row], name: str) -> list[str]:
    return sorted({str(row.get(name) or "none") for row in of})


def _differences(a: list[Row], b: list[Row]) -> list[dict[str, Any]]:
    """What the machines have not in common, a package's version each for itself."""
    found = [
        (name, _values(a, name), _values(b, name)) for name in ("cpu", "cores", "gpu", "python")
    ]
    for table in ("versions", "peers"):
        packages = [[row.get(table, {}) for row in of] for of in (a, b)]
        names = {name: None for of in packages for each in of for name in each}
        found += [(name, _values(packages[0], name), _values(packages[1], name)) for name in names]
    return [{"what": what, "a": one, "b": two} for what, one, two in found if one != two]


def text(found: dict[str, Any]) -> str:
    """Returns what `compared` found as lines to read."""
    lines = []
    for i, name in enumerate("ab"):
        commits, dates = (" and ".join(found[what][i]) for what in ("commits", "dates"))
        lines.append(f"{name.upper()} {found[name]}: commit {commits or '-'}, {dates or '-'}")
    for one in found["differs"]:
        values = [" and ".join(one[name]) or "-" for name in "ab"]
        lines.insert(
            len(lines) - 2, f"warning: {one['what']} is {values[0]} in A, {values[1]} in B"
        )
    if found["cases"]:
        header = ["case", "A", "B", "unit", "B/A", "interval", ""]
        lines += [_DRIFT, "", *_aligned([header, *map(_cells, found["cases"])])]
    else:
        lines += ["", "No case has a rate in both."]
    for one in found["unavailable"]:
        reasons = [f"in {name.upper()}: {one[name]}" for name in "ab" if one[name]]
        lines.append(f"unavailable {_name(one)} {'; '.join(reasons)}")
    for name in "ab":
        lines += [f"only in {name.upper()}: {_name(one)}" for one in found[f"only_in_{name}"]]
    return "\n".join(lines)


def _name(case: Row) -> str:
    labels = LABELS[case["level"]]
    return " ".join([case["level"], *(str(case[name]) for name in labels if name in case)])


def _cells(case: Row) -> list[str]:
    times = ["-" if x is None else f"{x:.2f}" for x in (case["ratio"], *case["interval"])]
    rates = [rows.rate_text(case[name]) for name in "ab"]
    interval = f"{times[1]} .. {times[2]}"
    return [_name(case), *rates, case["unit"], f"{times[0]}x", interval, case["verdict"]]


def _aligned(table: list[list[str]]) -> list[str]:
    """Lines of columns as wide as they must be; rates and ratios to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i in (1, 2, 4) else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
