"""The first line of a run whose settings are for a GPU, on a machine without one."""

import re
import time
from types import SimpleNamespace

import pytest
import torch

from fastsac import SAC, SACConfig
from fastsac.cli import main
from fastsac.training import without_gpu
from fastsac.training.presets import preset_config
from fastsac.training.without_gpu import notice, update_seconds

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
SMALL = {"batch_size": 16, "sac": SACConfig(hidden_sizes=(8, 8), policy_delay=2)}
FAST = ["--preset", "fast", "--num-envs", "8", "--batch-size", "16", "--hidden-sizes", "8", "8"]
FAST += ["--total-steps", "160", "--learning-starts", "40", "--final-eval-episodes", "1"]


def worlds(engine="native", device=CPU, engine_device=CPU, num_envs=4096):
    """As much of an env as the notice looks at."""
    return SimpleNamespace(
        engine=SimpleNamespace(device=engine_device),
        engine_name=engine,
        device=device,
        num_envs=num_envs,
        obs_dim=5,
        action_dim=1,
    )


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_a_run_with_the_fast_preset_says_it_first(no_gpu, tmp_path, capsys):
    flags = [*FAST, "--engine", "native", "--device", "cpu", "--run-dir", str(tmp_path / "run")]
    assert main(["train", "cartpole_balance", *flags]) == 0
    first, *others = capsys.readouterr().err.splitlines()
    assert "this run has no GPU: torch sees none here" in first
    assert "its 480 updates alone" in first  # (160 - 40) / 8 vector steps of 32
    assert first.endswith("what suits a CPU: fastsac train cartpole_balance --preset cpu")
    assert others[0].startswith("fastsac: cartpole_balance, 8 worlds on native")


def test_the_cost_is_what_was_measured(no_gpu, monkeypatch):
    monkeypatch.setattr(without_gpu, "update_seconds", lambda *_: 3.0)
    config = preset_config("humanoid_walk", "fast")
    said = notice(config, worlds())
    updates = (50_000_000 - 40_960) // 4096 * 32
    assert f"its {updates:,} updates" in said and "as one takes 3 s now" in said
    assert f"about {3 * updates / 86_400:.2g} days" in said


def test_an_update_is_timed(monkeypatch):
    config = preset_config("cartpole_balance", **SMALL)
    monkeypatch.setattr(SAC, "update", lambda *_: time.sleep(0.02))
    assert 0.02 <= update_seconds(config, worlds()) < 0.2
    monkeypatch.undo()
    before = torch.get_rng_state()
    assert 0 < update_seconds(config, worlds()) < 1
    assert torch.equal(before, torch.get_rng_state())


def test_many_worlds_of_mjx_on_a_cpu(no_gpu):
    config = preset_config("cartpole_balance", "cpu")
    said = notice(config, worlds("mjx", num_envs=64))
    assert "64 worlds of mjx" in said and "--engine native" in said and "updates" not in said


def test_no_gpu_is_not_claimed_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    said = notice(preset_config("cartpole_balance", "fast", **SMALL), worlds())
    assert said.startswith("fastsac: this run uses no GPU; ")


def test_others_are_told_nothing(no_gpu):
    fast, cpu = (preset_config("cartpole_balance", preset) for preset in ("fast", "cpu"))
    assert not notice(fast, worlds("mjx", CUDA, CUDA)) and not notice(fast, worlds(device=CUDA))
    assert not notice(cpu, worlds()) and not notice(cpu, worlds("mjx", num_envs=2))


@pytest.mark.parametrize(
    "seconds, words",
    [
        (0.014, "0.014 s"),
        (40, "40 s"),
        (150, "2.5 minutes"),
        (9_000, "2.5 hours"),
        (2e6, "23 days"),
    ],
)
def test_times_are_readable(seconds, words):
    assert re.fullmatch(words, without_gpu._shown(seconds))
