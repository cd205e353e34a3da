"""GraphedCall, and SAC's captured updates against the same updates done eagerly."""

import dataclasses
from functools import partial

import pytest
import torch

from fastsac import SAC, Batch, ReplayBuffer, SACConfig
from fastsac.learner.cuda_graph import GraphedCall

OBS, ACT, B = 17, 6, 256
CONFIGS = {
    "v2": SACConfig(hidden_sizes=(64, 64)),
    "v1": SACConfig(hidden_sizes=(64, 64), temperature=0.1, num_critics=3),
    "normalised, delayed": SACConfig(hidden_sizes=(64, 64), normalize_obs=True, policy_delay=2),
    "tf32": SACConfig(hidden_sizes=(64, 64), precision="tf32"),
    "bf16": SACConfig(hidden_sizes=(64, 64), precision="bf16"),
    "distributions": SACConfig(
        hidden_sizes=(16, 12), num_atoms=11, value_range=(-1.0, 9.0), layer_norm=True,
        weight_decay=0.1, learning_rate=3e-3,
    ),
}  # fmt: skip

MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def setup(config, seed=0):
    agent = SAC(OBS, ACT, config, "cuda", seed, strict=True)
    replay = ReplayBuffer(5000, OBS, ACT, "cuda", seed)
    g = torch.Generator("cuda").manual_seed(77)
    draw = lambda *shape: torch.randn(*shape, generator=g, device="cuda")  # noqa: E731
    obs, next_obs, action = draw(5000, OBS), draw(5000, OBS), draw(5000, ACT).tanh()
    replay.add(obs, action, draw(5000).sigmoid(), draw(5000) > 1.5, next_obs)
    agent.observe(obs)
    return agent, replay


def weights(agent):
    return [agent.actor_flat, agent.critics_flat, agent.target_flat, agent.log_alpha]


def test_on_a_cpu_it_is_the_function():
    calls = []
    call = GraphedCall(lambda: calls.append(1) or len(calls), torch.device("cpu"), [])
    assert [call() for _ in range(5)] == [1, 2, 3, 4, 5] and call.captures == 0


@pytest.mark.gpu
def test_on_a_gpu_every_call_counts_and_the_third_is_captured():
    total, generator = torch.zeros((), device="cuda"), torch.Generator("cuda").manual_seed(3)
    drawn = torch.zeros(4, device="cuda")

    def function():
        total.add_(1)
        drawn.uniform_(generator=generator)
        return total + 0

    call = GraphedCall(function, total.device, [generator])
    twin = torch.Generator("cuda").manual_seed(3)
    for number in range(1, 8):
        assert call().item() == number and total.item() == number
        assert torch.equal(drawn, torch.zeros(4, device="cuda").uniform_(generator=twin))
    assert call.captures == 1


@pytest.mark.gpu
@pytest.mark.parametrize("name", CONFIGS)
def test_captured_and_eager_updates_agree_to_the_last_bit(name, close):
    one, replay = setup(CONFIGS[name])
    two, twin = setup(CONFIGS[name])
    for _ in range(50):
        captured = one.learn(replay, B, 2)
        for _ in range(2):
            eager = two.update(twin.sample(B))
    assert [graph.captures for graph in one._graphed.values()] == [1]
    if CONFIGS[name].normalize_obs:  # in one kernel with the gather, and by torch: other roundings
        for a, b in zip(weights(one), weights(two), strict=True):
            close(a, b, "float32 weights after 100 updates")
    else:
        assert all(torch.equal(a, b) for a, b in zip(weights(one), weights(two), strict=True))
        assert torch.equal(captured["critic_loss"], eager["critic_loss"])
    assert torch.equal(one.generator.get_state(), two.generator.get_state())


@pytest.mark.gpu
def test_1000_updates_wait_for_nothing_and_capture_nothing_anew():
    agent, replay = setup(CONFIGS["normalised, delayed"])
    obs = torch.randn(64, OBS, device="cuda")
    zeros = torch.zeros(64, device="cuda")
    for _ in range(3):  # odd blocks: both phases of the delay get a graph
        agent.learn(replay, B, 5), agent.learn(replay, B, 5), agent.act(obs)
    captures = [graph.captures for graph in agent._graphed.values()]
    before = weights(agent)[1].clone()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(200):
            replay.add(obs, agent.act(obs), zeros, zeros, obs)
            agent.learn(replay, B, 5)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert captures == [1, 1, 1] == [graph.captures for graph in agent._graphed.values()]
    assert not torch.equal(before, agent.critics_flat) and agent.critics_flat.isfinite().all()


@pytest.mark.gpu
def test_scalars_and_new_transitions_reach_a_captured_graph():
    agent, replay = setup(CONFIGS["v2"])
    for _ in range(4):
        agent.learn(replay, B)
    agent.learning_rate.fill_(0)
    before = agent.critics_flat.clone()
    agent.learn(replay, B)
    assert torch.equal(agent.critics_flat, before)
    agent.tau.fill_(1)
    agent.learn(replay, B)
    assert torch.equal(agent.target_flat, agent.critics_flat)
    losses = agent.learn(replay, B)["critic_loss"].clone()
    zeros = torch.zeros(5000, device="cuda")
    obs = torch.zeros(5000, OBS, device="cuda")
    replay.add(obs, torch.zeros(5000, ACT, device="cuda"), zeros + 100, zeros + 1, obs)
    assert agent.learn(replay, B)["critic_loss"] > 100 * losses
    assert [graph.captures for graph in agent._graphed.values()] == [1]


@pytest.mark.gpu
def test_a_captured_graph_skips_what_is_not_finite_and_goes_on():
    agent, replay = setup(CONFIGS["v2"])
    for _ in range(4):
        agent.learn(replay, B, 2)
    optimizers = (agent.actor_optimizer, agent.critic_optimizer, agent.alpha_optimizer)
    held = lambda: [  # noqa: E731
        x.clone()
        for x in (*weights(agent), *(o.state_dict()[n] for o in optimizers for n in MOMENTS))
    ]
    rows, before = replay.rows.clone(), held()
    replay.rows[:, 0] = torch.inf  # of obs, which all three losses read
    for number in (1, 2):
        metrics = agent.learn(replay, B, 2)
        assert all(torch.equal(a, b) for a, b in zip(before, held(), strict=True))
        assert metrics["skipped_updates"] == 6 * number and agent.skipped_in_a_row == 2 * number
    replay.rows.copy_(rows)
    metrics = agent.learn(replay, B, 2)
    assert not any(torch.equal(a, b) for a, b in zip(before, held(), strict=True))
    assert metrics["skipped_updates"] == 12 and agent.skipped_in_a_row == 0
    assert all(x.isfinite().all() for x in (*held(), *metrics.values()))
    assert [graph.captures for graph in agent._graphed.values()] == [1]


@pytest.mark.gpu
def test_a_restored_state_reaches_a_captured_graph():
    agent, replay = setup(CONFIGS["v2"])
    for _ in range(4):
        agent.learn(replay, B)
    state = agent.state_dict()
    rng = replay.generator.get_state()
    agent.learn(replay, B, 1)
    want = [x.clone() for x in weights(agent)]
    agent.load_state_dict(state)
    replay.generator.set_state(rng)
    agent.learn(replay, B, 1)
    assert all(torch.equal(a, b) for a, b in zip(want, weights(agent), strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("deterministic", [False, True])
def test_captured_actions_are_the_policys_and_the_callers_own(deterministic):
    one, two = setup(CONFIGS["v2"])[0], setup(CONFIGS["v2"])[0]
    obs = torch.randn(6, 33, OBS, device="cuda")
    kept = [one.act(x, deterministic) for x in obs]
    for x, action in zip(obs, kept, strict=True):
        want = two._act(deterministic, x).detach()
        assert torch.equal(action, want)
    noise = torch.randn(len(obs[1]), ACT, device="cuda")
    for scale in () if deterministic else (1, -1):  # what a graph reads is given anew
        given = one.act(obs[1], noise=scale * noise)
        assert torch.equal(given, two._act(False, obs[1], scale * noise).detach())
    assert len({x.data_ptr() for x in kept}) == 6
    again = (one.act(obs[0], deterministic) for _ in range(2))
    assert torch.equal(*again) == deterministic  # a sample's noise is fresh


@pytest.mark.gpu
def test_a_gpu_state_acts_the_same_on_the_cpu(close):
    agent, replay = setup(CONFIGS["v2"])
    for _ in range(5):
        agent.learn(replay, B)
    there = SAC(OBS, ACT, CONFIGS["v2"], "cpu")
    there.load_state_dict(agent.state_dict())
    obs = torch.randn(9, OBS)
    want = agent.act(obs.cuda(), deterministic=True).cpu()
    close(there.act(obs, deterministic=True), want, "float32 weights after 100 updates")


@pytest.mark.gpu
@pytest.mark.parametrize("name", CONFIGS)
def test_a_first_updates_gradients_are_those_of_a_cpu(name, close):
    """From the same batch and noise; its sums are in another order."""
    config = CONFIGS[name]
    exact = config.precision == "float32"
    agents = [
        SAC(OBS, ACT, dataclasses.replace(config, policy_delay=1, **changes), where, strict=True)
        for where, changes in (("cpu", {"precision": "float32"}), ("cuda", {}))
    ]
    g = torch.Generator().manual_seed(7)
    draw = lambda *shape: torch.randn(*shape, generator=g)  # noqa: E731
    ends, ones = (draw(B) > 1.5).float(), torch.ones(B)
    batch = Batch(
        draw(B, OBS), draw(B, ACT).tanh(), draw(B).sigmoid(), ends, draw(B, OBS), ones, ones
    )
    noise = draw(2 * B, ACT)
    for agent in agents:
        agent.noise = partial(torch.narrow, noise.to(agent.device), 0, 0)  # its first rows
        agent.observe(3 * batch.obs.to(agent.device) + 1)
        agent.update(Batch(*(x.to(agent.device) for x in batch)))
    for part in ("critic_weights", "actor_weights"):
        expected, found = (getattr(agent, part).gradient for agent in agents)
        scale = expected.abs().max()
        kind = "float32 network" if exact else "bf16 network"
        close(found / scale, expected / scale, kind, part)
