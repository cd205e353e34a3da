"""One self-contained page about runs: returns, curves, films, settings, machine, command."""

import base64
import datetime
import importlib.util
import io
import json
import math
import os
import shlex
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import fastsac
from fastsac.errors import RunError, UserError
from fastsac.runs.atomic_write import require_place, write_atomically
from fastsac.runs.directory import short_name
from fastsac.runs.listing import (
    Json,
    describe,
    duration,
    read_config,
    read_machine,
    read_progress,
    read_result,
)
from fastsac.runs.statistics import Curve
from fastsac.show.plot import AXES, draw_runs, labels
from fastsac.training.config import to_json
from fastsac.training.presets import preset_config

# Beginnings of the files that a browser plays, where in them, and their types.
_FILMS = {".gif": (b"GIF8", 0, "image/gif"), ".mp4": (b"ftyp", 4, "video/mp4")}
_SHOT: Json = {"size": (320, 240), "fps": 20.0, "seconds": 8.0}  # about 0.5 MB as a GIF
_SMALL_SHOT = _SHOT | {"size": (256, 192), "seconds": 6.0}  # about 60 kB as an .mp4


def write_report(runs: Sequence[str], output: Path, video: bool = True) -> None:
    """Writes a page about runs that needs no other file and no network.

    Args:
        runs: run directories.
        output: the .html to write; it appears whole or not at all.
        video: show films: the newest .gif or .mp4 in a run's directory, or else a new one of its
            checkpoint. Where none can be rendered the page says why.

    Raises:
        RunError: a run is missing or damaged, there is nowhere to write, or a library is missing.
    """
    template = page_template("report.html")
    require_page(output)
    paths = list({os.path.realpath(run): Path(run) for run in runs}.values())
    rows = [row_of(path) for path in paths]
    curves = [read_progress(path)[0] for path in paths]
    names = labels(paths)
    evaluated = {n: c for n, c in zip(names, curves, strict=True) if len(c["step"])}
    sections = [
        _section(path, row, curve, video)
        for path, row, curve in zip(paths, rows, curves, strict=True)
    ]
    page = template.render(
        title=names[0] if len(paths) == 1 else f"{len(paths)} runs",
        runs=[{"label": name, **section} for name, section in zip(names, sections, strict=True)],
        pictures=pictures_of(evaluated) if len(paths) > 1 else [],
        version=fastsac.__version__,
        date=datetime.date.today().isoformat(),
    )
    write_page(output, page)


def require_page(output: Path) -> None:
    """Refuses an -o that can be no page, before there is work to lose."""
    if output.suffix.lower() not in (".html", ".htm") or os.path.isdir(output):
        raise RunError(f"-o must be a file that ends in .html, got {output}")
    require_place(output)


def write_page(output: Path, page: str) -> None:
    """Writes a page whole or not at all."""
    try:
        write_atomically(output, page.encode("utf-8", errors="replace"))
    except OSError as error:
        raise RunError(str(error)) from error


def page_template(name: str) -> Any:
    """Returns one of this folder's templates; RunError where Jinja2 is missing."""
    try:
        from jinja2 import Environment, StrictUndefined
    except ModuleNotFoundError as error:
        raise RunError("a report needs Jinja2: pip install 'fastsac[report]'") from error
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["duration"] = duration
    return environment.from_string(Path(__file__).with_name(name).read_text("utf-8"))


def row_of(run: Path) -> Json:
    """Returns a run's line of the listing; RunError where it is damaged."""
    row = describe(run)
    if row["state"] == "damaged":
        raise RunError(row["reason"])
    return row


def _section(run: Path, row: Json, curve: Curve, video: bool) -> Json:
    """Returns what the page says of a run."""
    config, machine = read_config(run), read_machine(run)
    command = machine.pop("command", None)
    command = shlex.join(map(str, command)) if isinstance(command, list) else command
    settings, sentence = _settings(config)
    return {
        "row": row,
        "name": short_name(config["task"]),
        "result": result_of(run),
        "pictures": pictures_of({"": curve}) if len(curve["step"]) else [],
        "film": film_of(run) if video else {},
        "settings": settings,
        "settings_sentence": sentence,
        "machine": {name: _words(value) for name, value in machine.items()},
        "command": None if command is None else _words(command),
    }


def result_of(run: Path) -> Json:
    """Returns result.json, with None for what is no number and should be, or nothing."""
    result = read_result(run) or {}
    returns = result.get("returns")
    result["returns"] = returns if isinstance(returns, list) and all(map(_finite, returns)) else []
    for key in ("updates", "seconds"):
        result[key] = result.get(key) if _finite(result.get(key)) else None
    return {"backend": None} | result


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def pictures_of(curves: Mapping[str, Curve], axes: Collection[str] = tuple(AXES)) -> list[Json]:
    """Returns a picture for each axis, as the page's images."""
    pictures = []
    for column in axes:
        label = AXES[column]
        figure = draw_runs(curves, {column: label})
        figure.set_size_inches(4.8, figure.get_figheight() - 0.6)
        file = io.BytesIO()
        figure.savefig(file, format="svg", bbox_inches="tight", metadata={"Date": None})
        last = ", ".join(f"{c['eval_return'][-1]:.1f}" for c in curves.values())
        words = f"Return against {label}; at the end {last}"
        pictures.append({"uri": _uri("image/svg+xml", file.getvalue()), "words": words})
    return pictures


def film_of(run: Path) -> Json:
    """Returns a film's data and what it is, or the sentence that says why there is none."""
    return _unless_lacking(lambda: _found(run) or _filmed(run, ".gif", _SHOT))


def film_of_policy(name: str) -> Json:
    """Returns what film_of does, of a policy of the zoo: small, as there are many on a page."""
    suffix = ".mp4" if importlib.util.find_spec("av") else ".gif"
    return _unless_lacking(lambda: _filmed(name, suffix, _SMALL_SHOT))


def _unless_lacking(film: Callable[[], Json]) -> Json:
    try:
        return film()
    except Exception as error:
        if not _expected(error):
            raise
        return {"sentence": f"There is no film: {error}."}


def _found(run: Path) -> Json | None:
    files = [f for f in run.iterdir() if f.suffix.lower() in _FILMS and f.is_file()]
    for file in sorted(files, key=lambda f: f.stat().st_mtime, reverse=True):
        start, offset, kind = _FILMS[file.suffix.lower()]
        data = file.read_bytes()
        if data[offset:].startswith(start):
            words = f"{file.name}, as found in the run's directory"
            return {"uri": _uri(kind, data), "kind": kind, "words": words}
    return None


def _filmed(run: str | Path, suffix: str, shot: Json) -> Json:
    from fastsac.show.video import Shot, record

    kind = _FILMS[suffix][2]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / f"film{suffix}"
        film = record(run, output, Shot(**shot))
        uri = _uri(kind, output.read_bytes())
    words = (
        f"The first {film.frames * film.frame_seconds:.0f} s of an episode in dm_control; its "
        f"return is {film.returns[0]:.1f}"
    )
    return {"uri": uri, "kind": kind, "words": words}


def _expected(error: Exception) -> bool:
    """Whether it is of what a run or a machine may lack, rather than ours."""
    if isinstance(error, UserError | OSError):
        return True
    from fastsac.envs import EngineUnavailable, UnknownTask

    return isinstance(error, EngineUnavailable | UnknownTask)


def _settings(config: Json) -> tuple[list[Json], str]:
    """Returns all settings beside those of the preset, and a sentence if there is no such."""
    mine, sentence = _flat(config), ""
    try:
        preset = preset_config(config["task"], config["preset"])
        theirs = _flat(json.loads(to_json(preset)))
    except UserError as error:
        theirs, sentence = mine, f"Its preset cannot be compared with: {error}."
    mine.pop("run_dir", None)  # every run's own, and shown
    rows = []
    for name, value in mine.items():
        default = theirs.get(name, "not there")
        rows.append({"name": name, "value": value, "default": default, "differs": value != default})
    return rows, sentence


def _flat(values: Json, prefix: str = "") -> dict[str, str]:
    """Returns nested settings as text, each named by its path."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = _words(value)
    return flat


def _words(value: Any) -> str:
    """Returns any JSON as plain text."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(one)}" for name, one in value.items())
    if isinstance(value, list):
        return ", ".join(map(_words, value))
    return "none" if value is None else str(value)


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
