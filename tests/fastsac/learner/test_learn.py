"""SAC.learn: blocks of updates, the delayed policy, precision, and no wait for the device."""

import dataclasses
import warnings

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import fastsac.learner.flat_weights
import fastsac.learner.sac
from fastsac import SAC, ReplayBuffer, SACConfig
from fastsac.learner.networks import EnsembleMLP

OBS, ACT, B = 5, 3, 32
SMALL = SACConfig(hidden_sizes=(16, 12), learning_rate=3e-3)
CONFIGS = {
    "v2": SMALL,
    "v1": dataclasses.replace(SMALL, temperature=0.1, num_critics=3),
    "normalised": dataclasses.replace(SMALL, normalize_obs=True),
    "delayed": dataclasses.replace(SMALL, policy_delay=2),
    "distributions": dataclasses.replace(
        SMALL, num_atoms=11, value_range=(-1.0, 9.0), layer_norm=True, critic_reduction="mean",
        weight_decay=0.1, initial_std=0.3,
    ),
}  # fmt: skip


def setup(config, device="cpu", seed=0):
    """An agent and a replay of 500 transitions; the same for the same arguments."""
    agent = SAC(OBS, ACT, config, device, seed)
    replay = ReplayBuffer(500, OBS, ACT, device, seed)
    g = torch.Generator().manual_seed(77)
    obs, next_obs = torch.randn(2, 500, OBS, generator=g)
    action = torch.rand(500, ACT, generator=g) * 2 - 1
    reward, ends = torch.rand(500, generator=g), torch.rand(500, generator=g) < 0.1
    columns = obs, action, reward, ends, next_obs, torch.ones(500), 1 + torch.arange(500) % 3
    replay.add(*(x.to(device) for x in columns))
    agent.observe(2 * obs.to(device) + 1)
    return agent, replay


def everything(agent):
    parts = [agent.actor_flat, agent.critics_flat, agent.target_flat, agent.log_alpha]
    return [x.clone() for x in (*parts, agent.generator.get_state())]


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(everything(one), everything(two), strict=True))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("blocks", [(6,), (1,) * 6, (3, 1, 2)], ids=str)
def test_a_block_is_so_many_updates_on_fresh_batches(name, blocks):
    one, replay = setup(CONFIGS[name])
    two, twin = setup(CONFIGS[name])
    metrics, expected = {}, {}
    for count in blocks:
        metrics |= one.learn(replay, B, count)
    for _ in range(6):
        expected |= two.update(twin.sample(B))
    assert same(one, two)
    assert metrics.keys() == expected.keys()
    assert all(torch.equal(metrics[k], expected[k]) for k in metrics)


@pytest.mark.parametrize("updates_per_block", [1, 2, 3, 4])
@pytest.mark.parametrize("delay", [1, 2, 3])
def test_actor_and_temperature_move_at_every_dth_update(delay, updates_per_block):
    agent, replay = setup(dataclasses.replace(SMALL, policy_delay=delay))
    done = 0
    for _ in range(7):
        before = everything(agent)
        agent.learn(replay, B, updates_per_block)
        actor, critics, target, log_alpha, _ = everything(agent)
        moves = (done + updates_per_block) // delay > done // delay
        done += updates_per_block
        assert torch.equal(actor, before[0]) != moves and torch.equal(log_alpha, before[3]) != moves
        assert not torch.equal(critics, before[1]) and not torch.equal(target, before[2])
    assert agent.actor_optimizer.state_dict()["step"].item() == done // delay


def test_the_delay_goes_on_where_a_saved_run_stopped():
    config = CONFIGS["delayed"]
    agent, replay = setup(config)
    agent.learn(replay, B, 3)
    restored, _ = setup(config, seed=9)
    restored.load_state_dict(agent.state_dict())
    for one in (agent, restored):
        replay.generator.manual_seed(5)
        one.learn(replay, B, 1)  # the fourth: with the actor
    assert same(agent, restored)
    assert agent.actor_optimizer.state_dict()["step"].item() == 2


def test_an_empty_replay_is_refused():
    agent = SAC(OBS, ACT, SMALL)
    with pytest.raises(ValueError, match="empty"):
        agent.learn(ReplayBuffer(10, OBS, ACT), B)


def test_learning_rate_tau_discount_and_entropy_target_are_read_at_each_update():
    agent, replay = setup(SMALL)
    agent.learn(replay, B, 2)
    before = everything(agent)
    agent.learning_rate.fill_(0)
    agent.learn(replay, B, 2)
    after = everything(agent)
    assert all(torch.equal(before[i], after[i]) for i in (0, 1, 3))  # but targets follow
    agent.tau.fill_(1)
    agent.learn(replay, B)
    assert torch.equal(agent.target_flat, agent.critics_flat)
    agent.learning_rate.fill_(1e-3)
    for target, sign in ((1e3, 1), (-1e3, -1)):
        agent.target_entropy.fill_(target)
        alpha = agent.alpha
        for _ in range(20):  # Adam remembers the other direction for a while
            agent.learn(replay, B)
        assert (agent.alpha - alpha).sign() == sign
    one, two = (setup(SMALL)[0] for _ in range(2))
    two.discount.fill_(0.5)
    batch = replay.sample(B)
    assert one.update(batch)["critic_loss"] != two.update(batch)["critic_loss"]


class Waits(TorchDispatchMode):
    """Collects what would make the host wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        if name == "lift_fresh" or (name == "_to_copy" and kwargs.get("device")):
            self.found.append("a copy from the host")
        if name in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select"):
            self.found.append(name)
        if name == "index" and any(x is not None and x.dtype == torch.bool for x in args[1]):
            self.found.append("boolean index")
        return func(*args, **kwargs)


@pytest.fixture
def waits(monkeypatch):
    """Returns waits(call): the names of what call() did that waits for the device."""

    def watch(call):
        mode = Waits()
        with monkeypatch.context() as patch:
            for name in ("item", "cpu", "numpy", "tolist", "__array__"):
                patch.setattr(
                    torch.Tensor, name, lambda self, *a, name=name, **k: mode.found.append(name)
                )
            with mode:
                call()
        return mode.found

    return watch


@pytest.mark.parametrize("name", CONFIGS)
def test_nothing_waits_for_the_device(name, waits):
    agent, replay = setup(CONFIGS[name])
    obs = torch.zeros(4, OBS)
    rows = (obs, torch.zeros(4, ACT), torch.zeros(4), torch.zeros(4), obs)
    assert not waits(lambda: agent.learn(replay, B, 2))
    assert not waits(lambda: agent.update(replay.sample(B)))
    assert not waits(lambda: agent.act(obs))
    assert not waits(lambda: replay.add(*rows))
    assert not waits(lambda: agent.observe(obs))
    assert not waits(lambda: (agent.skipped_updates, agent.skipped_in_a_row))


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.item(),
        lambda x: x.cpu(),
        lambda x: x.numpy(),
        lambda x: float(x),
        lambda x: bool(x > 0),
        lambda x: x * torch.tensor(2.0),
        lambda x: x.to("meta"),
        lambda x: torch.ones(3)[torch.tensor([True, False, True])],
    ],
)
def test_a_wait_would_be_noticed(wait, waits):
    assert waits(lambda: wait(torch.ones(())))


@pytest.fixture
def bf16_units(monkeypatch):
    """bf16 matmuls on a CPU without units for them: slow, and the same numbers."""
    monkeypatch.setattr(fastsac.learner.flat_weights, "cpu_multiplies_bf16", lambda: True)


@pytest.mark.parametrize("name", CONFIGS)
def test_bf16_multiplies_in_bf16_and_keeps_weights_in_float32(name, bf16_units, close):
    exact, replay = setup(CONFIGS[name])
    rounded, twin = setup(dataclasses.replace(CONFIGS[name], precision="bf16"))
    assert torch.equal(exact.actor_flat, rounded.actor_flat)
    for _ in range(30):
        want, got = exact.learn(replay, B), rounded.learn(twin, B)
    assert {x.dtype for x in got.values()} == {torch.float32}
    for flat in (rounded.actor_flat, rounded.critics_flat, rounded.target_flat):
        assert flat.dtype == torch.float32
        assert not torch.equal(flat, flat.bfloat16().float())  # more digits than bf16 has
    for module in (rounded.actor, rounded.critics, rounded.target_critics):
        assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    # bf16 has 8 bits: a part in 256 of a product, and losses of order 1 here.
    assert not torch.equal(want["critic_loss"], got["critic_loss"])
    close(got["critic_loss"], want["critic_loss"], "bf16 network")
    close(got["q"], want["q"], "bf16 network")
    working = torch.cat([p.detach().reshape(-1) for p in rounded.target_critics.parameters()])
    assert torch.equal(working, rounded.target_flat.bfloat16())


def test_steps_too_small_for_bf16_are_not_lost(bf16_units):
    # 30 steps of 1e-6: each is far below bf16's spacing of 2e-3 at weights of 0.3.
    config = dataclasses.replace(SMALL, precision="bf16", learning_rate=1e-6)
    agent, replay = setup(config)
    before = agent.critics_flat.clone()
    for _ in range(30):
        agent.learn(replay, B)
    moved = (agent.critics_flat - before).abs().max().item()
    assert 1e-5 < moved < 4e-5


def test_a_bf16_state_is_restored_and_goes_on_in_float32(bf16_units):
    agent, replay = setup(dataclasses.replace(SMALL, precision="bf16"))
    agent.learn(replay, B, 5)
    restored, _ = setup(dataclasses.replace(SMALL, precision="bf16"), seed=4)
    exact, _ = setup(SMALL, seed=5)
    for other in (restored, exact):
        other.load_state_dict(agent.state_dict())
        assert torch.equal(other.critics_flat, agent.critics_flat)
    obs = torch.randn(7, OBS)
    assert torch.equal(agent.act(obs), restored.act(obs))
    before = exact.critics_flat.clone()
    exact.learn(replay, B)
    assert not torch.equal(exact.critics_flat, before)


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_a_cpu_without_units_warns_and_uses_float32(precision, monkeypatch):
    monkeypatch.setattr(fastsac.learner.flat_weights, "cpu_multiplies_bf16", lambda: False)
    with pytest.warns(UserWarning, match=f"no units for {precision} matmuls: using float32"):
        one, replay = setup(dataclasses.replace(SMALL, precision=precision))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        two, twin = setup(SMALL)
    one.learn(replay, B, 3), two.learn(twin, B, 3)
    assert same(one, two)


@pytest.mark.parametrize("precision, within", [("float32", {"ieee", "none"}), ("tf32", {"tf32"})])
@pytest.mark.parametrize("before", ["ieee", "tf32"])
@pytest.mark.parametrize("newer", [False, True], ids=["set_float32_matmul_precision", "newer"])
def test_a_gpu_multiplies_as_asked_and_the_callers_setting_is_kept(
    precision, within, before, newer, monkeypatch
):
    matmul, seen = torch.backends.cuda.matmul, []
    monkeypatch.setattr(fastsac.learner.flat_weights.warnings, "warn", lambda *_, **__: None)
    agent, replay = setup(dataclasses.replace(SMALL, precision=precision))
    record = EnsembleMLP._record
    monkeypatch.setattr(
        EnsembleMLP,
        "_record",
        lambda *args, **how: seen.append(matmul.fp32_precision) or record(*args, **how),
    )
    kept = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if before == "tf32" else "highest")
    if newer:
        matmul.fp32_precision = before
    set_before = matmul.fp32_precision
    try:
        agent.learn(replay, B, 2)
        agent.update(replay.sample(B))
        agent.act(torch.zeros(3, OBS))
        assert len(seen) == 13 and set(seen) <= within
        assert matmul.fp32_precision == set_before
    finally:
        torch.set_float32_matmul_precision(kept)


def test_blocks_longer_than_a_graph_are_cut_and_keep_the_delays_turn(monkeypatch):
    monkeypatch.setattr(fastsac.learner.sac, "_UPDATES_PER_GRAPH", 5)
    config = dataclasses.replace(SMALL, policy_delay=2)
    one, replay = setup(config)
    two, twin = setup(config)
    for count in (3, 11, 13):
        got = one.learn(replay, B, count)
    want = {}
    for _ in range(27):
        want |= two.update(twin.sample(B))
    assert same(one, two) and got.keys() == want.keys()
    assert max(arguments[2] for arguments in one._graphed) == 4


@pytest.mark.parametrize("wrong", [(OBS + 1, ACT), (OBS, ACT + 1)])
def test_a_replay_of_another_task_is_refused_and_the_delay_keeps_its_turn(wrong):
    agent, replay = setup(CONFIGS["delayed"])
    other = ReplayBuffer(10, *wrong)
    other.add(
        torch.ones(1, wrong[0]), torch.ones(1, wrong[1]), *torch.ones(2, 1), torch.ones(1, wrong[0])
    )
    with pytest.raises(ValueError, match="obs_dim, action_dim, device"):
        agent.learn(other, B)
    assert "alpha" not in agent.learn(replay, B) and "alpha" in agent.learn(replay, B)


def test_changed_scalars_are_part_of_the_state():
    agent, _ = setup(SMALL)
    for i, scalar in enumerate(("learning_rate", "tau", "discount", "target_entropy")):
        getattr(agent, scalar).fill_(0.1 * (i + 1))
    restored, _ = setup(SMALL, seed=2)
    restored.load_state_dict(agent.state_dict())
    for i, scalar in enumerate(("learning_rate", "tau", "discount", "target_entropy")):
        assert getattr(restored, scalar).item() == pytest.approx(0.1 * (i + 1))
