"""SAC.update against the equations of arXiv 1812.05905, computed here from scratch in float64.

The agent runs in float64 too (torch's default dtype while it is built), so that "equal" means equal
to 6 digits and more, through several updates.
"""

import math

import pytest
import torch

from fastsac import SAC, Batch, SACConfig

OBS, ACT, B = 5, 3, 37
HIDDEN = (16, 12)


class Paper:
    """Algorithm 1, one network at a time; ``wrong`` plants one error in it."""

    def __init__(self, agent: SAC, config: SACConfig, wrong: str = ""):
        self.config, self.wrong = config, wrong
        members = range(config.num_critics)
        self.actor = self.copy(agent.actor.mlp, 0)
        self.critics = [self.copy(agent.critics.mlp, i) for i in members]
        self.targets = [self.copy(agent.target_critics.mlp, i) for i in members]
        self.first_actor = self.copy(agent.actor.mlp, 0)
        start = config.initial_temperature if config.temperature is None else config.temperature
        self.log_alpha = torch.tensor(math.log(start) if start else -math.inf).double()
        self.log_alpha.requires_grad_(config.temperature is None)
        self.entropy_target = config.target_entropy_per_dim * ACT
        self.moments: dict[int, tuple] = {}
        self.obs_statistics = (0.0, 1.0)

    @staticmethod
    def copy(mlp, member):
        pairs = [(layer.weight[member], layer.bias[member, 0]) for layer in mlp.layers]
        return [tuple(x.detach().clone().double().requires_grad_() for x in pair) for pair in pairs]

    def forward(self, layers, x):
        for i, (weight, bias) in enumerate(layers):
            x = x @ weight + bias
            if i < len(layers) - 1:
                x = torch.where(x > 0, x, 0.0)
        return x

    def policy(self, layers, obs, noise):
        output = self.forward(layers, obs)
        mean, log_std = output[:, :ACT], output[:, ACT:]
        std = torch.exp(torch.clip(log_std, self.config.log_std_min, self.config.log_std_max))
        u = mean + std * noise
        action = torch.tanh(u)
        normal = torch.exp(-(((u - mean) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))
        return action, (torch.log(normal) - torch.log(1 - action**2)).sum(1)  # eq. 26

    def q(self, critics, obs, action):
        return [self.forward(layers, torch.cat([obs, action], 1))[:, 0] for layers in critics]

    def least(self, values):
        if self.wrong == "mean of the critics":
            return sum(values) / len(values)
        least = values[0]
        for other in values[1:]:
            least = torch.where(other < least, other, least)
        return least

    def adam(self, parameters, gradients):
        for p, g in zip(parameters, gradients, strict=True):
            m, v, t = self.moments.get(id(p), (0.0, 0.0, 0))
            m, v, t = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2, t + 1
            self.moments[id(p)] = (m, v, t)
            step = (m / (1 - 0.9**t)) / (torch.sqrt(v / (1 - 0.999**t)) + 1e-8)
            p.data -= self.config.learning_rate * step

    def polyak(self, tau):
        for target_layers, layers in zip(self.targets, self.critics, strict=True):
            for old, new in zip(target_layers, layers, strict=True):
                for a, b in zip(old, new, strict=True):
                    a.data = (1 - tau) * a.data + tau * b.data

    def update(self, batch: Batch, next_noise, noise=None):
        shift, scale = self.obs_statistics
        obs, next_obs = ((x.double() - shift) / scale for x in (batch.obs, batch.next_obs))
        if self.wrong == "normalised twice":
            obs, next_obs = (obs - shift) / scale, (next_obs - shift) / scale
        action, reward, terminated, weight = (
            x.double() for x in (batch.action, batch.reward, batch.terminated, batch.weight)
        )
        size, gamma, tau = len(reward), self.config.gamma, self.config.tau
        alpha = torch.exp(self.log_alpha.detach())
        if self.wrong == "gamma":
            gamma = 0.988
        if self.wrong == "tau":
            tau *= 1.01
        if self.wrong == "truncation is termination":
            terminated = torch.ones_like(terminated)
        if self.wrong == "termination is truncation":
            terminated = torch.zeros_like(terminated)
        if self.wrong == "weights ignored":
            weight = torch.ones_like(weight)

        # Eq. 2, 3 and 5.
        with torch.no_grad():
            stale = self.wrong == "target policy"
            next_policy = self.first_actor if stale else self.actor
            next_action, next_log_prob = self.policy(next_policy, next_obs, next_noise)
            judges = self.critics if self.wrong == "no target critics" else self.targets
            soft_value = self.least(self.q(judges, next_obs, next_action)) - alpha * next_log_prob
            target = reward + gamma**batch.steps.double() * (1 - terminated) * soft_value
        before = [[tuple(x.detach().clone() for x in p) for p in c] for c in self.critics]
        values = self.q(self.critics, obs, action)
        critic_loss = sum((weight * (q - target) ** 2 / 2).sum() / size for q in values)
        flat = [x for layers in self.critics for pair in layers for x in pair]
        critic_grads = torch.autograd.grad(critic_loss, flat)
        self.adam(flat, critic_grads)

        if noise is None:  # a delayed policy's turn has not come
            self.polyak(tau)
            return {"critic_loss": critic_loss}, critic_grads, None

        # Eq. 9, with the critics that were just updated.
        judges = before if self.wrong == "actor sees old critics" else self.critics
        new_action, log_prob = self.policy(self.actor, obs, noise)
        least_q = self.least(self.q(judges, obs, new_action))
        actor_loss = (weight * (alpha * log_prob - least_q)).sum() / size
        flat = [x for pair in self.actor for x in pair]
        actor_grads = torch.autograd.grad(actor_loss, flat)
        self.adam(flat, actor_grads)

        losses = {"critic_loss": critic_loss, "actor_loss": actor_loss}
        if self.log_alpha.requires_grad:  # eq. 18
            entropy_gap = log_prob.detach() + self.entropy_target
            alpha_loss = -(weight * torch.exp(self.log_alpha) * entropy_gap).sum() / size
            self.adam([self.log_alpha], torch.autograd.grad(alpha_loss, [self.log_alpha]))
            losses["alpha_loss"] = alpha_loss
        self.polyak(tau)
        return losses, critic_grads, actor_grads


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
        torch.set_default_dtype(dtype)
        try:
            agent = SAC(OBS, ACT, config, seed=3)
            if agent.normalizer is not None:
                seen = 2 + 3 * make_batch(99, 50, dtype).obs
                agent.observe(seen)
        finally:
            torch.set_default_dtype(torch.float32)
        paper = Paper(agent, config, wrong)
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
}


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


@pytest.mark.parametrize(
    "wrong",
    [
        "mean of the critics",
        "gamma",
        "tau",
        "truncation is termination",
        "termination is truncation",
        "weights ignored",
        "target policy",
        "no target critics",
        "actor sees old critics",
        "normalised twice",
    ],
)
def test_the_comparison_notices_an_error(wrong, build, close):
    agent, paper = build(wrong=wrong, normalize_obs=True, tau=0.1)
    for step in range(2):
        batch = make_batch(step)
        noise = coming_noise(agent)
        agent.update(batch)
        paper.update(batch, *noise)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        compare(agent, paper, close)


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


@pytest.mark.parametrize("junk", [1e4, -1e10], ids=str)
@pytest.mark.parametrize("normalize", [False, True])
def test_transitions_of_weight_zero_teach_nothing(junk, normalize, build):
    # 1e10 is the largest state that the engines let pass.
    clean = make_batch(dtype=torch.float32)
    invalid = clean.weight == 0
    assert 0 < invalid.sum() < B
    fill = lambda x: torch.where(invalid.view(-1, *[1] * (x.dim() - 1)), junk, x)  # noqa: E731
    dirty = Batch(*(fill(x) for x in clean))._replace(weight=clean.weight)
    one = build(torch.float32, normalize_obs=normalize)[0]
    two = build(torch.float32, normalize_obs=normalize)[0]
    for _ in range(3):
        a, b = one.update(clean), two.update(dirty)
        for loss in ("critic_loss", "actor_loss", "alpha_loss", "alpha"):
            assert torch.allclose(a[loss], b[loss], rtol=1e-5), loss
    for name in ("actor_flat", "critics_flat", "target_flat"):
        torch.testing.assert_close(getattr(one, name), getattr(two, name), rtol=1e-5, atol=1e-6)


def test_a_batch_of_weight_zero_moves_nothing(build):
    agent, _ = build()
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
