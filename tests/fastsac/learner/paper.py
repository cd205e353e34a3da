"""SAC's equations from scratch: one network at a time, by plain autograd, in float64."""

import math

import torch

from fastsac import SAC, Batch


class Paper:
    """Algorithm 1 of arXiv 1812.05905, from an agent's weights on; wrong plants one error in it."""

    def __init__(self, agent: SAC, wrong: str = ""):
        config = self.config = agent.config
        self.action_dim, self.wrong = agent.action_dim, wrong
        members = range(config.num_critics)
        self.actor = self.copy(agent.actor.mlp, 0)
        self.critics = [self.copy(agent.critics.mlp, i) for i in members]
        self.targets = [self.copy(agent.target_critics.mlp, i) for i in members]
        self.first_actor = self.copy(agent.actor.mlp, 0)
        start = config.initial_temperature if config.temperature is None else config.temperature
        self.log_alpha = torch.tensor(math.log(start) if start else -math.inf).double()
        self.log_alpha.requires_grad_(config.temperature is None)
        self.entropy_target = config.target_entropy_per_dim * self.action_dim
        self.moments: dict[int, tuple] = {}
        self.obs_statistics = (0.0, 1.0)
        if config.num_atoms:
            low, high = config.value_range
            self.spacing = (high - low) / (config.num_atoms - 1)
            self.atoms = [low + self.spacing * j for j in range(config.num_atoms)]

    @staticmethod
    def copy(mlp, member):
        pairs = [(layer.weight[member], layer.bias[member, 0]) for layer in mlp.layers]
        return [tuple(x.detach().clone().double().requires_grad_() for x in pair) for pair in pairs]

    def forward(self, layers, x):
        relu = lambda x: torch.where(x > 0, x, 0.0)  # noqa: E731
        for weight, bias in layers[:-1]:
            x = x @ weight + bias
            if self.wrong == "norm after the ReLU":
                x = self.standardised(relu(x))
            else:
                x = relu(self.standardised(x) if self.config.layer_norm else x)
        return x @ layers[-1][0] + layers[-1][1]

    @staticmethod
    def standardised(x):  # arXiv 1607.06450, eq. 3
        mean = x.mean(1, keepdim=True)
        return (x - mean) / torch.sqrt(((x - mean) ** 2).mean(1, keepdim=True) + 1e-5)

    def policy(self, layers, obs, noise):
        mean, log_std = self.forward(layers, obs).split(self.action_dim, 1)
        std = torch.exp(torch.clip(log_std, self.config.log_std_min, self.config.log_std_max))
        u = mean + std * noise
        action = torch.tanh(u)
        normal = torch.exp(-(((u - mean) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))
        return action, (torch.log(normal) - torch.log(1 - action**2)).sum(1)  # eq. 26

    def distributions(self, critics, obs, action):
        """Each critic's probabilities (B, N) of the atoms."""
        outputs = (self.forward(layers, torch.cat([obs, action], 1)) for layers in critics)
        exponentials = [torch.exp(x) for x in outputs]
        return [e / e.sum(1, keepdim=True) for e in exponentials]

    def mean_of(self, p):
        return sum(p[:, j] * z for j, z in enumerate(self.atoms))

    def q(self, critics, obs, action):
        if self.config.num_atoms:
            return [self.mean_of(p) for p in self.distributions(critics, obs, action)]
        return [self.forward(layers, torch.cat([obs, action], 1))[:, 0] for layers in critics]

    def reduced(self, values):
        mean = self.config.critic_reduction == "mean"
        if mean != (self.wrong == "the other reduction"):
            return sum(values) / len(values)
        least = values[0]
        for other in values[1:]:
            least = torch.where(other < least, other, least)
        return least

    def projected(self, distributions, reward, discount, entropy_term):
        """C51's Algorithm 1 (arXiv 1707.06887): the target's probabilities (B, N)."""
        result = torch.zeros_like(distributions[0])
        for b in range(len(result)):
            if self.config.critic_reduction == "mean":
                p = sum(d[b] for d in distributions) / len(distributions)
            else:
                p = min((d[b] for d in distributions), key=lambda p: self.mean_of(p[None]).item())
            for z, share in zip(self.atoms, p, strict=True):
                moved = reward[b] + discount[b] * (z - entropy_term[b])
                place = (moved.item() - self.atoms[0]) / self.spacing
                place = min(max(place, 0.0), len(self.atoms) - 1.0)
                lower = math.floor(place)
                if self.wrong == "all to the lower atom" or lower == place:
                    result[b, lower] += share
                else:
                    result[b, lower] += share * (lower + 1 - place)
                    result[b, lower + 1] += share * (place - lower)
        return result

    def adam(self, parameters, gradients, decay=0.0):
        rate = self.config.learning_rate
        for p, g in zip(parameters, gradients, strict=True):
            if self.wrong == "decay in the gradient":
                g = g + decay * p.detach()
            else:
                p.data *= 1 - rate * decay  # arXiv 1711.05101, algorithm 2
            m, v, t = self.moments.get(id(p), (0.0, 0.0, 0))
            m, v, t = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2, t + 1
            self.moments[id(p)] = (m, v, t)
            p.data -= rate * (m / (1 - 0.9**t)) / (torch.sqrt(v / (1 - 0.999**t)) + 1e-8)

    def polyak(self, tau):
        for target_layers, layers in zip(self.targets, self.critics, strict=True):
            for old, new in zip(target_layers, layers, strict=True):
                for a, b in zip(old, new, strict=True):
                    a.data = (1 - tau) * a.data + tau * b.data

    def critic_errors(self, batch: Batch, alpha, next_noise):
        """Of each critic (B,): its squared error (eq. 5) or its cross entropy."""
        stale = self.wrong == "target policy"
        judges = self.critics if self.wrong == "no target critics" else self.targets
        steps = 1 if self.wrong == "gamma instead of gamma^n" else batch.steps
        gamma = 0.988 if self.wrong == "gamma" else self.config.gamma
        with torch.no_grad():  # eq. 2 and 3
            policy = self.first_actor if stale else self.actor
            action, log_prob = self.policy(policy, batch.next_obs, next_noise)
            discount = gamma**steps * (1 - batch.terminated)
            if self.config.num_atoms:
                p = self.distributions(judges, batch.next_obs, action)
                target = self.projected(p, batch.reward, discount, alpha * log_prob)
            else:
                value = self.reduced(self.q(judges, batch.next_obs, action)) - alpha * log_prob
                target = batch.reward + discount * value
        if self.config.num_atoms:
            ps = self.distributions(self.critics, batch.obs, batch.action)
            return [-(target * torch.log(p)).sum(1) for p in ps]
        return [(q - target) ** 2 / 2 for q in self.q(self.critics, batch.obs, batch.action)]

    def seen(self, batch: Batch) -> Batch:
        """The batch in float64, its observations standardised."""
        batch = Batch(*(x.double() for x in batch))
        shift, scale = self.obs_statistics
        for _ in range(2 if self.wrong == "normalised twice" else 1):
            obs, next_obs = ((x - shift) / scale for x in (batch.obs, batch.next_obs))
            batch = batch._replace(obs=obs, next_obs=next_obs)
        if self.wrong == "truncation is termination":
            batch = batch._replace(terminated=torch.ones_like(batch.terminated))
        if self.wrong == "termination is truncation":
            batch = batch._replace(terminated=torch.zeros_like(batch.terminated))
        if self.wrong == "weights ignored":
            batch = batch._replace(weight=torch.ones_like(batch.weight))
        return batch

    def update(self, batch: Batch, next_noise, noise=None):
        """Returns the losses, the critics' gradients and the actor's."""
        batch, decay = self.seen(batch), self.config.weight_decay
        size, weight = len(batch.reward), batch.weight
        tau = self.config.tau * (1.01 if self.wrong == "tau" else 1)
        alpha = torch.exp(self.log_alpha.detach())

        before = [[tuple(x.detach().clone() for x in p) for p in c] for c in self.critics]
        errors = self.critic_errors(batch, alpha, next_noise)
        critic_loss = sum((weight * error).sum() / size for error in errors)
        flat = [x for layers in self.critics for pair in layers for x in pair]
        critic_grads = torch.autograd.grad(critic_loss, flat)
        self.adam(flat, critic_grads, decay)

        if noise is None:  # a delayed policy's turn has not come
            self.polyak(tau)
            return {"critic_loss": critic_loss}, critic_grads, None

        # Eq. 9, with the critics that were just updated.
        judges = before if self.wrong == "actor sees old critics" else self.critics
        action, log_prob = self.policy(self.actor, batch.obs, noise)
        value = self.reduced(self.q(judges, batch.obs, action))
        actor_loss = (weight * (alpha * log_prob - value)).sum() / size
        flat = [x for pair in self.actor for x in pair]
        actor_grads = torch.autograd.grad(actor_loss, flat)
        self.adam(flat, actor_grads, decay)

        losses = {"critic_loss": critic_loss, "actor_loss": actor_loss}
        if self.log_alpha.requires_grad:  # eq. 18
            entropy_gap = log_prob.detach() + self.entropy_target
            alpha_loss = -(weight * torch.exp(self.log_alpha) * entropy_gap).sum() / size
            decayed = decay if self.wrong == "the temperature decays" else 0
            self.adam([self.log_alpha], torch.autograd.grad(alpha_loss, [self.log_alpha]), decayed)
            losses["alpha_loss"] = alpha_loss
        self.polyak(tau)
        return losses, critic_grads, actor_grads
