"""Any command line: exit code 2 and one sentence, or a run of what was asked for, no traceback."""

import contextlib
import dataclasses
import io
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastsac
from fastsac import SAC, SACConfig, TrainConfig
from fastsac.bench import command, learning
from fastsac.cli import main
from fastsac.errors import UserError
from fastsac.runs import checkpoint_file, directory
from fastsac.training.config import to_json
from fastsac.training.memory_plan import require_worlds
from tests.fastsac.run_samples import write_run
from tests.fastsac.training.fuzzing import SAC as SAC_FIELDS
from tests.fastsac.training.fuzzing import TRAIN, insane

HOSTILE = "- -- -1 0 1 2 7 1e3 1e999 nan -inf 0x10 1_0 \u0663 None True False [] {} %s * ' @file"
HOSTILE = ["", " ", "1" * 50, "9" * 5000, "x" * 5000, "\x1b[31mred", "a\nb", *HOSTILE.split()]
HOSTILE += ["\0", "\ud800", "\udcff"]  # the last is how Python reads a byte that is no UTF-8
PATHS = "run run/ ./run run/config.json run/checkpoints run/checkpoints/000000000007.pt . a/b/c"
PATHS += " run/metrics.csv zoo: zoo:walker_rum zoo:../x"
PATHS += " empty nowhere damaged secret text.txt pipe loop /dev/null /dev/full"
PATHS = ["ü" * 300, *PATHS.split()]
OUTPUTS = "o.png o.svg o.gif o.mp4 o.onnx o.pt2 o.policy o.html"
OUTPUTS += " no/o.png dir.png dir.html dir.onnx o .png"
OUTPUTS = ["x" * 300 + ".png", "x" * 300 + ".html", "\udcff.html", "a\nb.svg", *OUTPUTS.split()]
TASKS = "cartpole_swingup walker_run swimmer_swimmer9 lqr_lqr_99_7 walker_rum a.py dir.py bad.py"
TASKS += " bad.py:x -x cartpole_0_poles swimmer_swimmer\u0663"
TASKS = ["x" * 5000 + ".py", "\udcff.py", "swimmer_swimmer" + "9" * 500, *TASKS.split()]
CHOICES = "seed cpu fast native mjx auto cuda cuda:99999999999 meta engine dm_control task preset"
CHOICES = [*CHOICES.split(), "min", "mean", "bf16", "envs", "learner", "kernels", "learning"]

junk = st.text(st.characters(exclude_characters="/"), max_size=8)
word = st.one_of(st.sampled_from([*HOSTILE, *PATHS, *OUTPUTS, *TASKS, *CHOICES]), junk)
FLAGS = {
    "eval": ["--episodes", "--backend", "--seed", "--json"],
    "video": ["-o", "--output", "--episodes", "--camera", "--size", "--fps", "--seconds", "--seed"],
    "export": ["-o", "--output"],
    "zoo": ["--add"],
    "plot": ["-o", "--group-by"],
    "compare": ["--baseline", "--final", "--json"],
    "runs": ["--json"],
    "report": ["-o", "--no-video", "--suite"],
    "tasks": [],
    "doctor": ["--gpu"],
    "bench": ["--only", "--quick", "--json", "--max-seconds"],
}
ARGUMENTS = {
    "eval": PATHS, "video": PATHS, "export": PATHS, "plot": PATHS, "report": PATHS,
    "compare": PATHS,
    "zoo": PATHS, "runs": PATHS, "tasks": HOSTILE, "doctor": HOSTILE, "bench": CHOICES,
}  # fmt: skip


class Reached(UserError):
    """Here a command would begin to work for long."""


class Recorder:
    """Stands where a command works for long, and checks what it would have worked on."""

    def __init__(self):
        self.calls = 0

    def train(self, config):
        self.calls += 1
        assert not insane(config), insane(config)
        require_worlds(config)  # the task is known
        if config.run_dir:
            directory.create(dataclasses.asdict(config), 0).close()

    def resume(self, run_dir, **changes):
        fastsac.resume(run_dir, **changes)

    def evaluate(self, policy, task, episodes, seed, *_):
        self.calls += 1
        assert task == "cartpole_swingup" and type(episodes) is int and episodes >= 1
        assert type(seed) is int and 0 <= seed < 2**32
        raise Reached("it would run")

    def bench(self, cases, repetitions, deadline):
        self.calls += 1
        assert repetitions in (5, 9) and deadline > 0
        return []

    def experiment(self, runs, jobs, threads):
        self.calls += 1
        assert runs and jobs >= 1 and threads >= 0 and all(run.seed >= 0 for run in runs)
        raise Reached("it would train")

    def stop(self, *_):
        self.calls += 1
        raise Reached("it would work")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working directory with a run and other things in it, with everything slow replaced."""
    top = tmp_path_factory.mktemp("place")
    cwd = top / "cwd"
    cwd.mkdir()
    rows = [(100, 1.0, 10.0, 1.0), (200, 2.0, 20.0, 1.0)]
    write_run(cwd / "run", rows, num_envs=1, sac=SACConfig(hidden_sizes=(8,)))
    config = TrainConfig("cartpole_swingup", sac=SACConfig(hidden_sizes=(8,)))
    agent = SAC(5, 1, config.sac)
    (cwd / "run/checkpoints").mkdir()
    state = {"task": config.task, "obs_dim": 5, "action_dim": 1, "counters": {"steps": 7}}
    state |= {"agent": agent.state_dict(), "config": to_json(config)}
    checkpoint_file.save(cwd / "run/checkpoints/000000000007.pt", state)
    for name in ("empty", "damaged", "secret", "dir.py", "dir.png", "dir.html", "dir.onnx"):
        (cwd / name).mkdir()
    (cwd / "damaged/config.json").write_bytes(b"\xff{")
    (cwd / "damaged/metrics.csv").write_bytes(b"step\xff\n1,2\n")
    (cwd / "secret/config.json").mkdir()
    (cwd / "text.txt").write_text("text")
    (cwd / "a.py").write_text("")
    (cwd / "bad.py").write_text("raise ValueError('two\\nlines')")
    (cwd / "loop").symlink_to("loop")
    os.mkfifo(cwd / "pipe")
    recorder, before = Recorder(), os.getcwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        for name, stand_in in {
            "fastsac.training.loop.train": recorder.train,
            "fastsac.training.evaluation.evaluate": recorder.evaluate,
            "fastsac.show.export._metadata": recorder.stop,
            "fastsac.show.zoo_table.evaluate": recorder.stop,
            "fastsac.show.task_table.print_table": recorder.stop,
            "fastsac.show.doctor.print_report": recorder.stop,
            "fastsac.show.doctor.print_gpu_report": recorder.stop,
            "fastsac.show.report.film_of": lambda run: {},
        }.items():
            patch.setattr(name, stand_in)
        patch.setattr(
            "fastsac.show.video.in_dm_control",
            lambda p, task, n, seed, _: recorder.evaluate(p, task, n, seed),
        )
        patch.setattr(command, "run", recorder.bench)
        patch.setattr(learning, "train_all", recorder.experiment)
        yield top, recorder
    assert os.getcwd() == before


def files(top):
    return {p for p in top.rglob("*")}


def run(place, argv):
    """Runs a command line; nothing may be left behind but what a success writes into the cwd."""
    top, recorder = place
    before, calls = files(top), recorder.calls
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code, usage = main(argv), False
        except SystemExit as exit:
            code, usage = exit.code, True
            assert code in (0, 2), exit.code
            assert code == 2 or "usage: " in out.getvalue()  # the help
    said = err.getvalue()
    assert code in (0, 2), code
    if code == 2:
        reached = recorder.calls > calls
        assert "Traceback" not in said and len(said) < 20_000
        if usage:  # tyro's and argparse's own
            return 2, said, False
        lines = said.split("\n")
        assert said.startswith("fastsac: ") and len(lines) == 2 and not lines[1], said
        assert not any(ord(c) < 32 for c in lines[0]), said
    new = files(top) - before
    if code == 2 and not reached:
        assert not {p for p in new if p.name != "lock"}, new
    for path in sorted(new, reverse=True):
        assert (top / "cwd") in path.parents
        path.rmdir() if path.is_dir() else path.unlink()
    assert files(top) == before
    return code, said, recorder.calls > calls


def flags_of(command):
    flag = st.sampled_from(FLAGS[command] or ["--none"])
    value = st.one_of(word, st.sampled_from(OUTPUTS), st.sampled_from(HOSTILE))
    pair = st.tuples(flag, value).map(list)
    joined = st.tuples(flag, value).map(lambda p: [f"{p[0]}={p[1]}"])
    alone = st.one_of(flag, word).map(lambda f: [f])
    return st.lists(st.one_of(pair, pair, joined, alone), max_size=3).map(lambda x: sum(x, []))


@pytest.mark.parametrize("command", FLAGS)
def test_commands(place, command):
    argument = st.one_of(st.sampled_from(ARGUMENTS[command]), st.just("run"), word)
    arguments = st.lists(argument, max_size=2)
    seen = set()

    @settings(max_examples={"tasks": 20, "doctor": 20, "report": 30}.get(command, 80))
    @given(arguments, flags_of(command), st.booleans())
    def check(arguments, flags, turned):
        argv = [*flags, *arguments] if turned else [*arguments, *flags]
        seen.add(run(place, [command, *argv])[0])

    check()
    assert 2 in seen


# Values that a field may have, so that some of the command lines are good.
GOOD = {"num_envs": "4", "preset": "cpu", "seed": "5", "device": "cpu", "engine": "native"}
GOOD |= {"gamma": "0.9", "hidden_sizes": "8 8", "total_steps": "90000", "run_dir": "new"}
fields = st.sampled_from([f for f in (*TRAIN, *SAC_FIELDS, "no_such", *GOOD, *GOOD) if f != "task"])


@st.composite
def train_flags(draw):
    argv = []
    for field in draw(st.lists(fields, max_size=3)):
        flag = "--" + (field if draw(st.booleans()) else field.replace("_", "-"))
        good = field in GOOD and draw(st.booleans())
        value = GOOD[field] if good else draw(word)
        if draw(st.booleans()):
            argv.append(f"{flag}={value}")
        else:
            argv += [flag, *(value.split() if good else [value])]
    return argv


@settings(max_examples=250)
@given(st.one_of(st.just("cartpole_swingup"), st.sampled_from(TASKS), word), train_flags())
def test_train(place, task, flags):
    run(place, ["train", task, *flags])


@settings(max_examples=100)
@given(st.one_of(st.just("run"), st.sampled_from(PATHS), word), train_flags(), st.booleans())
def test_train_resume(place, path, flags, turned):
    # There is no checkpoint to go on from in any of them.
    where = ["--resume", path] if path and not path.startswith("-") else [f"--resume={path}"]
    argv = [*flags, *where] if turned else [*where, *flags]
    code, _, reached = run(place, ["train", *argv])
    assert not reached


@settings(max_examples=100)
@given(
    st.lists(st.sampled_from(["walker_run", *TASKS]), max_size=2),
    st.lists(
        st.tuples(
            st.sampled_from(["--seeds", "--jobs", "--threads", "-o", "--setting", "--setting"]),
            st.one_of(word, st.sampled_from(["a=--num-envs 2", "b=", "a='", "c=--seed 1", "/=x"])),
        ),
        max_size=4,
    ),
    st.booleans(),
)
def test_bench_learning(place, tasks, pairs, draw):
    argv = [*tasks, *(text for pair in pairs for text in pair), *["--draw"] * draw]
    run(place, ["bench", "learning", *argv])


@settings(max_examples=150)
@given(st.lists(word, max_size=5))
def test_anything(place, argv):
    run(place, argv)


def test_good_command_lines_are_reached(place):
    assert run(place, ["train", "cartpole_swingup", "--num_envs", "3", "--run-dir=x"])[2]
    assert run(place, ["eval", "run", "--episodes", "3"])[2]
    assert run(place, ["video", "run", "-o", "o.gif"])[2]
    assert run(place, ["export", "run", "-o", "o.pt2"])[2]
    assert run(place, ["bench", "envs", "--quick"])[2]
    assert run(place, ["bench", "learning", "walker_run", "--setting", "a=--num-envs 2"])[2]
    for argv in (["plot", "run"], ["runs", "."], ["report", "run"]):
        assert run(place, argv)[0] == 0
