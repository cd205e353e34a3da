"""``fastsac bench offline``: its input, its rows and its page; and a compilation where one can."""

import json
import os
import subprocess
import sys

import pytest

from fastsac.bench import command as bench
from fastsac.bench.offline import command, page, rounds
from fastsac.bench.offline.program import are_row_major, dots
from fastsac.bench.offline.targets import ARCHITECTURES, target_config
from fastsac.errors import ConfigError

BLOCK = {"own": {"kernels": 7, "library": 1, "copies": 2}, "loops": []}
PROGRAM = {
    **{f"{name}_bytes": 2**20 for name in ("argument", "output", "donated", "temporary", "code")},
    **{"lower_s": 1.0, "compile_s": 2.0, "world_bytes": 64, "sizes_of_a_world": 2.5},
    **{"dots_default": 3, "dots_higher": 4, "tf32_instructions": 0, "f64": False},
    **{"row_major": True, "substeps": 1, "launches": BLOCK, "of_host": BLOCK},
}
ROUNDS = {"most": 4, "mean": 3.2, "how": "by hand"}


@pytest.fixture
def children(monkeypatch):
    """Answers instead of child processes; returns the requests in their order."""
    asked = []

    def child(module, request, timeout):
        asked.append((module, request))
        return dict(ROUNDS if module == "rounds" else PROGRAM)

    monkeypatch.setattr(command, "_child", child)
    monkeypatch.setattr(command, "_require_compiler", lambda _: None)
    return asked


def offline(*arguments):
    command.main([str(argument) for argument in arguments])


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["no_such_task"], "unknown task 'no_such_task'"),
        (["dog_walk"], "mjx cannot hold dog_walk"),
        (["point_mass_hard", "--engine", "warp"], "warp cannot hold point_mass_hard"),
        (["--engine", "warp", "--programs", "step", "start"], "warp has no program start: step"),
        (["--num-envs", "0"], "--num-envs must be above 0"),
        (["--timeout", "0"], "--timeout must be above 0"),
        (["--timeout", "nan"], "--timeout must be above 0"),
        (["--arch", "sm_1"], "invalid choice"),
        (["--solver", "slow"], "invalid choice"),
        (["--json", "/no/such/folder/rows.jsonl"], "cannot write --json"),
        (["--json", "/"], "cannot write --json"),
    ],
)
def test_bad_input_is_one_sentence(arguments, said, children):
    with pytest.raises(ConfigError, match=said) as error:
        bench.main(["offline", *arguments])
    assert "\n" not in str(error.value) and not children


def test_without_the_compiler_it_says_how_to_get_it(monkeypatch):
    installed = {"jax": "0.10.2"}
    monkeypatch.setattr(command, "_version", installed.get)
    with pytest.raises(ConfigError, match="jax-cuda13-plugin==0.10.2"):
        offline("pendulum_swingup")


def test_a_compiler_of_another_version_is_refused(monkeypatch):
    installed = {"jax": "0.10.2", "jax-cuda13-plugin": "0.11.2"}
    monkeypatch.setattr(command, "_version", installed.get)
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: name)
    with pytest.raises(ConfigError, match="jax is 0.10.2 and its CUDA compiler 0.11.2"):
        offline("pendulum_swingup")


def test_a_row_a_case_and_none_twice(tmp_path, children, capsys, monkeypatch):
    file = tmp_path / "rows.jsonl"
    cases = ["--num-envs", 8, 16, "--solver", "faithful", "fast", "--json", file]
    offline("pendulum_swingup", *cases)
    rows = command.read(file)
    assert [(row["solver"], row["num_envs"]) for row in rows] == [
        *(("faithful", 8), ("faithful", 16), ("fast", 8), ("fast", 16))
    ]
    assert rows[0]["launches"]["total"] == 10 and rows[0]["ratio"] == 1
    assert [request["program"] for module, request in children if module == "program"] == [
        *("step", "set", "start", "physics") * 4
    ]
    # The rounds depend on task and solver alone.
    assert [request["solver"] for module, request in children if module == "rounds"] == [
        *("faithful", "fast")
    ]
    before = len(children)
    offline("pendulum_swingup", *cases)
    assert len(children) == before and len(command.read(file)) == 4
    assert "is there already" in capsys.readouterr().out
    # Of other sources they are made anew.
    monkeypatch.setattr(command, "sources", lambda: "others")
    offline("pendulum_swingup", *cases)
    assert len(children) == before + 18 and len(command.read(file)) == 8


def test_both_engines_stand_side_by_side(tmp_path, children):
    file = tmp_path / "rows.jsonl"
    for engine in ("warp", "mjx"):
        offline("pendulum_swingup", "--engine", engine, "--json", file)
    ours, other = command.read(file)
    assert [(m, r["program"]) for m, r in children if m == "warp_program"] == [
        *(("warp_program", name) for name in ("step", "outcome", "physics"))
    ]
    # A step of Warp's is its own launches and those of jax's outcome.
    assert (ours["launches"]["total"], other["launches"]["total"]) == (20, 10)
    row = "| pendulum_swingup | 4,096 | sm_90 | 20 | 20 | 2.0 | 10 | 10 | 1.0 |"
    assert row in page.text([ours, other]) and row not in page.text([ours])
    # Of the other engine it is not there yet.
    assert len(children) == 3 + 4 + 1  # the rounds are one


def test_a_case_that_fails_has_a_row_with_the_reason(tmp_path, monkeypatch, children, capsys):
    def child(module, request, timeout):
        failed = request.get("program") == "step"
        return {"reason": f"not done after {timeout:g} s"} if failed else dict(PROGRAM, **ROUNDS)

    monkeypatch.setattr(command, "_child", child)
    file = tmp_path / "rows.jsonl"
    offline("pendulum_swingup", "--json", file, "--timeout", "3")
    (row,) = command.read(file)
    assert row["programs"]["step"] == {"reason": "not done after 3 s"} and "launches" not in row
    assert "step: not done after 3 s" in capsys.readouterr().out
    assert "pendulum_swingup, 4096 worlds, step: 'not done after 3 s'" in page.text([row])


def test_a_child_that_hangs_or_dies_gives_a_reason(monkeypatch):
    run = subprocess.run

    def of(code):
        def replaced(arguments, **options):
            assert options["env"]["JAX_PLATFORMS"] == "cpu"
            return run([sys.executable, "-c", code], **options)

        return replaced

    monkeypatch.setattr(command.subprocess, "run", of("import time; time.sleep(60)"))
    assert command._child("program", {}, 0.5) == {"reason": "not done after 0.5 s"}
    monkeypatch.setattr(command.subprocess, "run", of("raise SystemError('no such device')"))
    assert command._child("program", {}, 60) == {
        "reason": "ended with 1: SystemError: no such device"
    }
    monkeypatch.setattr(command.subprocess, "run", of("print('a warning'); print('{\"a\": 1}')"))
    assert command._child("program", {}, 60) == {"a": 1}
    assert "xla_dump_to" not in os.environ.get("XLA_FLAGS", "")


def test_the_page_is_of_the_rows_alone(tmp_path, children, capsys):
    file = tmp_path / "rows.jsonl"
    offline("pendulum_swingup", "--json", file)
    offline("--page", "--json", file)
    written = (tmp_path / "rows.md").read_text()
    assert written == page.text(command.read(file)) and "not times" in written
    totals = "no solver | 10 | 10 | 1 | 10 | 0 | 10 | 10 | 0 | 1.0"
    assert f"| pendulum_swingup | 4,096 | 1 | {totals} |" in written
    assert "| 7 + 1 + 2 |" in written
    (tmp_path / "rows.md").write_text("somebody's")
    with pytest.raises(ConfigError, match="not ours to overwrite"):
        offline("--page", "--json", file)


@pytest.mark.parametrize(
    "text, said",
    [
        ("{", "is damaged"),
        ("[]", "it is no object"),
        ('{"engine": "mjx", "task": "a"}', "it has no num_envs"),
        ("", "there are no rows"),
    ],
)
def test_a_file_of_something_else_is_refused(text, said, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        offline("--page", "--json", file)


def test_dots_by_precision():
    text = """
    %1 = stablehlo.dot_general %a, %b, contracting_dims = [1] x [0], precision = [DEFAULT, DEFAULT]
    %2 = stablehlo.dot_general %a, %b, contracting_dims = [1] x [0], precision = [HIGHEST, HIGHEST]
    %3 = stablehlo.dot_general %a, %b, contracting_dims = [1] x [0] : (tensor<2x2xf32>)
    %4 = stablehlo.add %a, %b
    """
    assert dots(text) == {"dots_default": 2, "dots_higher": 1}


def test_results_that_torch_would_read_wrongly_are_seen():
    head = "HloModule m, entry_computation_layout={(f32[2]{0})->(f32[3,4]{0,1}, f32[4,5]{1,0}, "
    head += "pred[4]{0}, s32[])}, frontend_attributes={}\n"
    assert are_row_major(head, 3)
    assert not are_row_major(head, 4)  # the first is transposed
    assert are_row_major(head, 0)
    with pytest.raises(ValueError, match="4 results"):
        are_row_major(head, 5)
    with pytest.raises(ValueError, match="without the layout"):
        are_row_major("HloModule m\n", 1)


def test_rounds_are_counted_with_the_budget(monkeypatch):
    monkeypatch.setattr(rounds, "WORLDS", 4)
    monkeypatch.setattr(rounds, "_DRAWN", 2)
    found = rounds.measure("cheetah_run", "faithful")
    assert 1 <= found["mean"] <= found["most"] <= 20 and "slowest of 4 worlds" in found["how"]
    assert rounds.measure("cheetah_run", "fast")["most"] <= 4
    assert rounds.measure("point_mass_easy", "faithful")["most"] >= 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_target_is_whole(architecture):
    text = target_config(architecture)
    assert text.count("{") == text.count("}") and f"major: {architecture[3]} minor" in text


@pytest.mark.slow
def test_a_step_is_compiled_for_a_gpu_that_is_not_there(tmp_path):
    pytest.importorskip("jax_cuda13_plugin")
    file = tmp_path / "rows.jsonl"
    offline("pendulum_swingup", "--num-envs", 64, "--json", file)
    row = json.loads(file.read_text())
    for name, found in row["programs"].items():
        assert "reason" not in found, (name, found)
        assert found["row_major"] and not found["f64"] and found["argument_bytes"] > 0
    assert row["launches"]["total"] > row["launches"]["parts"]["entry"][0] > 0


@pytest.mark.slow
def test_a_step_of_warps_is_compiled_for_a_gpu_that_is_not_there(tmp_path):
    pytest.importorskip("warp")
    pytest.importorskip("jax_cuda13_plugin")
    file = tmp_path / "rows.jsonl"
    arguments = ("--engine", "warp", "--num-envs", 64, "--arch", "sm_80", "sm_90")
    offline("pendulum_swingup", *arguments, "--json", file)
    for row in command.read(file):
        assert not any("reason" in found for found in row["programs"].values()), row
        step, outcome = row["programs"]["step"], row["programs"]["outcome"]
        assert step["modules"] > 10 and step["code_bytes"] > 100_000
        assert outcome["argument_bytes"] > 0 and not outcome["f64"]
        assert row["launches"]["of_host"] < row["launches"]["total"] and row["ratio"] > 1
