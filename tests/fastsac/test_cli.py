"""The command line: what users type, and one sentence with exit code 2 for what goes wrong."""

import json
import os
import subprocess
import sys

import pytest
import torch

import fastsac
from fastsac.cli import main
from fastsac.runs import checkpoint_file
from fastsac.show import doctor
from fastsac.training.presets import preset_config

TINY = ["--total-steps", "60", "--learning-starts", "30", "--batch-size", "8"]
TINY += ["--hidden-sizes", "8", "8", "--final-eval-episodes", "1", "--num-envs", "2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The directory of a tiny trained run."""
    path = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", "cartpole_balance", "--run-dir", str(path), *TINY]) == 0
    return path


def test_train_then_eval(run, capsys):
    assert main(["eval", str(run), "--episodes", "1"]) == 0
    out = capsys.readouterr().out
    assert "episode 0: " in out and "return in dm_control: " in out
    assert main(["eval", str(run), "--episodes", "2", "--backend", "engine", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert set(figures) == {"backend", "seed", "returns", "diverged", "mean", "std"}
    assert figures["backend"] == "engine" and len(figures["returns"]) == 2
    assert figures["mean"] == pytest.approx(sum(figures["returns"]) / 2)


def test_flags_reach_the_saved_configuration(run):
    config = json.loads((run / "config.json").read_text())
    assert config["task"] == "cartpole_balance" and config["total_steps"] == 60
    assert config["sac"]["hidden_sizes"] == [8, 8] and config["num_envs"] == 2


def test_flags_win_over_the_preset(tmp_path):
    path = tmp_path / "run"
    flags = ["--preset", "cpu", "--tau", "0.5", "--temperature", "0.2", *TINY]
    assert main(["train", "cartpole_balance", "--run-dir", str(path), *flags]) == 0
    config = json.loads((path / "config.json").read_text())
    assert config["sac"]["tau"] == 0.5 and config["sac"]["temperature"] == 0.2
    assert config["sac"]["learning_rate"] == preset_config("x", "cpu").sac.learning_rate
    assert config["preset"] == "cpu"


BAD = {
    "unknown command": (["fly"], "unknown command 'fly'"),
    "no task": (["train"], "usage: fastsac train TASK"),
    "flag before the task": (["train", "--seed", "1", "walker_run"], "usage: fastsac train TASK"),
    "unknown task": (["train", "walker_rum"], "did you mean walker_run"),
    "unknown flag": (["train", "walker_run", "--wings", "2"], "unknown argument '--wings'"),
    "unknown preset": (["train", "walker_run", "--preset", "fst"], "unknown --preset 'fst'"),
    "eval of nothing": (["eval"], "the following arguments are required: run"),
    "unknown level": (["bench", "cpus"], "unknown level 'cpus'; there are learner, kernels, train"),
    "out of range": (["train", "walker_run", "--gamma", "1.5"], "--gamma must be in [0, 1)"),
    "contradiction": (
        ["train", "walker_run", "--temperature", "0.2", "--target-entropy-per-dim", "-3"],
        "--target-entropy-per-dim contradicts --temperature",
    ),
    "too small a replay": (
        ["train", "walker_run", "--num-envs", "64", "--replay-capacity", "10"],
        "--replay-capacity 10 cannot hold",
    ),
    "too large a replay": (
        ["train", "walker_run", "--replay-capacity", "9999999999999"],
        "are free",
    ),
    "no cuda": (["train", "walker_run", "--device", "cuda"], "torch sees no CUDA device"),
    "no run": (["eval", "nowhere"], "there is no checkpoint nowhere"),
    "no episodes": (["eval", "nowhere", "--episodes", "0"], "--episodes must be at least 1"),
}


@pytest.mark.parametrize(("argv", "words"), BAD.values(), ids=BAD.keys())
def test_bad_input_gets_one_sentence_and_exit_code_2(argv, words, capsys, tmp_path, monkeypatch):
    if "cuda" in argv and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("fastsac: ") and words in lines[0], captured.err
    assert not list(tmp_path.iterdir()), "bad input left files behind"


def test_bad_types_exit_with_2(capsys):
    with pytest.raises(SystemExit) as error:
        main(["train", "walker_run", "--batch-size", "many"])
    assert error.value.code == 2
    assert "--batch-size" in capsys.readouterr().err
    assert main(["train", "walker_run", "--num-envs", "many"]) == 2
    sentence = capsys.readouterr().err
    assert "--num-envs" in sentence and "invalid int value: 'many'" in sentence


def test_a_run_directory_that_holds_another_run(run, capsys):
    assert main(["train", "cartpole_balance", "--run-dir", str(run), *TINY]) == 2
    assert "holds another run" in capsys.readouterr().err


def test_damaged_and_foreign_checkpoints(run, capsys, tmp_path):
    data = checkpoint_file.files_of(run)[0].read_bytes()
    cut = tmp_path / "cut.pt"
    cut.write_bytes(data[: len(data) // 2])
    assert main(["eval", str(cut)]) == 2
    assert f"{cut} is truncated or damaged: its checksum differs" in capsys.readouterr().err

    foreign = tmp_path / "walker"
    (foreign / "checkpoints").mkdir(parents=True)
    (foreign / "checkpoints" / checkpoint_file.name_of(10)).write_bytes(data)
    (foreign / "config.json").write_text('{"task": "walker_run"}')
    assert main(["eval", str(foreign)]) == 2
    assert "checkpoint of cartpole_balance, but" in capsys.readouterr().err


def test_no_disk_space(tmp_path):
    """A real limit on file sizes, in a process of its own."""
    code = (
        "import resource, sys; from fastsac.cli import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "sys.exit(main(sys.argv[1:]))"
    )
    argv = ["train", "cartpole_balance", "--run-dir", str(tmp_path / "run"), *TINY]
    argv += ["--hidden-sizes", "64", "64"]
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and "could not write" in done.stderr
    assert not (tmp_path / "run").exists(), "a second try would be refused"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
@pytest.mark.parametrize("args", [["--help"], ["tasks"], ["train", "--help"]])
def test_an_output_without_room_is_one_sentence(args):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fastsac", *args],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=120,
        )  # fmt: skip
    said = "fastsac: standard output takes no more: No space left on device\n"
    assert (done.returncode, done.stderr) == (2, said)


def test_a_reader_that_leaves_is_no_error():
    command = f"{sys.executable} -m fastsac --help | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_tasks_lists_every_task(capsys):
    assert main(["tasks"]) == 0
    out = capsys.readouterr().out
    for name in fastsac.tasks():
        assert f"{name} " in out
    line = next(x for x in out.splitlines() if x.startswith("humanoid_walk "))
    assert line.split()[1:] == ["67", "21", "25.0", "ms", "1000", "native,", "warp,", "mjx"]
    assert "float32 solver budget" in out and "no mjx for dog_fetch, dog_run" in out
    dog = next(x for x in out.splitlines() if x.startswith("dog_run "))
    assert dog.split()[-2:] == ["native,", "warp"]


@pytest.mark.slow
def test_doctor_tries_the_engines(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_GL_PACKAGES", {"egl": doctor._GL_PACKAGES["egl"]})
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "native      works on cpu" in out and "mujoco " in out


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_jax_that_cannot_start_is_one_sentence(run, tmp_path):
    code = (
        "import sys; from fastsac.cli import main; from fastsac.show.doctor import _gpu\n"
        "train = ['train', 'cartpole_balance', '--run-dir', sys.argv[2]]\n"
        "evaluate = ['eval', sys.argv[1], '--episodes', '1', '--backend', 'engine']\n"
        "print(main(train), main([*train, '--engine', 'mjx']), main(evaluate), _gpu())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run), str(tmp_path / "run")],
        env=os.environ | {"JAX_PLATFORMS": "cuda"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.startswith("2 2 2 jax finds no device with JAX_PLATFORMS=cuda"), done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 3 and all("with JAX_PLATFORMS=cuda: unset it" in x for x in lines), lines
    assert not (tmp_path / "run").exists()


def test_help_needs_no_heavy_import():
    code = "import sys; from fastsac.cli import main; main([]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip().endswith("False") and "train TASK" in done.stdout
