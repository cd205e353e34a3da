"""The ``fastsac`` command: parses and delegates."""

import argparse
import io
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from fastsac.errors import ConfigError, UserError, one_line
from fastsac.parser import Parser, require_typable

_HELP = """\
usage: fastsac COMMAND ...

Soft Actor-Critic on the DeepMind Control Suite.

commands:
  train TASK   train a policy, e.g. fastsac train cartpole_swingup --preset cpu;
               fastsac train --resume RUN goes on with one that was stopped
  sweep SPEC   many runs of a YAML or Python file, on Ray Tune; run again, it goes on
  eval RUN     returns of a trained policy in the real dm_control
  video RUN    films a trained policy, e.g. fastsac video RUN -o walk.gif
  export RUN   a trained policy as a file: .onnx or .pt2, which run without fastsac, or
               .policy, which is small
  zoo          the trained policies that come with fastsac: eval, video and export take
               zoo:TASK for RUN, and train TASK --start-from
  plot RUN...  learning curves as a picture
  runs [DIR]   the runs below a directory, and how far they are
  compare RUN...  returns beside published ones: --baseline flashsac
  report RUN...  one page about runs: curves, films, settings, machine; --suite: a card a task
  tasks        the tasks, with their sizes and engines
  bench        measure this machine beside other packages: --quick takes five minutes;
               bench compare A.json B.json says what is faster in B
  doctor       what works on this machine, and what to install for the rest; doctor --gpu
               checks all that a GPU's training rests on, within 90 s

fastsac COMMAND --help lists a command's flags.
"""

_POLICY = "run directory, checkpoint or .policy file, or zoo:TASK"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit code: 0, or an error's after its one sentence."""
    args = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a locale may lack a name's letters
    try:
        _run(args)
        print(end="", flush=True)
    except KeyboardInterrupt:
        print("\nfastsac: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, OSError) and sys.stdout and _is_lost(sys.stdout):
            if isinstance(error, BrokenPipeError):  # `fastsac tasks | head`
                return 0
            error = UserError(f"standard output takes no more: {error.strerror}")
        elif not isinstance(error, _user_errors()):
            raise
        print(f"fastsac: {one_line(error)}", file=sys.stderr)
        return getattr(error, "exit_code", 2)
    return 0


def _run(args: Sequence[str]) -> None:
    if not args or args[0] in ("-h", "--help"):
        print(_HELP, end="")
        return
    command, *rest = args
    require_typable(args)
    if command not in _COMMANDS:
        raise ConfigError(f"unknown command {command!r}; there are {', '.join(_COMMANDS)}")
    _COMMANDS[command](rest)


def _is_lost(stream: TextIO) -> bool:
    """Whether a stream takes no line more; then what it still holds goes nowhere."""
    try:
        print(file=stream, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return True
    return False


def _user_errors() -> tuple[type[Exception], ...]:
    if "fastsac.envs" not in sys.modules:  # jax and MuJoCo take seconds to import
        return (UserError,)
    from fastsac.envs import EngineUnavailable, UnknownTask

    return (UserError, EngineUnavailable, UnknownTask)


def _train(args: list[str]) -> None:
    import tyro

    from fastsac.training.config import TrainConfig
    from fastsac.training.presets import preset_config, preset_for

    asks_help = "-h" in args or "--help" in args
    if any(arg.partition("=")[0] == "--resume" for arg in args) and not asks_help:
        _resume(args)
        return
    if not args or args[0].startswith("-"):
        if not asks_help:
            raise ConfigError("usage: fastsac train TASK [flags]; `fastsac tasks` lists the tasks")
        args = ["TASK", *args]
    task, *flags = args
    if ".py" in task:  # a task's file, which `fastsac eval` shall find from anywhere
        task = os.path.abspath(task)
    first = Parser(prog="fastsac train", add_help=False, allow_abbrev=False)
    first.add_argument("--preset")
    first.add_argument("--num-envs", "--num_envs", type=int, default=1)
    known = first.parse_known_args(flags)[0]
    preset = known.preset or preset_for(known.num_envs)
    config, unknown = tyro.cli(
        TrainConfig,
        args=flags,
        return_unknown_args=True,
        default=preset_config(task, preset),
        prog=f"fastsac train {task}",
        description="Trains a policy; the defaults shown are those of the preset. "
        "`fastsac train --resume RUN` goes on with a run that was stopped.",
    )
    if unknown:
        raise ConfigError(f"unknown argument {unknown[0]!r}; fastsac train --help lists the flags")
    from fastsac.envs.compilation_cache import use_compilation_cache
    from fastsac.training.loop import train

    use_compilation_cache()
    train(config)


def _resume(args: list[str]) -> None:
    """`fastsac train --resume RUN [flags]`: the flags are those of the run, some may change."""
    import tyro

    from fastsac.training.config import TrainConfig, recorded_config

    first = Parser(prog="fastsac train", add_help=False, allow_abbrev=False)
    first.add_argument("--resume", required=True, metavar="RUN")
    known, flags = first.parse_known_args(args)
    recorded = recorded_config(Path(known.resume))
    config, unknown = tyro.cli(
        TrainConfig, args=flags, return_unknown_args=True, default=recorded, prog="fastsac train"
    )
    if unknown:
        raise ConfigError(f"unknown argument {unknown[0]!r}; fastsac train --help lists the flags")
    from fastsac.training.loop import resume

    changes = {k: v for k, v in vars(config).items() if v != getattr(recorded, k)}
    if "run_dir" in changes:
        raise ConfigError("a resumed run keeps its --run-dir")
    resume(known.resume, **changes)


def _sweep(args: list[str]) -> None:
    parser = Parser(
        prog="fastsac sweep",
        description="Trains tasks x seeds x settings on Ray Tune; the same command goes on.",
    )
    parser.add_argument("spec", type=Path, metavar="SPEC", help="YAML, or Python with a dict SPEC")
    parser.add_argument("-o", "--output", type=Path, help="directory; default: sweeps/NAME")
    parser.add_argument("--address", help="of a Ray cluster; default: Ray on this machine alone")
    parsed = parser.parse_args(args)
    from fastsac.sweep.tuning import sweep

    sweep(parsed.spec, parsed.output, parsed.address)


def _eval(args: list[str]) -> None:
    from fastsac.training.config import EVAL_SEED

    parser = Parser(
        prog="fastsac eval", description="Prints mean, std and each return of a trained policy."
    )
    parser.add_argument("run", help=_POLICY)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--backend", choices=("dm_control", "engine"), default="dm_control")
    parser.add_argument("--seed", type=int, default=EVAL_SEED, help="of the initial states")
    parser.add_argument("--json", action="store_true", help="one JSON object for programs")
    parsed = parser.parse_args(args)
    from fastsac.envs.compilation_cache import use_compilation_cache
    from fastsac.training.evaluation import evaluate_run

    use_compilation_cache()
    result = evaluate_run(parsed.run, parsed.episodes, parsed.seed, parsed.backend)
    if parsed.json:
        print(json.dumps(result.as_dict()))
    else:
        _print_returns(result.returns)
        print(f"return in {result.backend}: {result.mean:.1f} +- {result.std:.1f}")
        _print_diverged(result.diverged)
    result.require_finite(parsed.run)


def _print_returns(returns: Sequence[float]) -> None:
    for i, value in enumerate(returns):
        print(f"episode {i}: {value:.1f}")


def _print_diverged(episodes: int) -> None:
    if episodes:
        print(f"{episodes} episodes ended early because the physics diverged")


def _video(args: list[str]) -> None:
    from fastsac.training.config import EVAL_SEED

    parser = Parser(
        prog="fastsac video", description="Films a trained policy in the real dm_control."
    )
    parser.add_argument("run", help=_POLICY)
    parser.add_argument("-o", "--output", type=Path, required=True, help="a .gif or .mp4")
    parser.add_argument("--episodes", type=int, default=1)
    parser.add_argument("--camera", help="number or name in the model, -1 is free; default: first")
    parser.add_argument("--size", type=_size, default=(320, 240), help="320x240")
    parser.add_argument("--fps", type=float, default=25.0, help="about, since in real time; 25")
    parser.add_argument("--seconds", type=float, default=math.inf, help="of each episode, or all")
    parser.add_argument("--seed", type=int, default=EVAL_SEED, help="as of fastsac eval")
    shot = vars(parser.parse_args(args))
    run, output = shot.pop("run"), shot.pop("output")
    from fastsac.show.video import Shot, record

    film = record(run, output, Shot(**shot))
    _print_returns(film.returns)
    _print_diverged(film.diverged)
    seconds, kilobytes = film.frames * film.frame_seconds, output.stat().st_size / 1000
    print(
        f"{one_line(output)}: {seconds:.1f} s, {1 / film.frame_seconds:.3g} fps, {kilobytes:.0f} kB"
    )


def _size(text: str) -> tuple[int, int]:
    width, separator, height = text.partition("x")
    if not (separator and width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"must be like 320x240, got {text!r}")
    return int(width), int(height)


def _export(args: list[str]) -> None:
    parser = Parser(
        prog="fastsac export",
        description="Writes a policy as a file that runs without fastsac, or as a small one.",
    )
    parser.add_argument("run", help=_POLICY)
    help = "an .onnx or .pt2, or a .policy: float16 and int8, which fastsac reads"
    parser.add_argument("-o", "--output", type=Path, required=True, help=help)
    parsed = parser.parse_args(args)
    from fastsac.show.export import export_policy

    usual, extreme = export_policy(parsed.run, parsed.output)
    kilobytes = parsed.output.stat().st_size / 1000
    print(
        f"{one_line(parsed.output)}: {kilobytes:.0f} kB, within {usual:.1g} of the policy in torch "
        f"({extreme:.1g} on extreme observations)"
    )


def _zoo(args: list[str]) -> None:
    from fastsac.show.zoo_table import main as zoo

    zoo(args)


def _plot(args: list[str]) -> None:
    parser = Parser(prog="fastsac plot", description="Draws learning curves.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directory")
    parser.add_argument("-o", "--output", type=Path, default=Path("curves.png"))
    parser.add_argument(
        "--group-by", choices=("task", "preset", "seed"), help="one line for all runs alike in it"
    )
    parsed = parser.parse_args(args)
    from fastsac.show.plot import plot_runs

    plot_runs(parsed.runs, parsed.output, parsed.group_by)


def _compare(args: list[str]) -> None:
    from fastsac.show.compare import main as compare

    compare(args)


def _runs(args: list[str]) -> None:
    parser = Parser(prog="fastsac runs", description="Lists runs, the newest first.")
    parser.add_argument("directory", nargs="?", type=Path, default=Path("runs"), metavar="DIR")
    parser.add_argument("--json", action="store_true", help="one JSON array for programs")
    parsed = parser.parse_args(args)
    from fastsac.runs.listing import print_runs

    print_runs(parsed.directory, parsed.json)


def _report(args: list[str]) -> None:
    parser = Parser(prog="fastsac report", description="Writes one self-contained page about runs.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directory; --suite: or zoo:")
    parser.add_argument("--suite", action="store_true", help="a card a task of the runs below RUN")
    parser.add_argument("-o", "--output", type=Path, default=Path("report.html"))
    parser.add_argument("--no-video", action="store_true", help="leave the films out")
    parsed = parser.parse_intermixed_args(args)
    from fastsac.show import report, suite_page

    write = suite_page.write_suite if parsed.suite else report.write_report
    write(parsed.runs, parsed.output, video=not parsed.no_video)
    print(f"{one_line(parsed.output)}: {parsed.output.stat().st_size / 1000:.0f} kB")


def _tasks(args: list[str]) -> None:
    Parser(prog="fastsac tasks", description="Lists the tasks.").parse_args(args)
    from fastsac.show.task_table import print_table

    print_table()


def _bench(args: list[str]) -> None:
    from fastsac.bench.command import main as bench

    bench(args)


def _doctor(args: list[str]) -> None:
    parser = Parser(prog="fastsac doctor", description="Says what works on this machine.")
    help = "check the GPU's path instead, within 90 s; exit code 1 if there is none or one fails"
    parser.add_argument("--gpu", action="store_true", help=help)
    from fastsac.show.doctor import print_gpu_report, print_report

    print_gpu_report() if parser.parse_args(args).gpu else print_report()


_COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": _train,
    "sweep": _sweep,
    "eval": _eval,
    "video": _video,
    "export": _export,
    "zoo": _zoo,
    "plot": _plot,
    "compare": _compare,
    "runs": _runs,
    "report": _report,
    "tasks": _tasks,
    "bench": _bench,
    "doctor": _doctor,
}
