"""--start-from: what is taken over of a policy, what begins anew, and what is refused."""

import json

import pytest
import torch

import fastsac
from fastsac import SACConfig, TrainConfig, load_policy
from fastsac.cli import main
from fastsac.errors import CheckpointError, ConfigError
from fastsac.training.state import TrainingState
from tests.fastsac.run_samples import train_tiny

START = "zoo:ball_in_cup_catch"
NETWORK = dict(hidden_sizes=(512, 512), layer_norm=True, normalize_obs=True)


def config_of(task="ball_in_cup_catch", start_from=START, network=NETWORK, **fields):
    few = dict(num_envs=4, learning_starts=40, total_steps=80, batch_size=8, replay_capacity=200)
    settings = few | dict(engine="native", device="cpu", final_eval_episodes=1) | fields
    return TrainConfig(task, start_from=start_from, sac=SACConfig(**network), **settings)


def opened(config):
    state = TrainingState(config)
    state.take_policy()
    state.start()
    return state


def test_the_actor_and_the_statistics_are_the_policys_and_the_rest_is_new():
    policy = load_policy(START)
    started, new = opened(config_of()), opened(config_of(start_from=None))
    try:
        ours, theirs = started.agent.state_dict(), policy.state_dict()
        assert torch.equal(ours["actor"], theirs["actor"])
        for name, value in theirs["normalizer"].items():
            assert torch.equal(ours["normalizer"][name], value)
        assert theirs["normalizer"]["count"] > 1e6
        anew = new.agent.state_dict()
        assert not torch.equal(anew["actor"], ours["actor"])
        for part in ("critics", "target_critics", "updates"):
            torch.testing.assert_close(ours[part], anew[part], rtol=0, atol=0)
        for part in ("actor_optimizer", "critic_optimizer", "alpha_optimizer", "scalars"):
            for name, value in anew[part].items():
                assert torch.equal(ours[part][name], value), (part, name)
        obs = torch.randn(5, 8)
        assert torch.equal(started.agent.act(obs, deterministic=True), policy(obs))
        # It acts from the first step on, where a new policy's run draws uniform actions.
        first = started.action()
        assert not torch.equal(first, new.action())
        spread = (first - policy(started.obs)).abs().mean()
        assert spread < (new.action() - policy(new.obs)).abs().mean()
    finally:
        started.close()
        new.close()


def test_a_run_starts_from_a_run_and_goes_on(tmp_path, capsys):
    first = train_tiny(tmp_path / "first")
    flags = ["--num-envs", "3", "--learning-starts", "150", "--batch-size", "32"]
    flags += ["--hidden-sizes", "16", "16", "--final-eval-episodes", "1", "--total-steps", "300"]
    path = tmp_path / "second"
    start = ["--start-from", str(first / "best.pt"), "--run-dir", str(path)]
    assert main(["train", "cartpole_swingup", *start, *flags]) == 0
    assert json.loads((path / "config.json").read_text())["start_from"] == str(first / "best.pt")
    before = load_policy(path).state_dict()["actor"]
    (first / "best.pt").unlink()  # a run that goes on has all it needs
    result = fastsac.resume(path, total_steps=330)
    assert result.steps == 330
    assert not torch.equal(load_policy(path).state_dict()["actor"], before)
    with pytest.raises(ConfigError, match="a resumed run keeps its --start-from"):
        fastsac.resume(path, total_steps=360, start_from=START)


REFUSED = {
    "another task's sizes": (
        config_of("walker_run"),
        "ball_in_cup_catch has observations of 8 and actions of 2 numbers, walker_run has 24 and 6",
    ),
    "widths": (
        config_of(network=NETWORK | {"hidden_sizes": (256, 256)}),
        f"--start-from {START}: it has --hidden-sizes 512 512, the run 256 256",
    ),
    "layer norm": (
        config_of(network=NETWORK | {"layer_norm": False}),
        f"--start-from {START}: it has --layer-norm True, the run False",
    ),
    "statistics": (
        config_of(network=NETWORK | {"normalize_obs": False}),
        f"--start-from {START}: it has --normalize-obs True, the run False",
    ),
    "no such policy": (
        config_of(start_from="zoo:ball_in_cup"),
        "there is no policy zoo:ball_in_cup; did you mean zoo:ball_in_cup_catch",
    ),
    "no such file": (config_of(start_from="nowhere"), "there is no checkpoint nowhere"),
}


@pytest.mark.parametrize(("config", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_what_does_not_fit_is_one_sentence_and_no_run(config, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ConfigError, CheckpointError)) as error:
        fastsac.train(config)
    assert sentence in str(error.value)
    assert not list(tmp_path.iterdir())


def test_an_empty_path_is_refused():
    with pytest.raises(ConfigError, match="--start-from must be a run"):
        config_of(start_from="")
