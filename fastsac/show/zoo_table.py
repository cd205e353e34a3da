"""What ``fastsac zoo`` prints, and how a policy comes into the zoo."""

import hashlib
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastsac.errors import RunError
from fastsac.learner.policy import Policy
from fastsac.parser import Parser
from fastsac.runs import checkpoint_file, small_policy, zoo
from fastsac.runs.atomic_write import write_atomically
from fastsac.runs.directory import short_name
from fastsac.runs.listing import read_config, read_machine, read_progress, read_result
from fastsac.runs.policy_file import load_policy
from fastsac.show import zoo_page
from fastsac.training.config import EVAL_SEED
from fastsac.training.evaluation import evaluate

_EPISODES = 10
_POINTS = 40  # of a curve, at most
_MACHINE = ("cpu", "cores", "gpu")


def main(args: list[str]) -> None:
    """Runs ``fastsac zoo``."""
    parser = Parser(prog="fastsac zoo", description="Lists the policies that come with fastsac.")
    help = "instead put a run's best or last policy into it, the better over 10 episodes"
    parser.add_argument("--add", metavar="RUN", help=help)
    parsed = parser.parse_args(args)
    print_zoo() if parsed.add is None else add_to_zoo(Path(parsed.add))


def print_zoo() -> None:
    """Prints a line a policy.

    Raises:
        CheckpointError: the zoo is missing or damaged.
    """
    heads = ("policy", "return", "steps", "updates", "seconds", "on", "commit", "kB")
    table = [heads, *(_cells(task, about) for task, about in zoo.read_index().items())]
    widths = [max(len(line[i]) for line in table) for i in range(len(heads))]
    for line in table:
        pairs = zip(line, widths, strict=True)
        print("  ".join(cell.ljust(width) for cell, width in pairs).rstrip())


def _cells(task: str, about: dict[str, Any]) -> tuple[str, ...]:
    return (
        f"zoo:{task}",
        f"{about['return']:.1f} +- {about['std']:.1f}",
        f"{about['steps']:,}",
        f"{about['updates']:,}",
        f"{about['seconds']:.0f}",
        about["machine"]["gpu"] or about["machine"]["cpu"],
        about["commit"],
        f"{about['bytes'] / 1000:.0f}",
    )


def add_to_zoo(run: Path) -> None:
    """Puts the better of a run's best evaluated and last policies into the zoo, for its task's.

    Better over ten episodes of dm_control: what best.pt was chosen by may be luck.

    Args:
        run: its directory, with best.pt.

    Raises:
        UserError: the run has no such policy, or the zoo cannot be written.
    """
    policies, found = list(_policies(run)), []
    config, recorded = read_config(run), read_machine(run)
    for policy, counters in policies:
        content = small_policy.encode(policy)
        small = evaluate(small_policy.decode(content), policy.task, _EPISODES, EVAL_SEED)
        found.append((small.mean, policy, counters, content, small))
    # Of equal ones the last, which says how long was trained.
    _, policy, counters, content, small = max(found, key=lambda one: (one[0], one[2]["step"]))
    task = short_name(policy.task)
    before = _final_return(run, counters["step"])
    if before is None:
        before = evaluate(policy, policy.task, _EPISODES, EVAL_SEED).mean
    file = zoo.folder() / f"{task}{small_policy.SUFFIX}"
    about = {
        "file": file.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "return": small.mean,
        "std": small.std,
        "return_before_rounding": before,
        "episodes": _EPISODES,
        "episodes_seed": EVAL_SEED,
        "backend": small.backend,
        "steps": counters["step"],
        "updates": counters["updates"],
        "seconds": counters["seconds"],
        "preset": config["preset"],
        "seed": config["seed"],
        "machine": {name: recorded.get(name) for name in _MACHINE},
        "commit": recorded.get("commit"),
        "date": recorded.get("date"),
        "command": _without_place(recorded.get("command")),
        "curve": _curve(run, counters["step"]),
    }
    index = dict(sorted((zoo.read_index() | {task: about}).items()))
    text = json.dumps(index, indent=1) + "\n"
    try:
        write_atomically(file, content)
        write_atomically(file.with_name(zoo.INDEX), text.encode())
        write_atomically(file.with_name(zoo_page.NAME), zoo_page.zoo_page(index).encode())
    except OSError as error:
        raise RunError(str(error)) from error
    print(f"zoo:{task}: {small.mean:.1f} +- {small.std:.1f}, {before:.1f} before its rounding")


def _curve(run: Path, last: int) -> dict[str, list[float]]:
    """Returns the run's evaluations up to a step, of many every k-th and the last."""
    found = read_progress(run)[0]
    count = int((found["step"] <= last).sum())
    every = -(-count // _POINTS) or 1
    kept = [i for i in range(count) if i % every == 0 or i == count - 1]
    columns = ("step", "eval_return", "eval_return_std")
    return {column: [round(float(found[column][i]), 1) for i in kept] for column in columns}


def _policies(run: Path) -> Iterator[tuple[Policy, dict[str, Any]]]:
    """Yields a run's best and, of a run that has ended, last policy, each with its counters."""
    best = run / checkpoint_file.BEST
    yield load_policy(best), checkpoint_file.load(best)["counters"]
    result, files = read_result(run), checkpoint_file.files_of(run)
    if result and files and int(files[0].stem) == result["steps"]:
        yield load_policy(files[0]), result | {"step": result["steps"]}


def _final_return(run: Path, step: int) -> float | None:
    """Returns what the run found for its last policy over these episodes, if it is of this step."""
    result = read_result(run) or {}
    how = [result.get(key) for key in ("steps", "backend", "seed")]
    same = how == [step, "dm_control", EVAL_SEED] and len(result["returns"]) == _EPISODES
    return result["mean"] if same else None


def _without_place(command: Any) -> str | None:
    """Returns a run's command without --run-dir, which is nobody else's."""
    if not isinstance(command, str):
        return None
    words = shlex.split(command)
    if "--run-dir" in words:
        at = words.index("--run-dir")
        del words[at : at + 2]
    return shlex.join(words)
