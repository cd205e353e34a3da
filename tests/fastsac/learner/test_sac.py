"""SAC.update against the equations of arXiv 1812.05905, computed from scratch in paper.py.

The agent runs in float64 too (torch's default dtype while it is built), so that "equal" means equal
to 6 digits and more, through several updates.
"""

import math

import pytest
import torch

from fastsac import SAC, Batch, SACConfig
from tests.fastsac.learner.paper import Paper

OBS, ACT, B = 5, 3, 37
HIDDEN = (16, 12)


def make_batch(seed=0, size=B, dtype=torch.float64):
    g = torch.Generator().manual_seed(1000 + seed)
    normal = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    share = lambda p: (torch.rand(size, generator=g) < p).double()  # noqa: E731
    batch = Batch(
        obs=normal(size, OBS),
        action=torch.tanh(normal(size, ACT)),
        reward=normal(size),
        terminated=share(0.3),
        next_obs=normal(size, OBS),
        weight=share(0.8) * torch.rand(size, generator=g, dtype=torch.float64).add(0.5),
        steps=torch.randint(1, 4, (size,), generator=g).double(),
    )
    return Batch(*(x.to(dtype) for x in batch))


def coming_noise(agent, size=B, with_actor=True):
    """What the agent will draw in its next update, at once: for a' at s', then for a at s."""
    twin = torch.Generator().manual_seed(0)
    twin.set_state(agent.generator.get_state())
    dtype = agent.actor_flat.dtype
    draw = torch.empty((1 + with_actor) * size, ACT, dtype=dtype).normal_(generator=twin)
    return tuple(x.double() for x in draw.split(size))


@pytest.fixture
def build():
    """Returns build(dtype, **config): an agent of that dtype with its Paper."""

    def make(dtype=torch.float64, wrong="", **fields):
        config = SACConfig(**{"hidden_sizes": HIDDEN, "learning_rate": 3e-3, **fields})
        agent = SAC(OBS, ACT, config, seed=3, dtype=dtype)
        if agent.normalizer is not None:
            seen = 2 + 3 * make_batch(99, 50, dtype).obs
            agent.observe(seen)
        paper = Paper(agent, wrong)
        if agent.normalizer is not None:
            seen = seen.double()
            paper.obs_statistics = (seen.mean(0), torch.sqrt(seen.var(0, correction=0) + 1e-8))
        return agent, paper

    return make


def compare(agent, paper, close, what=""):
    """Every weight, every target weight and the temperature."""
    kind = "float64 weights"
    for mlp, members in (
        (agent.actor.mlp, [paper.actor]),
        (agent.critics.mlp, paper.critics),
        (agent.target_critics.mlp, paper.targets),
    ):
        for i, layers in enumerate(members):
            for layer, (weight, bias) in zip(mlp.layers, layers, strict=True):
                close(layer.weight[i], weight, kind, f"{what} weight of member {i}")
                close(layer.bias[i, 0], bias, kind, f"{what} bias of member {i}")
    close(agent.alpha, torch.exp(paper.log_alpha), kind, f"{what} alpha")


def compare_gradients(agent, critic_grads, actor_grads, close, kind):
    for found, want in zip(agent.actor_weights.gradients, actor_grads or (), strict=False):
        close(found[0].squeeze(0), want, kind, "actor")
    found = agent.critic_weights.gradients
    for at, want in enumerate(critic_grads):
        member, i = divmod(at, len(found))
        close(found[i][member].squeeze(0), want, kind, "critic")


# Of rewards and entropies, some of which lead beyond the ends.
ATOMS = {"num_atoms": 11, "value_range": (-2.0, 3.0)}
CONFIGS = {
    "v2, the default": {},
    "v1, fixed temperature": {"temperature": 0.2},
    "no entropy at all": {"temperature": 0.0},
    "one critic": {"num_critics": 1},
    "five critics": {"num_critics": 5},
    "entropy target": {"target_entropy_per_dim": 0.7 / ACT, "initial_temperature": 0.1},
    "clamps that bind": {"log_std_min": -0.05, "log_std_max": 0.05},
    "normalised observations": {"normalize_obs": True},
    "targets copy the critics": {"tau": 1.0},
    "delayed policy": {"policy_delay": 2, "normalize_obs": True},
    "three layers, myopic": {"hidden_sizes": (8, 8, 8), "gamma": 0.0},
    "layer norm": {"layer_norm": True, "hidden_sizes": (8, 16, 8)},
    "mean of the critics": {"critic_reduction": "mean", "num_critics": 3},
    "distributions, the least": {**ATOMS, "num_critics": 3},
    "distributions, their mean": {**ATOMS, "critic_reduction": "mean"},
    "weight decay": {"weight_decay": 0.3},
    "a small policy": {"initial_std": 0.1, "temperature": 0.01},
    "all at once": {
        **ATOMS, "layer_norm": True, "critic_reduction": "mean", "weight_decay": 0.1,
        "initial_std": 0.3, "policy_delay": 2, "normalize_obs": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_five_updates_equal_the_paper(name, build, close):
    agent, paper = build(**CONFIGS[name])
    for step in range(5):
        batch = make_batch(step)
        with_actor = (step + 1) % agent.config.policy_delay == 0
        noise = coming_noise(agent, with_actor=with_actor)
        metrics = agent.update(batch)
        losses, critic_grads, actor_grads = paper.update(batch, *noise)
        # The critics' gradients are read after the actor's step: it left no trace in them.
        compare_gradients(agent, critic_grads, actor_grads, close, "float64")
        for loss, value in losses.items():
            close(metrics[loss], value, "float64", loss)
        assert ("alpha_loss" in metrics) == ("alpha_loss" in losses)
        assert ("alpha" in metrics) == with_actor
        close(agent.alpha, torch.exp(paper.log_alpha), "float64", "alpha")
        compare(agent, paper, close, what=f"update {step}:")


def test_float32_equals_the_paper_within_its_precision(build, close):
    agent, paper = build(torch.float32)
    batch = make_batch(dtype=torch.float32)
    noise = coming_noise(agent)
    metrics = agent.update(batch)
    losses, critic_grads, actor_grads = paper.update(batch, *noise)
    for loss, value in losses.items():
        close(metrics[loss], value, "float32 network", loss)
    compare_gradients(agent, critic_grads, actor_grads, close, "float32 network")


DECAY = {"weight_decay": 0.3}
WRONG = {
    "the other reduction": {},
    "gamma": {},
    "gamma instead of gamma^n": {},
    "tau": {},
    "truncation is termination": {},
    "termination is truncation": {},
    "weights ignored": {},
    "target policy": {},
    "no target critics": {},
    "actor sees old critics": {},
    "normalised twice": {},
    "norm after the ReLU": {"layer_norm": True},
    "all to the lower atom": ATOMS,
    "decay in the gradient": DECAY,
    "the temperature decays": {**DECAY, "initial_temperature": 2.0},  # the logarithm of 1 is 0
}


def after_two_updates(build, wrong="", **fields):
    agent, paper = build(wrong=wrong, tau=0.1, normalize_obs=True, **fields)
    for step in range(2):
        batch, noise = make_batch(step), coming_noise(agent)
        agent.update(batch)
        paper.update(batch, *noise)
    return agent, paper


@pytest.mark.parametrize("wrong", WRONG)
def test_the_comparison_notices_an_error(wrong, build, close):
    compare(*after_two_updates(build, **WRONG[wrong]), close)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        compare(*after_two_updates(build, wrong, **WRONG[wrong]), close)


def test_terminated_transitions_do_not_read_the_next_observation(build):
    batch = make_batch()._replace(terminated=torch.ones(B).double())
    one, two = build(temperature=0.2)[0], build(temperature=0.2)[0]
    one.update(batch)
    two.update(batch._replace(next_obs=batch.next_obs + 10))
    assert torch.equal(one.critics_flat, two.critics_flat)


def test_truncated_transitions_read_the_next_observation(build):
    # Truncated is terminated = 0.
    batch = make_batch()._replace(terminated=torch.zeros(B).double())
    one, two = build(temperature=0.2)[0], build(temperature=0.2)[0]
    one.update(batch)
    two.update(batch._replace(next_obs=batch.next_obs + 10))
    assert not torch.allclose(one.critics_flat, two.critics_flat, atol=1e-4)


KINDS = {
    "plain": {},
    "normalised": {"normalize_obs": True},
    "atoms": ATOMS,
    "atoms, mean, layer norm": {**ATOMS, "critic_reduction": "mean", "layer_norm": True},
}


@pytest.mark.parametrize("junk", [1e4, -1e10, math.nan], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_transitions_of_weight_zero_teach_nothing(kind, junk, build):
    clean = make_batch(dtype=torch.float32)
    invalid = clean.weight == 0
    assert 0 < invalid.sum() < B
    fill = lambda x: torch.where(invalid.view(-1, *[1] * (x.dim() - 1)), junk, x)  # noqa: E731
    # 1e10 is the largest state that the engines let pass; what follows it may be no number.
    names = ("reward", "next_obs") if math.isnan(junk) else set(Batch._fields) - {"weight"}
    dirty = clean._replace(**{name: fill(getattr(clean, name)) for name in names})
    one, two = build(torch.float32, **KINDS[kind])[0], build(torch.float32, **KINDS[kind])[0]
    for _ in range(3):
        a, b = one.update(clean), two.update(dirty)
        for loss in ("critic_loss", "actor_loss", "alpha_loss", "alpha"):
            assert torch.allclose(a[loss], b[loss], rtol=1e-5), loss
    for name in ("actor_flat", "critics_flat", "target_flat"):
        torch.testing.assert_close(getattr(one, name), getattr(two, name), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_weight_zero_moves_nothing(kind, build):
    agent, _ = build(**KINDS[kind])
    before = [x.detach().clone() for x in (agent.actor_flat, agent.critics_flat, agent.log_alpha)]
    agent.update(make_batch()._replace(weight=torch.zeros(B).double()))
    after = (agent.actor_flat, agent.critics_flat, agent.log_alpha)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_targets_move_by_polyak_only_and_from_the_updated_critics(build, close):
    agent, _ = build(tau=0.25)
    before = agent.target_flat.clone()
    for step in range(4):
        agent.update(make_batch(step))
        before = before + 0.25 * (agent.critics_flat.detach() - before)
        close(agent.target_flat, before, "float64")


@pytest.mark.parametrize("target, rises", [(33.0, True), (-33.0, False), (None, None)])
def test_temperature_moves_towards_the_entropy_target(target, rises, build):
    agent, _ = build(**{"target_entropy_per_dim": target} if target else {})
    assert agent.target_entropy == ACT * (-1 if target is None else target)
    metrics = agent.update(make_batch())
    if rises is None:  # a new policy's entropy is above -|A|
        assert metrics["entropy"] > -ACT
        rises = False
    assert (agent.alpha > 1) == rises


@pytest.mark.parametrize("alpha", [0.0, 0.2, 1.0, 3.0])
def test_a_fixed_temperature_is_the_flag_for_ever(alpha, build):
    agent, _ = build(torch.float32, temperature=alpha, initial_temperature=7.0)
    for step in range(3):
        metrics = agent.update(make_batch(step, dtype=torch.float32))
        assert "alpha_loss" not in metrics
        assert metrics["alpha"].item() == pytest.approx(alpha, rel=1e-6)
    assert agent.alpha.item() == pytest.approx(alpha, rel=1e-6)
    assert agent.alpha_optimizer is None and torch.isfinite(agent.actor_flat).all()
