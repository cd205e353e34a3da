"""The page of results: bench/README.md and its pictures, from the rows alone.

The same rows give the same bytes.
"""

import os
import shlex
from collections.abc import Iterable
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from fastsac.bench import page_plots, page_tables, peers
from fastsac.bench import rows as bench_rows
from fastsac.bench.harness import RESULTS
from fastsac.bench.page_tables import Comparison, case_name, comparisons
from fastsac.bench.rows import LABELS, Row, machine
from fastsac.errors import ConfigError
from fastsac.parser import Parser

_TITLE = "# Speed\n"
OTHERS = ("solver.jsonl", "offline.jsonl", "adapters.jsonl")  # rows of another kind
_HOW = """
Written by `fastsac bench page` from the rows that `fastsac bench` measured.

The cases of a group take turns (A B A B ...), after a round that is not timed. A rate is the median
of the rounds, a ratio the median of the rounds' own ratios: a slow moment of the machine slows both
sides of it. "ours / peer" is how many times as fast as the peer ours is, in **bold** where the peer
is faster; it is given only where both were measured in one run. A dash stands where a case could
not be measured; the reason is below its table. Of a case that was measured again on the same
machine the newest row counts. "Until timed" is setting up, settling and warming up. Memory is of
this process. Pictures show the cases with the most peers."""

_LEVELS = {
    "envs": (
        "Environment steps",
        'Action in, observation out. "Physics alone" are bare physics steps of the same worlds, '
        "without observation, reward and reset, on every core; ours costs so many times their "
        "time. The goal for humanoid and walker is 1.3x on a CPU and 1.15x on a GPU. Our worlds' "
        "episodes end one after another, as in a training, and so do EnvPool's (its seconds until "
        "timed hold the episode that spreads them); Gymnasium's end all at once, which most of "
        "its rounds do not see.",
    ),
    "learner": (
        "Updates",
        "SAC's gradient updates a second, sampling from the replay included. The roofline is the "
        "time that the update's multiplications would take at the rate of one of its own. A ratio "
        "with \\* is to ours with another number of updates a call; it counts for nothing else.",
    ),
    "kernels": (
        "Kernels",
        "Calls a second of each fused operation beside torch's own ways, forward and, where there "
        "are gradients, backward. Ours run on a GPU; on a CPU these are torch's alone. The "
        "roofline is the time of a copy that moves the same bytes.",
    ),
    "train": (
        "The training loop",
        "Environment steps a second of the whole loop, and below how much of its time its parts "
        "take alone on the same work. The rest is what they leave; where it is below 0 they ran "
        "at once.",
    ),
    "learning": (
        "Learning speed",
        "What a training reached, after so many steps and seconds; interquartile means over the "
        "seeds. Curves, intervals and the seconds to the same return: [{link}]({link}).",
    ),
}


def main(args: list[str]) -> None:
    """Runs ``fastsac bench page``."""
    parser = Parser("fastsac bench page", None, __doc__)
    add = parser.add_argument
    default = f"bench/results/*.jsonl but {', '.join(OTHERS)}, and learning/runs.jsonl there"
    add("files", nargs="*", type=Path, metavar="FILE", help=f"rows ({default})")
    add("-o", "--output", type=Path, default=RESULTS.parent, metavar="DIR", help="(bench)")
    parsed = parser.parse_args(args)
    found = bench_rows.read(parsed.files or _default_files())
    if not found:
        raise ConfigError("there are no rows: make some with `fastsac bench --json FILE`")
    write(found, parsed.output)


def _default_files() -> list[Path]:
    files = [path for path in sorted(RESULTS.glob("*.jsonl")) if path.name not in OTHERS]
    return [*files, *RESULTS.glob("learning/runs.jsonl")]


def write(rows: list[Row], directory: Path) -> None:
    """Writes README.md and plots/*.svg; ConfigError where that cannot be or is another's."""
    readme, plots = directory / "README.md", directory / "plots"
    page = Page(rows, directory)
    text = page.text()
    try:
        if readme.exists() and not readme.read_text(errors="replace").startswith(_TITLE):
            raise ConfigError(f"{readme} is not ours to overwrite; choose another --output")
        plots.mkdir(parents=True, exist_ok=True)
        for old in plots.glob("*.svg"):  # of machines that are no longer there
            if old.stem.partition("-")[0] in LABELS:
                old.unlink()
        for name, figure in page.figures.items():
            page_plots.save(figure, plots / name)
        readme.write_text(text)
    except OSError as error:
        raise ConfigError(f"cannot write --output {directory}: {error.strerror}") from error
    print(f"{readme}: from {len(rows)} rows, with {len(page.figures)} pictures")


class Page:
    """The newest rows by level and machine, as text.

    Attributes:
        machines: letter of each.
        figures: what `text` drew, by file name.
    """

    def __init__(self, rows: Iterable[Row], directory: Path):
        rows = bench_rows.newest(rows, lambda row: (bench_rows.key(row), machine(row)))
        self.link = os.path.relpath(RESULTS / "learning" / "README.md", directory)
        self.levels: dict[str, dict[str, list[Row]]] = {level: {} for level in LABELS}
        for row in rows:
            self.levels[row["level"]].setdefault(machine(row), []).append(row)
        every = dict.fromkeys(m for machines in self.levels.values() for m in machines)
        self.machines = {m: ascii_uppercase[i % 26] * (i // 26 + 1) for i, m in enumerate(every)}
        self.figures: dict[str, Any] = {}

    def text(self) -> str:
        """Returns the page in Markdown and draws its figures."""
        parts = [_TITLE.strip(), _HOW.strip(), *self._not_on_a_gpu()]
        parts += ["## Where a peer wins", self._wins()]
        for level, (title, explanation) in _LEVELS.items():
            parts += [f"## {title}", explanation.format(link=self.link)]
            parts += [] if self.levels[level] else ["Not measured yet."]
            for rows in self.levels[level].values():
                parts += [f"### {title}, machine {self._letter(rows)}", self._source(rows)]
                is_training = level == "learning"
                parts += [page_tables.trainings(rows)] if is_training else self._level(level, rows)
        parts += ["## Peers", self._peers(), "## Machines", self._machines()]
        return "\n\n".join(part for part in parts if part) + "\n"

    def _letter(self, rows: list[Row]) -> str:
        return self.machines[machine(rows[0])]

    def _not_on_a_gpu(self) -> list[str]:
        missing = [
            title
            for level, (title, _) in _LEVELS.items()
            if not any(row.get("gpu") for rows in self.levels[level].values() for row in rows)
        ]
        return [f"**Not measured on a GPU yet:** {', '.join(missing)}."] if missing else []

    def _wins(self) -> str:
        by_peer: dict[tuple[str, str, str], list[Comparison]] = {}
        for level, (title, _) in _LEVELS.items():
            for rows in self.levels[level].values() if level != "learning" else ():
                for one in filter(lambda one: one.is_same_work, comparisons(rows)):
                    of = title, self._letter(rows), one.peer["variant"]
                    by_peer.setdefault(of, []).append(one)
        lines = []
        for (title, letter, peer), every in by_peer.items():
            won = [one for one in every if one.times < 1]
            cases = "; ".join(f"{case_name(one.peer)}: {1 / one.times:.2f}x" for one in won)
            count = f"{len(won)} of {len(every)}"
            lines += (
                [f"- {title}, machine {letter}: **{peer}** in {count} ({cases})"] if won else []
            )
        if lines:
            return "So many times as fast as ours is:\n\n" + "\n".join(lines)
        if by_peer:
            compared = sum(map(len, by_peer.values()))
            return f"Nowhere: ours is at least as fast in every comparison ({compared})."
        return "No peer was measured beside ours."

    def _source(self, rows: list[Row]) -> str:
        """Dates, commits, and how to measure it again."""
        when = sorted({tuple(row.get(k) or "unknown" for k in ("date", "commit")) for row in rows})
        said = "Measured " + ", ".join(f"{date} at commit {commit}" for date, commit in when)
        level = rows[0]["level"]
        if level == "learning":
            return f"{said} with\n\n```\n{_training_commands(rows)}\n```"
        files = sorted({row["file"] for row in rows})
        again = " and ".join(f"`fastsac bench {level} --json {_shown(file)}`" for file in files)
        return f"{said} with {again}."

    def _level(self, level: str, rows: list[Row]) -> list[str]:
        """A level's tables and pictures on a machine."""
        letter = self._letter(rows)
        engines = dict.fromkeys(row.get("engine") for row in rows)
        parts = [
            page_tables.side_by_side([row for row in rows if row.get("engine") == engine])
            for engine in engines
        ]
        parts += [page_tables.parts_of_loop(rows)] if level == "train" else []
        if compared := [one for one in comparisons(rows) if one.is_same_work]:
            parts += [self._figure(f"{level}-{letter.lower()}.svg", page_plots.bars(compared))]
        if level == "envs" and (curves := _curves(rows)):
            name = f"envs-scaling-{letter.lower()}.svg"
            parts += [self._figure(name, page_plots.scaling(curves))]
        parts += [_reasons(rows)]
        if table := page_tables.everything(rows):
            summary = "Every case: spread, setting up, memory"
            parts += [f"<details><summary>{summary}</summary>\n\n{table}\n\n</details>"]
        return parts

    def _figure(self, name: str, figure: Any) -> str:
        self.figures[name] = figure
        return f"![{Path(name).stem}](plots/{name})"

    def _peers(self) -> str:
        every = [row for of in self.levels.values() for rows in of.values() for row in rows]
        found = dict.fromkeys(row.get("variant") for row in every)
        noted = [f"- {name}: {note}." for name, note in peers.NOTES.items() if name in found]
        how = "They are adapters of a few lines in bench/peers/, each an extra with pinned versions"
        return "\n".join([f"{how}: `pip install -c constraints.txt -e '.[bench]'`.", "", *noted])

    def _machines(self) -> str:
        rows = {machine(r): r for of in self.levels.values() for rows in of.values() for r in rows}
        header = ["machine", "CPU", "cores", "GPU", "Python", "versions", "peers"]
        peers_of: dict[str, dict[str, str]] = {identity: {} for identity in rows}
        for one in (one for of in self.levels.values() for rs in of.values() for one in rs):
            peers_of[machine(one)] |= one.get("peers", {})
        table = []
        for identity, letter in self.machines.items():
            row = rows[identity]
            cells = [str(row.get(name) or "-") for name in ("cpu", "cores", "gpu", "python")]
            packages = row["versions"], peers_of[identity]
            cells += [", ".join(f"{k} {v}" for k, v in of.items() if v) or "-" for of in packages]
            table.append([letter, *cells])
        return page_tables.markdown(header, table)


def _shown(file: str) -> str:
    """A file's path, of ours from the repository's root."""
    path, results = Path(file).resolve(), RESULTS.resolve()
    inside = path.is_relative_to(results)
    return f"bench/results/{path.relative_to(results).as_posix()}" if inside else file


def _training_commands(rows: list[Row]) -> str:
    """The command for each task, with all its settings."""
    lines = []
    for task in dict.fromkeys(row["task"] for row in rows):
        of = [row for row in rows if row["task"] == task]
        settings = {row["setting"]: row.get("flags", []) for row in of}
        words = ["fastsac", "bench", "learning", task, "--seeds"]
        words += [str(1 + max(row["seed"] for row in of))]
        for name in ("jobs", "threads"):
            words += [f"--{name}", str(of[-1][name])] if name in of[-1] else []
        for setting, flags in settings.items():
            words += ["--setting", f"{setting}={shlex.join(flags)}"]
        lines.append(shlex.join(words))
    return "\n".join(lines)


def _curves(rows: list[Row]) -> dict[str, dict[str, list[Row]]]:
    """Rows by task with engine and by variant, of rising worlds, where ours has several numbers."""
    curves: dict[str, dict[str, list[Row]]] = {}
    for row in sorted(rows, key=lambda row: row["num_envs"]):
        if row.get("median"):
            name = f"{row['task']}, {row['engine']}"
            curves.setdefault(name, {}).setdefault(row["variant"], []).append(row)
    return {
        name: {variant: of for variant, of in variants.items() if len(of) > 1}
        for name, variants in curves.items()
        if len(variants.get("ours", [])) > 1
    }


def _reasons(rows: list[Row]) -> str:
    """Why cases are not measured, a line a variant and reason."""
    counts: dict[tuple[str, str], int] = {}
    for row in rows:
        if reason := row.get("unavailable"):
            of = row["variant"], reason.replace("`", "'")
            counts[of] = counts.get(of, 0) + 1
    if not counts:
        return ""
    lines = [f"- {variant} ({n}): `{reason}`" for (variant, reason), n in counts.items()]
    return "\n".join(["Not measured (cases):", "", *lines])
