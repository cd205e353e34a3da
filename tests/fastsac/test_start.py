"""The start: what is compiled, what the next start finds, and what the terminal shows meanwhile."""

import csv
import os
import subprocess
import sys

import pytest

import fastsac
from fastsac.envs import compilation_cache
from fastsac.envs.registry import find
from fastsac.envs.suite import load_suite
from fastsac.runs.metrics import MetricsWriter

TINY = ["--total-steps", "120", "--learning-starts", "60", "--batch-size", "8", "--num-envs", "2"]
TINY += ["--hidden-sizes", "8", "8", "--final-eval-episodes", "1", "--eval-every", "1000000"]
# Counts what XLA compiles and what comes from the cache.
COUNT = """
import sys, jax
seen = {"compiled": 0, "cache_hits": 0}
def compiled(event, seconds, **more):
    seen["compiled"] += event == "/jax/core/compile/backend_compile_duration"
def hit(event, **more):
    seen["cache_hits"] += event == "/jax/compilation_cache/cache_hits"
jax.monitoring.register_event_duration_secs_listener(compiled)
jax.monitoring.register_event_listener(hit)
"""
TRAIN = COUNT + "from fastsac.cli import main; code = main(sys.argv[1:])\n"
TRAIN += "print(seen['cache_hits']); sys.exit(code)"
USE = """
import jax
from fastsac.envs.compilation_cache import use_compilation_cache
before = jax.config.jax_compilation_cache_dir
use_compilation_cache()
print(before, jax.config.jax_compilation_cache_dir)
"""


def start(code, *arguments, **environment):
    """Runs code in a fresh interpreter, without the tests' own cache."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=kept | {k: str(v) for k, v in environment.items()},
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.fixture(scope="module")
def two_starts(tmp_path_factory):
    """The same training twice, the second time from the first one's cache."""
    folder = tmp_path_factory.mktemp("starts")
    done = []
    for name in ("first", "second"):
        flags = [*TINY, "--run-dir", folder / name, "--log-seconds", "1000"]
        done.append(start(TRAIN, "train", "cartpole_balance", *flags, XDG_CACHE_HOME=folder))
        assert done[-1].returncode == 0, done[-1].stderr
    return folder, done


def test_a_second_start_reads_what_the_first_compiled(two_starts):
    folder, done = two_starts
    hits = [int(d.stdout) for d in done]
    assert hits[0] == 0 and hits[1] >= 2  # the native engine's observation and outcome
    [directory] = (folder / "fastsac").iterdir()
    assert directory.name.startswith("jax-") and len(list(directory.iterdir())) == hits[1]


def test_a_second_start_says_no_more_than_the_first(two_starts):
    folder, done = two_starts
    first, second = (
        d.stderr.replace(n, "") for d, n in zip(done, ("first", "second"), strict=True)
    )
    assert len(first.splitlines()) == len(second.splitlines())
    assert "compiling" not in first  # the native engine does in a second


def test_results_do_not_depend_on_the_cache(two_starts):
    folder, _ = two_starts
    runs = [list(csv.DictReader((folder / n / "metrics.csv").open())) for n in ("first", "second")]
    times = {"seconds", "cpu_seconds", "steps_per_second", "updates_per_second"}
    first, second = ([{k: r[k] for k in r.keys() - times} for r in rows] for rows in runs)
    assert first == second and len(first) == 2 and float(first[0]["critic_loss"]) > 0


@pytest.mark.slow
def test_the_users_own_cache_stays(tmp_path):
    mine = start(USE, JAX_COMPILATION_CACHE_DIR="/mine", XDG_CACHE_HOME=tmp_path)
    assert mine.stdout.split() == ["/mine", "/mine"], mine.stderr
    none = start(USE, JAX_ENABLE_COMPILATION_CACHE="false", XDG_CACHE_HOME=tmp_path)
    assert none.stdout.split() == ["None", "None"], none.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_costs_one_warning(tmp_path):
    done = start(USE, XDG_CACHE_HOME="/dev/null")
    assert done.stdout.split() == ["None", "None"], done.stderr
    assert done.stderr.count("the next start has to compile again") == 1
    needed = "import fastsac.envs.compilation_cache as c; c._LEAST_FREE_BYTES = 10**18\n"
    done = start(needed + USE, XDG_CACHE_HOME=tmp_path)
    assert done.stdout.split() == ["None", "None"] and "has no room" in done.stderr


def test_another_cpu_has_another_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    here = compilation_cache.cache_directory()
    assert here == compilation_cache.cache_directory() and here.parent == tmp_path / "fastsac"
    monkeypatch.setattr("platform.machine", lambda: "vax")
    assert compilation_cache.cache_directory() != here
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the standard has ignored
    monkeypatch.setenv("HOME", str(tmp_path))
    assert compilation_cache.cache_directory().parent == tmp_path / ".cache" / "fastsac"


def test_making_native_worlds_compiles_nothing_but_their_two_functions():
    code = COUNT + (
        "import fastsac, torch\n"
        "env = fastsac.make('walker_run', num_envs=2, engine='native')\n"
        "made = seen['compiled']\n"
        "env.reset(); env.step(torch.zeros(2, 6)); env.step(torch.zeros(2, 6))\n"
        "print(made, seen['compiled'], jax.config.jax_compilation_cache_dir)"
    )
    # The last: a program that embeds fastsac keeps jax's own default.
    assert start(code).stdout.split() == ["0", "2", "None"]


def test_long_compilations_are_announced():
    from fastsac.envs.engines.mjx import MjxEngine

    notices = [
        MjxEngine(load_suite(find(task)), 1).compile_notice
        for task in ("pendulum_swingup", "stacker_stack_4")
    ]
    seconds = [int(n.split(" s on ")[0].split()[-1]) for n in notices]
    assert 2 < seconds[0] < seconds[1]
    env = fastsac.make("pendulum_swingup", engine="native")
    assert env.engine.compile_notice == ""
    env.close()


ROW = {"step": 1, "updates": 0, "steps_per_second": 0.001, "updates_per_second": 0}


def test_a_pipe_gets_a_line_now_and_then(tmp_path, capsys):
    writer = MetricsWriter(tmp_path, total_steps=100, started=0.0)
    for _ in range(3):
        writer.write(ROW)
    writer.close()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].endswith("ETA 27:30:00")  # 99 steps of 1000 s each


def test_a_terminal_gets_one_line_that_fits(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    writer = MetricsWriter(tmp_path, total_steps=100, started=0.0)
    for _ in range(3):
        writer.write(ROW)
    writer.close()
    out = capsys.readouterr().err
    shown = [part.removeprefix("\x1b[K") for part in out.split("\r") if part]
    assert "\n" not in out and [len(s) for s in shown] == [39, 39, 39, 0]
