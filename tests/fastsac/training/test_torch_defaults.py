"""Whatever torch's defaults are, a learner, a run and a policy are the same to the last bit."""

import contextlib
import dataclasses

import numpy as np
import pytest
import torch

import fastsac
from fastsac import SAC, ReplayBuffer, SACConfig
from fastsac.runs import checkpoint_file
from fastsac.training.evaluation import evaluate
from fastsac.training.presets import preset_config

OBS, ACT = 5, 3
SMALL = SACConfig(hidden_sizes=(16, 12), learning_rate=3e-3)
CONFIGS = {
    "v2": SMALL,
    "v1": dataclasses.replace(SMALL, temperature=0.1, num_critics=3),
    "all": dataclasses.replace(
        SMALL, normalize_obs=True, policy_delay=2, num_atoms=11, value_range=(-1.0, 9.0),
        layer_norm=True, critic_reduction="mean", weight_decay=0.1, initial_std=0.3,
    ),
}  # fmt: skip


@contextlib.contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


DEFAULTS = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "meta device": lambda: default_device("meta"),
    "within a meta device": lambda: torch.device("meta"),
}


@pytest.fixture(params=DEFAULTS)
def defaults(request):
    return DEFAULTS[request.param]


def columns():
    g = torch.Generator().manual_seed(7)
    obs, next_obs = torch.randn(2, 200, OBS, generator=g)
    action = torch.rand(200, ACT, generator=g) * 2 - 1
    reward, ends = torch.rand(200, generator=g), torch.rand(200, generator=g) < 0.1
    return obs, action, reward, ends, next_obs


def learned(name, rows):
    """What a learner is after some updates, and what it does then."""
    agent, replay = SAC(OBS, ACT, CONFIGS[name], seed=3), ReplayBuffer(150, OBS, ACT, seed=3)
    replay.add(*(x[:100] for x in rows))
    replay.add(*(x[100:] for x in rows))
    agent.observe(rows[0])
    metrics = agent.learn(replay, 32, 5)
    metrics |= agent.update(replay.sample(16))
    again = SAC(OBS, ACT, CONFIGS[name], seed=9)
    again.load_state_dict(agent.state_dict())
    state = [agent.actor_flat, agent.critics_flat, agent.target_flat, agent.log_alpha]
    policy = fastsac.Policy.snapshot(again, "task")
    acts = [agent.act(rows[0]), again.act(rows[0], deterministic=True), policy(rows[0])]
    return [*state, *acts, *metrics.values(), replay.rows]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_learner(name, defaults):
    rows = columns()
    expected = learned(name, rows)
    with defaults():
        found = learned(name, rows)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype == torch.float32 and ours.device.type == "cpu"
        assert torch.equal(ours, theirs)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("float64", "within a meta device")]
TINY = dict(
    num_envs=2, updates_per_step=1, total_steps=300, learning_starts=60, batch_size=16, n_step=2,
    replay_capacity=200, eval_every=150, eval_episodes=1, final_eval_episodes=1, log_seconds=0.1,
    device="cpu", engine="native", sac=dataclasses.replace(CONFIGS["all"], value_range=None),
)  # fmt: skip


def trained(folder):
    """What a run, gone on with, ends with: its weights, returns, and policy."""
    config = preset_config("cartpole_balance", run_dir=str(folder), **TINY)
    first = fastsac.train(config)
    done = fastsac.resume(folder, total_steps=450)
    state = checkpoint_file.load(folder)
    policy = fastsac.load_policy(folder)
    obs = np.linspace(-1, 1, policy.obs_dim, dtype=np.float32)
    engine = evaluate(policy, "cartpole_balance", 2, 0, "engine").returns
    returns = (*first.evaluation.returns, *done.evaluation.returns, *engine)
    return [state["agent"]["actor"], state["agent"]["critics"], policy(obs), returns]


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain") / "run"
    return [*trained(folder), folder]


# The learner's test, the export's and those of files take all four.
@pytest.mark.parametrize("name", ["bfloat16", "meta device", *SLOW])
def test_a_run(name, expected, tmp_path):
    with DEFAULTS[name]():
        actor, critics, action, returns = trained(tmp_path / "run")
    assert torch.equal(actor, expected[0]) and torch.equal(critics, expected[1])
    assert np.array_equal(action, expected[2]) and returns == expected[3]


def test_an_export(defaults, expected, tmp_path):
    from fastsac.show.export import export_policy

    with defaults():
        usual, _ = export_policy(str(expected[4]), tmp_path / "policy.pt2")
    assert usual < 1e-5
