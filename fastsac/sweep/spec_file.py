"""A sweep's specification as a file: read, and each mistake refused with a sentence."""

import difflib
import math
import os
import re
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastsac.envs import UnknownTask
from fastsac.envs.registry import find, tasks
from fastsac.errors import ConfigError, RunError
from fastsac.learner.config import SACConfig
from fastsac.sweep.spec import Asha, Spec, Tried, as_tuples, require_evaluations
from fastsac.training.config import TrainConfig
from fastsac.typed_fields import require

_KEYS = ("tasks", "seeds", "flags", "search", "samples", "asha", "resources")
_SEARCHES = ("random", "optuna")
_RANGES = ("uniform", "loguniform", "randint")
_KINDS = ("grid", "choice", *_RANGES)
_OWN = ("task", "seed", "run_dir")  # each run gets them from the sweep
_FLAGS = (TrainConfig.__dataclass_fields__ | SACConfig.__dataclass_fields__).keys() - {"sac"}
# What YAML 1.1, which wants a point and a sign, takes for text: 3e-4.
_FLOAT = re.compile(r"[-+]?\d[\d_]*(\.\d*)?[eE][-+]?\d+$")


def read_spec(path: Path) -> Spec:
    """Returns the specification in a YAML file, or in a Python file's ``SPEC``, a dict of its keys.

    Raises:
        ConfigError: it is none, or a run of it would be refused.
        RunError: PyYAML is missing.
    """
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    content = _python(path) if path.suffix == ".py" else _yaml(path)
    try:
        spec = parsed_spec(content)
        for task in spec.tasks:
            for config in spec.edges(task):
                if spec.asha:
                    require_evaluations(spec.asha, config)
    except (ConfigError, UnknownTask) as error:
        raise ConfigError(f"{path}: {error}") from error
    return spec


def _yaml(path: Path) -> Any:
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise RunError("sweeps need Ray and PyYAML: pip install 'fastsac[sweep]'") from error

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))
    try:
        return yaml.load(path.read_bytes(), Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error


def _python(path: Path) -> Any:
    try:
        defined = runpy.run_path(str(path))
    except Exception as error:
        raise ConfigError(f"{path}: {type(error).__name__}: {error}") from error
    require("SPEC" in defined, f"{path} defines no SPEC")
    return defined["SPEC"]


def parsed_spec(content: Any) -> Spec:
    """Returns the specification that a file's content is.

    Raises:
        ConfigError, UnknownTask: it is none; whether its runs can be is not looked at.
    """
    require(bool(content), "it is empty; give at least tasks")
    content = _mapping(content, "it", _KEYS)
    flags = {_field(name): _flag(name, value) for name, value in _flags(content).items()}
    asha, resources = content.get("asha"), content.get("resources", {})
    if asha is not None:
        asha = Asha(**_mapping(asha, "asha", ("grace", "reduction"), needed=("grace",)))
        _require_int("asha's grace", asha.grace, 1)
        _require_number("asha's reduction", asha.reduction, 1)
    resources = {"cpu": 1, "gpu": 0} | _mapping(resources, "resources", ("cpu", "gpu"))
    _require_number("cpu", resources["cpu"], 0)
    require(
        _is_number(resources["gpu"]) and 0 <= resources["gpu"] <= 1,
        f"gpu must be a number from 0 to 1, since a run takes one; got {resources['gpu']!r}",
    )
    spec = Spec(
        _tasks(content.get("tasks")),
        _seeds(content.get("seeds", 1)),
        flags,
        content.get("search", "random"),
        content.get("samples", 1),
        asha,
        **resources,
    )
    _require_search(spec)
    return spec


def _flags(content: Mapping[str, Any]) -> dict[str, Any]:
    flags = content.get("flags") or {}
    require(isinstance(flags, dict), f"flags must be names with values, got {flags!r}")
    return flags


def _tasks(given: Any) -> tuple[str, ...]:
    names = tasks() if given == "all" else [given] if isinstance(given, str) else given
    text = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    require(text and bool(names), f"tasks must be a list of names, or all; got {given!r}")
    full = tuple(os.path.abspath(name) if ".py" in name else name for name in names)
    _require_different("tasks", full)
    for name in full:
        find(name)
    return full


def _seeds(given: Any) -> tuple[int, ...]:
    seeds = range(given) if isinstance(given, int) and not isinstance(given, bool) else given
    require(
        isinstance(seeds, range | list | tuple) and bool(seeds),
        f"seeds must be a number of them or a list, got {given!r}",
    )
    _require_different("seeds", tuple(seeds))
    return tuple(seeds)


def _field(name: Any) -> str:
    field = str(name).removeprefix("--").replace("-", "_")
    if field in _OWN:
        raise ConfigError(f"flags has {name}, which each run gets of its own")
    if field not in _FLAGS:
        near = difflib.get_close_matches(field, _FLAGS, n=1)
        hint = f"; did you mean {near[0].replace('_', '-')}?" if near else ""
        raise ConfigError(f"fastsac train has no flag {name!r}{hint}")
    return field


def _flag(name: str, value: Any) -> Any:
    """Returns a flag's value, or the Tried that a mapping such as {grid: [1, 2]} means."""
    if not isinstance(value, dict):
        return as_tuples(value)
    kind, values = next(iter(value.items()), (None, None))
    if len(value) != 1 or kind not in _KINDS or not isinstance(values, list | tuple):
        raise ConfigError(
            f"{name} must be a value or one of {', '.join(_KINDS)} with a list, as in "
            f"{{grid: [1, 2]}}; got {value!r}"
        )
    require(bool(values), f"{name}'s {kind} is empty")
    values = tuple(map(as_tuples, values))
    if kind in _RANGES:
        numbers = len(values) == 2 and all(map(_is_number, values)) and values[0] < values[1]
        require(numbers, f"{name}'s {kind} must be two numbers, the lower first; got {values!r}")
        require(kind != "loguniform" or values[0] > 0, f"{name}'s loguniform begins above 0")
        whole = all(isinstance(one, int) for one in values)
        require(kind != "randint" or whole, f"{name}'s randint must be two integers")
    else:
        _require_different(f"{name}'s values", values)
    return Tried(kind, values)


def _require_search(spec: Spec) -> None:
    drawn = {name for name, one in spec.tried.items() if one.kind != "grid"}
    require(
        spec.search in _SEARCHES,
        f"search must be one of {', '.join(_SEARCHES)}, got {spec.search!r}",
    )
    _require_int("samples", spec.samples, 1)
    require(
        bool(drawn) or (spec.samples == 1 and spec.search == "random"),
        "nothing is drawn: samples and search want a flag with choice, uniform, loguniform or "
        "randint",
    )
    grids = sorted(spec.tried.keys() - drawn)
    require(
        spec.search != "optuna" or not grids,
        f"optuna takes no grid: give {', '.join(grids)} as a choice",
    )


def _mapping(
    value: Any, what: str, keys: tuple[str, ...], needed: tuple[str, ...] = ()
) -> dict[str, Any]:
    require(isinstance(value, dict), f"{what} must be keys with values, got {value!r}")
    for key in value:
        require(key in keys, f"{what} has the unknown key {key!r}; there are {', '.join(keys)}")
    for key in needed:
        require(key in value, f"{what} lacks {key}")
    return value


def _require_different(what: str, values: tuple[Any, ...]) -> None:
    different = all(one not in values[:i] for i, one in enumerate(values))
    require(different, f"{what} must be different, got {list(values)}")


def _require_int(what: str, value: Any, least: int) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
    require(whole, f"{what} must be an integer from {least} on, got {value!r}")


def _require_number(what: str, value: Any, above: float) -> None:
    require(_is_number(value) and value > above, f"{what} must be a number above {above}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
