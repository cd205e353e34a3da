"""Exported policies: the files alone do what the policy does, or there is one sentence."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import fastsac
from fastsac import SACConfig
from fastsac.cli import main
from fastsac.envs.registry import UnknownTask
from fastsac.errors import RunError
from fastsac.runs import checkpoint_file
from fastsac.show import export
from fastsac.show.export import export_policy
from fastsac.training.presets import preset_config

onnxruntime = pytest.importorskip("onnxruntime")

VARIANTS = {
    "plain": dict(normalize_obs=False, hidden_sizes=(16, 16)),
    "normalised": dict(normalize_obs=True, hidden_sizes=(17, 5, 33)),
    "layer norm": dict(normalize_obs=True, layer_norm=True, hidden_sizes=(7, 31), num_atoms=11),
    "one layer, bf16": dict(layer_norm=True, hidden_sizes=(3,), precision="bf16"),
    "layer norm of raw observations": dict(layer_norm=True, hidden_sizes=(63,)),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The directory of a tiny trained run of finger_spin, which has two actions."""
    config = preset_config(
        "finger_spin",
        run_dir=str(tmp_path_factory.mktemp("export") / "run"),
        num_envs=3,
        total_steps=120,
        learning_starts=90,
        batch_size=16,
        replay_capacity=200,
        final_eval_episodes=1,
        sac=SACConfig(hidden_sizes=(16, 16), normalize_obs=True, layer_norm=True),
    )
    return fastsac.train(config).run_dir


def save_agent(file, task, obs_dim, action_dim, **settings):
    """Writes the checkpoint of an agent that has seen observations around 2 and learned nothing.

    Its weights are twice as large as new ones: actions of all sizes, many of them saturated.
    """
    agent = fastsac.SAC(obs_dim, action_dim, SACConfig(**settings), seed=1, device="cpu")
    if agent.normalizer:
        obs = torch.randn(200, obs_dim, generator=torch.Generator().manual_seed(1))
        obs[:, 0] = 0  # an observation that is always 2
        agent.normalizer.update(2 + 3 * obs)
    state = agent.state_dict()
    state["actor"] *= 2
    config = json.dumps({"sac": dataclasses.asdict(agent.config)})
    sizes = dict(obs_dim=obs_dim, action_dim=action_dim)
    rest = dict(counters={}, rng={})
    checkpoint_file.save(file, dict(task=task, config=config, agent=state) | sizes | rest)


def opened(file):
    """The file's function of numpy arrays, without fastsac."""
    if file.suffix == ".onnx":
        session = onnxruntime.InferenceSession(file)
        return lambda obs: session.run(["action"], {"obs": obs})[0]
    module = torch.export.load(file).module()
    return lambda obs: module(torch.from_numpy(obs)).numpy()


@pytest.mark.filterwarnings("ignore:this CPU has no units for bf16")
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())
def test_the_file_does_what_the_policy_does(settings, suffix, tmp_path, close):
    source, output = tmp_path / "agent.pt", tmp_path / f"policy{suffix}"
    save_agent(source, "hopper_hop", 15, 4, **settings)
    usual, _ = export_policy(source, output)
    assert usual < 1e-5 and set(tmp_path.iterdir()) == {source, output}
    policy, function = fastsac.load_policy(source), opened(output)
    random = np.random.default_rng(0)
    for batch in (1, 3, 255):
        obs = (2 + 3 * random.standard_normal((batch, 15))).astype(np.float32)
        obs[:, 0] = 2
        expected = policy(obs)
        action = function(obs)
        assert action.dtype == np.float32 and np.abs(action).max() <= 1
        close(action, expected, "float32")
        with pytest.raises(AssertionError):  # this tolerance sees a weight that is 1% off
            close(function(obs * np.float32(1.01)), expected, "float32")
    for value in (0.0, 1e6, -1e6):
        obs = np.full((2, 15), value, np.float32)
        close(function(obs), policy(obs), "float32")


def test_an_onnx_file_says_how_to_use_it(tmp_path):
    # Actuators with ranges of their own, and a domain whose name has underscores.
    source, output = tmp_path / "agent.pt", tmp_path / "policy.onnx"
    save_agent(source, "ball_in_cup_catch", 8, 2, hidden_sizes=(8,))
    export_policy(source, output)
    session = onnxruntime.InferenceSession(output)
    (obs,), (action,) = session.get_inputs(), session.get_outputs()
    assert (obs.name, obs.shape, obs.type) == ("obs", ["batch", 8], "tensor(float)")
    assert (action.name, action.shape, action.type) == ("action", ["batch", 2], "tensor(float)")
    assert session.get_modelmeta().custom_metadata_map == {
        "fastsac_version": fastsac.__version__,
        "task": "ball_in_cup_catch",
        "domain": "ball_in_cup",
        "name": "catch",
        "obs_dim": "8",
        "action_dim": "2",
        "action_low": "-1.0 -1.0",
        "action_high": "1.0 1.0",
        "control_timestep": "0.02",
    }


def test_a_pt2_file_says_how_to_use_it_and_holds_each_weight_once(run, tmp_path):
    output = tmp_path / "policy.pt2"
    export_policy(run, output)
    extra = {"metadata.json": ""}
    program = torch.export.load(output, extra_files=extra)
    about = json.loads(extra["metadata.json"])
    assert (about["domain"], about["name"], about["action_dim"]) == ("finger", "spin", "2")
    assert not program.constants
    assert sum(p.numel() for p in program.parameters()) == 9 * 16 + 16 + 16 * 16 + 16 + 16 * 4 + 4


def test_action_ranges_are_the_actuators(tmp_path):
    from fastsac.envs.registry import find
    from fastsac.envs.suite import load_suite

    source, output = tmp_path / "agent.pt", tmp_path / "policy.pt2"
    save_agent(source, "quadruped_walk", 78, 12, hidden_sizes=(8,))
    export_policy(source, output)
    extra = {"metadata.json": ""}
    torch.export.load(output, extra_files=extra)
    about, suite = json.loads(extra["metadata.json"]), load_suite(find("quadruped_walk"))
    low, high = (np.array(about[key].split(), float) for key in ("action_low", "action_high"))
    np.testing.assert_array_equal((low, high), (suite.action_low, suite.action_high))
    assert not (high == 1).all()


def test_a_small_file_is_for_load_policy(tmp_path):
    source, output = tmp_path / "agent.pt", tmp_path / "small.policy"
    save_agent(source, "hopper_hop", 15, 4, normalize_obs=True, hidden_sizes=(512, 512))
    usual, extreme = export_policy(source, output)
    assert 1e-5 < usual < 0.05 and extreme < 2.1
    obs = (2 + 3 * np.random.default_rng(0).standard_normal((255, 15))).astype(np.float32)
    difference = np.abs(fastsac.load_policy(output)(obs) - fastsac.load_policy(source)(obs)).max()
    assert 0 < difference < 2 * usual and output.stat().st_size < source.stat().st_size / 10
    assert export_policy(output, tmp_path / "again.policy")[0] == 0
    assert (tmp_path / "again.policy").read_bytes() == output.read_bytes()
    export_policy(output, tmp_path / "policy.onnx")


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_file_that_does_something_else_is_not_written(suffix, run, tmp_path, monkeypatch):
    output = tmp_path / f"policy{suffix}"
    output.write_bytes(b"old")
    encode, decode = export._KINDS[suffix]

    def encode_another(network, *rest):
        network.actor.mlp.layers[0].weight.data *= 1.001
        data = encode(network, *rest)
        network.actor.mlp.layers[0].weight.data /= 1.001
        return data

    monkeypatch.setitem(export._KINDS, suffix, (encode_another, decode))
    with pytest.raises(RunError, match=rf"policy\{suffix} was not written: .* \de-0[345] off$"):
        export_policy(run, output)
    assert output.read_bytes() == b"old" and list(tmp_path.iterdir()) == [output]


def test_the_command_prints_one_line(run, tmp_path):
    environment = os.environ | {"PYTHONWARNINGS": "default"}
    commands = [["export", str(run / "best.pt"), "-o", f"policy{s}"] for s in (".onnx", ".pt2")]
    done = subprocess.run(
        [sys.executable, "-c", f"from fastsac.cli import main; [main(c) for c in {commands}]"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    for line, suffix in zip(done.stdout.splitlines(), (".onnx", ".pt2"), strict=True):
        assert line.startswith(f"policy{suffix}: ") and " kB, within " in line
    assert "torch" not in done.stderr and "onnx" not in done.stderr, done.stderr


BAD = {
    "suffix": ("-o policy.pb", "-o must end in .onnx, .pt2 or .policy, got policy.pb"),
    "no suffix": ("-o onnx", "-o must end in .onnx, .pt2 or .policy, got onnx"),
    "no output": ("", "export: the following arguments are required: -o"),
    "no directory": ("-o there/policy.onnx", "cannot write -o there/policy.onnx: there is no dir"),
    "a directory": ("-o a.pt2", "cannot write -o a.pt2: it is a directory"),
}


@pytest.mark.parametrize(("flags", "words"), BAD.values(), ids=BAD.keys())
def test_bad_input_gets_one_sentence_and_no_file(flags, words, run, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.pt2").mkdir()
    assert main(["export", str(run), *flags.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fastsac: ") and words in line
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt2"]


def test_no_run(capsys, tmp_path):
    assert main(["export", "nowhere", "-o", str(tmp_path / "policy.onnx")]) == 2
    assert capsys.readouterr().err == "fastsac: there is no checkpoint nowhere\n"
    assert not list(tmp_path.iterdir())


def test_a_task_that_is_not_here(tmp_path):
    save_agent(tmp_path / "agent.pt", "hang", 4, 1, hidden_sizes=(8,))
    with pytest.raises(UnknownTask, match="hang"):
        export_policy(tmp_path / "agent.pt", tmp_path / "policy.pt2")
    assert main(["export", str(tmp_path / "agent.pt"), "-o", str(tmp_path / "policy.pt2")]) == 2


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="no directory that root cannot write to")
def test_an_unwritable_directory(run, capsys):
    assert main(["export", str(run), "-o", "/proc/policy.pt2"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fastsac: could not write /proc/policy.pt2: ")


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(package, run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RunError, match=rf"^an \.onnx needs {package}: pip install 'fastsac\[exp"):
        export_policy(run, tmp_path / "policy.onnx")
    export_policy(run, tmp_path / "policy.pt2")  # which needs torch only
    assert [path.name for path in tmp_path.iterdir()] == ["policy.pt2"]
