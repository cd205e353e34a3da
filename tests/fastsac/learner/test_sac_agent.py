"""SAC as an object: acting, seeds, saved states, flat parameters, and that it learns."""

import copy
import io
import itertools
import math
import pickle

import pytest
import torch

from fastsac import SAC, Batch, ReplayBuffer, SACConfig

OBS, ACT = 4, 2
SMALL = SACConfig(hidden_sizes=(16, 16), learning_rate=3e-3)
CONFIGS = {
    "v2": SMALL,
    "v1": SACConfig(hidden_sizes=(16,), temperature=0.1, num_critics=3),
    "normalised": SACConfig(hidden_sizes=(16, 16), normalize_obs=True),
    "distributions": SACConfig(
        hidden_sizes=(16,), num_atoms=11, value_range=(-1.0, 9.0), critic_reduction="mean",
        weight_decay=0.1, initial_std=0.3,
    ),
}  # fmt: skip


def make_batch(seed, size=32, obs_dim=OBS, action_dim=ACT):
    g = torch.Generator().manual_seed(seed)
    return Batch(
        obs=torch.randn(size, obs_dim, generator=g),
        action=torch.rand(size, action_dim, generator=g) * 2 - 1,
        reward=torch.randn(size, generator=g),
        terminated=(torch.rand(size, generator=g) < 0.2).float(),
        next_obs=torch.randn(size, obs_dim, generator=g),
        weight=torch.ones(size),
        steps=torch.ones(size),
    )


def test_whole_numbers_are_numbers():
    agent = SAC(OBS, ACT, SACConfig(hidden_sizes=(8,), tau=1, learning_rate=1, gamma=0))
    assert agent.update(make_batch(0))["critic_loss"].dtype == torch.float32
    assert torch.equal(agent.critics_flat, agent.target_flat)


def train(agent, first, count):
    for seed in range(first, first + count):
        batch = make_batch(seed)
        agent.observe(batch.obs)
        agent.update(batch)
        agent.act(batch.obs)


def everything(agent):
    parts = [agent.actor_flat, agent.critics_flat, agent.target_flat, agent.log_alpha]
    parts += [agent.generator.get_state()]
    if agent.normalizer is not None:
        parts += list(agent.normalizer.buffers())
    return [x.detach().clone() for x in parts]


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(everything(one), everything(two), strict=True))


def own_forward(agent, obs):
    x = obs.double()
    if agent.normalizer is not None:
        x = (x - agent.normalizer.mean.double()) / torch.sqrt(agent.normalizer.var.double() + 1e-8)
    layers = list(agent.actor.mlp.layers)
    for layer in layers[:-1]:
        x = (x @ layer.weight[0].double() + layer.bias[0].double()).clamp(min=0)
    x = x @ layers[-1].weight[0].double() + layers[-1].bias[0].double()
    return x[:, :ACT], x[:, ACT:]  # mean, log std


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("count", [1, 3, 255])
def test_deterministic_action_is_tanh_of_the_mean(count, name, close):
    agent = SAC(OBS, ACT, CONFIGS[name], seed=1)
    train(agent, 0, 3)
    obs = make_batch(9, count).obs * 2 + 1
    action = agent.act(obs, deterministic=True)
    assert action.shape == (count, ACT) and action.dtype == torch.float32
    assert not action.requires_grad
    close(action, torch.tanh(own_forward(agent, obs)[0]), "float32")
    assert torch.equal(action, agent.act(obs, deterministic=True))


def test_a_sample_of_given_noise(close):
    agent = SAC(OBS, ACT, SMALL, seed=1)
    obs, noise = make_batch(3, 5).obs, torch.randn(5, ACT, generator=torch.Generator())
    mean, log_std = own_forward(agent, obs)
    before = agent.generator.get_state()
    close(agent.act(obs, noise=noise), torch.tanh(mean + log_std.exp() * noise), "float32")
    assert torch.equal(agent.generator.get_state(), before)  # nothing was drawn
    with pytest.raises(ValueError, match=r"noise must have shape \(5, 2\), got \(4, 2\)"):
        agent.act(obs, noise=noise[:4])
    with pytest.raises(ValueError, match="made of no noise"):
        agent.act(obs, deterministic=True, noise=noise)


def test_sampled_actions_have_the_policys_mean_and_standard_deviation():
    agent = SAC(OBS, ACT, SMALL, seed=1)
    obs = make_batch(3, 1).obs
    count = 40_000
    u = torch.atanh(agent.act(obs.expand(count, OBS)).double())
    mean, log_std = own_forward(agent, obs)
    std = log_std.exp()[0]
    assert torch.isfinite(u).all()
    # Four standard errors: of the mean std / sqrt(n), of the deviation std / sqrt(2 n).
    assert ((u.mean(0) - mean[0]).abs() < 4 * std / math.sqrt(count)).all()
    assert ((u.std(0) - std).abs() < 4 * std / math.sqrt(2 * count)).all()
    correlation = torch.corrcoef(u.T)[0, 1]
    assert correlation.abs() < 4 / math.sqrt(count), "the action's components share their noise"
    # Each row has noise of its own.
    assert len(torch.unique(u[:, 0])) > 0.9 * count


def test_actions_stay_in_bounds_whatever_is_observed():
    agent = SAC(OBS, ACT, SMALL)
    for scale in (1e3, 1e6, 1e10):
        for deterministic in (False, True):
            action = agent.act(scale * make_batch(0).obs, deterministic)
            assert (action.abs() <= 1).all()


@pytest.mark.parametrize("shape", [(OBS,), (3, OBS + 1), (2, 3, OBS), (OBS, 3)])
def test_act_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=rf"obs must have shape \(B, {OBS}\)"):
        SAC(OBS, ACT, SMALL).act(torch.zeros(shape))


@pytest.mark.parametrize("name", CONFIGS)
def test_one_seed_is_one_agent_bit_for_bit(name):
    one, two, other = (SAC(OBS, ACT, CONFIGS[name], seed=s) for s in (5, 5, 6))
    before = torch.get_rng_state()
    for agent in (one, two, other):
        train(agent, 0, 20)
    assert same(one, two)
    obs = make_batch(0).obs
    assert torch.equal(one.act(obs), two.act(obs))
    assert not torch.equal(one.actor_flat, other.actor_flat)
    assert not torch.equal(one.critics_flat, other.critics_flat)
    assert torch.equal(torch.get_rng_state(), before), "torch's global generator was used"


def test_building_an_agent_ignores_the_global_seed():
    before = torch.get_rng_state()
    one = SAC(OBS, ACT, SMALL, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(77)
    two = SAC(OBS, ACT, SMALL, seed=5)
    torch.set_rng_state(before)
    assert same(one, two)


def test_weights_noise_and_replay_do_not_share_their_random_numbers():
    # "One RNG key used twice, so that two random quantities are equal" (style.md).
    seed = 3
    agent, replay = SAC(OBS, ACT, SMALL, seed=seed), ReplayBuffer(10, OBS, ACT, seed=seed)
    weights = agent.actor.mlp.layers[0].weight[0].detach().reshape(-1)
    bound = 1 / math.sqrt(OBS)
    streams = {"noise": agent.generator, "replay": replay.generator}
    drawn = {name: torch.rand(len(weights), generator=g) for name, g in streams.items()}
    drawn["weights"] = (weights / bound + 1) / 2  # the uniforms that they were drawn from
    pairs = itertools.combinations(drawn, 2)
    assert not [(a, b) for a, b in pairs if torch.allclose(drawn[a], drawn[b], atol=1e-5)]


def test_networks_start_different_and_targets_equal():
    agent = SAC(OBS, ACT, CONFIGS["v1"], seed=0)
    first, second, third = agent.critics.mlp.layers[0].weight
    assert not torch.equal(first, second) and not torch.equal(second, third)
    assert not torch.equal(first[:OBS], agent.actor.mlp.layers[0].weight[0])
    assert torch.equal(agent.critics_flat, agent.target_flat)
    assert agent.critics_flat.data_ptr() != agent.target_flat.data_ptr()
    for layer in agent.critics.mlp.layers:  # uniform in +-1/sqrt(in_features)
        bound = 1 / math.sqrt(layer.weight.shape[1])
        assert 0.8 * bound < layer.weight.abs().max() <= bound


def test_default_networks_are_the_papers():
    agent = SAC(17, 6)
    assert [tuple(x.weight.shape) for x in agent.actor.mlp.layers] == [
        (1, 17, 256),
        (1, 256, 256),
        (1, 256, 12),
    ]
    assert [tuple(x.weight.shape) for x in agent.critics.mlp.layers] == [
        (2, 23, 256),
        (2, 256, 256),
        (2, 256, 1),
    ]
    assert agent.alpha.item() == 1 and agent.target_entropy == -6


@pytest.mark.parametrize("name", CONFIGS)
def test_a_restored_agent_continues_bit_for_bit(name):
    agent = SAC(OBS, ACT, CONFIGS[name], seed=5)
    train(agent, 0, 10)
    file = io.BytesIO()
    torch.save(agent.state_dict(), file)
    train(agent, 10, 10)
    file.seek(0)
    restored = SAC(OBS, ACT, CONFIGS[name], seed=99)
    restored.load_state_dict(torch.load(file, weights_only=True))
    assert not same(agent, restored)
    train(restored, 10, 10)
    assert same(agent, restored)
    obs = make_batch(0).obs
    assert torch.equal(agent.act(obs), restored.act(obs))


COPIES = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda agent: pickle.loads(pickle.dumps(agent)),
    "in a list": lambda agent: copy.deepcopy([agent, agent])[1],
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_copy_learns_as_the_original_and_apart_from_it(name, way):
    agent, replay = SAC(OBS, ACT, CONFIGS[name], seed=5), ReplayBuffer(100, OBS, ACT)
    batch = make_batch(1)
    replay.add(*batch[:5])
    agent.learn(replay, 16, 3)
    train(agent, 0, 3)
    agent.learning_rate.fill_(1e-3)
    twin, its_replay = COPIES[way](agent), COPIES["pickle"](replay)
    start, before = everything(agent), twin.act(batch.obs, deterministic=True)
    assert same(agent, twin) and twin.updates == agent.updates == 6
    twin.learn(its_replay, 16, 5)
    assert not torch.equal(twin.act(batch.obs, deterministic=True), before)
    assert all(map(torch.equal, everything(agent), start)), "the copy moved the original"
    agent.learn(replay, 16, 5)
    train(agent, 3, 2)
    train(twin, 3, 2)
    assert same(agent, twin)


class Named(SAC):
    def __init__(self, name):
        self.first = name.upper()
        super().__init__(OBS, ACT, SMALL)
        self.name = name


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_of_a_subclass_keeps_its_own_attributes(way):
    agent = Named("mine")
    agent.seen = [1, 2]
    twin = COPIES[way](agent)
    assert type(twin) is Named and twin.name == "mine" and twin.seen == [1, 2]
    assert twin.first == "MINE"
    assert (twin.seen is agent.seen) == (way == "copy")
    assert same(agent, twin)


@pytest.mark.parametrize(
    "saved, into",
    [
        (SMALL, SACConfig(hidden_sizes=(16, 8))),
        (SMALL, SACConfig(hidden_sizes=(16, 16, 16))),
        (SMALL, SACConfig(hidden_sizes=(16, 16), num_critics=3)),
        (SMALL, SACConfig(hidden_sizes=(16, 16), normalize_obs=True)),
        (SACConfig(hidden_sizes=(16, 16), normalize_obs=True), SMALL),
        (SACConfig(hidden_sizes=(16, 16), temperature=0.5), SMALL),
        (SMALL, SACConfig(hidden_sizes=(16, 16), temperature=0.5)),
        (SMALL, SACConfig(hidden_sizes=(16, 16), num_atoms=11)),
    ],
    ids=[
        "narrower",
        "deeper",
        "more critics",
        "with a normaliser",
        "without the normaliser",
        "fixed into learned temperature",
        "learned into fixed temperature",
        "with atoms",
    ],
)
def test_a_state_of_another_configuration_is_refused(saved, into):
    state = SAC(OBS, ACT, saved).state_dict()
    agent = SAC(OBS, ACT, into)
    with pytest.raises((RuntimeError, ValueError, KeyError)):
        agent.load_state_dict(state)


@pytest.mark.parametrize("name", CONFIGS)
def test_flat_tensors_are_the_modules_own_memory(name):
    agent = SAC(OBS, ACT, CONFIGS[name])
    state = agent.state_dict()
    for _ in range(2):
        train(agent, 0, 2)
        for module, flat in (
            (agent.actor, agent.actor_flat),
            (agent.critics, agent.critics_flat),
            (agent.target_critics, agent.target_flat),
        ):
            own = torch.cat([p.detach().reshape(-1) for p in module.parameters()])
            assert torch.equal(own, flat)
            start, end = flat.data_ptr(), flat.data_ptr() + 4 * flat.numel()
            assert all(start <= p.data_ptr() < end for p in module.parameters())
        for weights in (agent.actor_weights, agent.critic_weights):
            grads = torch.cat([g.reshape(-1) for g in weights.gradients])
            assert torch.equal(grads, weights.gradient) and grads.any()
        agent.load_state_dict(state)  # must not break the sharing


def test_update_moves_every_weight_and_does_not_touch_its_input():
    agent = SAC(OBS, ACT, CONFIGS["normalised"])
    agent.observe(make_batch(1).obs)
    before, seen = everything(agent), agent.normalizer.count.item()
    batch = make_batch(0)
    kept = Batch(*(x.clone() for x in batch))
    metrics = agent.update(batch)
    assert all(torch.equal(a, b) for a, b in zip(batch, kept, strict=True))
    for i, name in enumerate(("actor", "critics", "targets", "temperature")):
        assert not torch.equal(before[i], everything(agent)[i]), f"{name} did not move"
    assert agent.normalizer.count.item() == seen, "update() showed its batch to the normaliser"
    for name, value in metrics.items():
        assert value.shape == () and not value.requires_grad and torch.isfinite(value), name


def test_default_config_is_not_shared_between_agents():
    one, two = SAC(OBS, ACT), SAC(OBS, ACT)
    one.update(make_batch(0))
    assert two.alpha.item() == 1 and not torch.equal(one.actor_flat, two.actor_flat)


LARGE_SCALE = {
    "layer_norm": True,
    "num_atoms": 21,
    "value_range": (-2.0, 2.0),
    "critic_reduction": "mean",
    "weight_decay": 1e-3,
    "initial_std": 0.5,
}


@pytest.mark.parametrize(
    "temperature, others",
    [(0.02, {}), (None, {}), (0.02, LARGE_SCALE), (None, LARGE_SCALE)],
    ids=["v1", "v2", "v1, large scale", "v2, large scale"],
)
def test_it_learns_a_bandit(temperature, others):
    # One step, reward 1 - (a - 0.5)^2: the best action is 0.5.
    config = SACConfig(
        hidden_sizes=(32, 32),
        learning_rate=3e-3,
        temperature=temperature,
        initial_temperature=0.05,
        **others,
    )
    agent = SAC(1, 1, config, seed=0)
    g = torch.Generator().manual_seed(0)
    obs, ones = torch.zeros(64, 1), torch.ones(64)
    before = agent.act(obs[:1], deterministic=True).item()
    assert abs(before - 0.5) > 0.2
    for _ in range(500):
        action = torch.rand(64, 1, generator=g) * 2 - 1
        reward = 1 - (action[:, 0] - 0.5) ** 2
        metrics = agent.update(Batch(obs, action, reward, ones, obs, ones, ones))
    learned = agent.act(obs[:1], deterministic=True).item()
    assert learned == pytest.approx(0.5, abs=0.1)
    with torch.no_grad():
        value = agent.critics(obs[:1], torch.full((1, 1), 0.5)).mean().item()
    assert value == pytest.approx(1, abs=0.05)
    # Optimal is p(a) ~ exp(-(a - 0.5)^2 / alpha), about a Gaussian of variance alpha / 2.
    variance = agent.act(torch.zeros(4096, 1)).var().item()
    if temperature is None:
        # Entropy log(2 pi e variance) / 2 = -|A| = -1: variance 0.0079, so alpha falls to 0.016.
        assert metrics["entropy"].item() == pytest.approx(-1, abs=0.5)
        assert 0.01 < agent.alpha.item() < 0.035
    else:
        assert variance == pytest.approx(0.01, abs=0.004)


@pytest.mark.parametrize("name", CONFIGS)
def test_what_pads_the_flat_tensors_stays_zero_and_out_of_the_state(name):
    agent = SAC(OBS, ACT, CONFIGS[name])
    train(agent, 0, 3)
    for weights in (agent.actor_weights, agent.critic_weights, agent.target_weights):
        size = weights.master.numel()
        for whole in (weights.padded_master, weights.padded_gradient):
            assert whole.numel() % 16 == 0 and whole.numel() - size < 16
            assert not whole[size:].any()
        assert weights.state_dict().shape == (size,)
    for optimizer, flat in (
        (agent.actor_optimizer, agent.actor_flat),
        (agent.critic_optimizer, agent.critics_flat),
    ):
        state = optimizer.state_dict()
        assert state["exp_avg"].shape == state["exp_avg_sq"].shape == flat.shape
        assert state["exp_avg"].any() and state["step"] > 0
