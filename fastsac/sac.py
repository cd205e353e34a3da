"""Soft Actor-Critic (arXiv 1801.01290 with a fixed temperature, 1812.05905 with a learned one)."""

import copy
import math
from functools import partial
from typing import Any, NamedTuple

import torch

from fastsac import losses
from fastsac.config import SACConfig
from fastsac.flat import Adam, FlatWeights, float32_matmuls, working_dtype
from fastsac.graphs import GraphedCall
from fastsac.kernels import soft_td_target, tanh_gaussian, tanh_gaussian_gradient
from fastsac.networks import Actor, Critics, Tape
from fastsac.normalizer import RunningNorm
from fastsac.replay import Batch, ReplayBuffer
from fastsac.seeding import stream_seed

Metrics = dict[str, torch.Tensor]
# A graph's capture takes time and memory an update, its launch about as long as one kernel's.
_UPDATES_PER_GRAPH = 64


class _Sample(NamedTuple):
    """The policy's actions (B, A), what they were made of, and their log_prob (B,)."""

    mean: torch.Tensor
    log_std: torch.Tensor
    noise: torch.Tensor
    action: torch.Tensor
    log_prob: torch.Tensor


class SAC:
    """The learner: an actor, an ensemble of critics with their targets, a temperature.

    Args:
        obs_dim: length of an observation.
        action_dim: length of an action; actions lie in [-1, 1].
        config: the algorithm.
        device: where the networks live.
        seed: of the initial weights and of the policy's noise.

    Attributes:
        learning_rate: 0-d tensor on the device, as are tau, discount and target_entropy. Written
            to with ``fill_``, they take effect at the next update, captured or not.
        tau: the target critics' share per update.
        discount: per control step.
        target_entropy: of a learned temperature, in nats.
    """

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        config: SACConfig = SACConfig(),  # noqa: B008  (frozen)
        device: str | torch.device = "cpu",
        seed: int = 0,
    ):
        self.config = config
        self.device = torch.device(device)
        self.obs_dim, self.action_dim = obs_dim, action_dim
        init = torch.Generator().manual_seed(stream_seed(seed, "weights"))
        hidden = config.hidden_sizes
        self.actor = Actor(obs_dim, action_dim, hidden, init).to(self.device)
        critics = Critics(config.num_critics, obs_dim, action_dim, hidden, init)
        self.critics = critics.to(self.device)
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self.normalizer = RunningNorm(obs_dim).to(self.device) if config.normalize_obs else None

        dtype = working_dtype(config.precision, self.device)
        self._actor_weights = FlatWeights(self.actor, dtype)
        self._critic_weights = FlatWeights(self.critics, dtype)
        self._target_weights = FlatWeights(self.target_critics, dtype)

        scalar = partial(torch.tensor, device=self.device)
        entropy = config.target_entropy
        self.learning_rate, self.tau = scalar(config.learning_rate), scalar(config.tau)
        self.discount = scalar(config.gamma)
        self.target_entropy = scalar(-float(action_dim) if entropy is None else entropy)
        learned = config.temperature is None
        start = config.initial_temperature if learned else config.temperature
        self.log_alpha = scalar(math.log(start) if start else -math.inf)
        self.actor_optimizer = Adam(self.actor_flat, self.learning_rate)
        self.critic_optimizer = Adam(
            self.critics_flat, self.learning_rate, self.target_flat, self.tau
        )
        self.alpha_optimizer = Adam(self.log_alpha, self.learning_rate) if learned else None
        self.generator = torch.Generator(self.device).manual_seed(stream_seed(seed, "policy"))
        self._clamps = config.log_std_min, config.log_std_max
        self._updates = 0
        self._graphed: dict[Any, GraphedCall] = {}
        self._held_obs: dict[Any, torch.Tensor] = {}

    @property
    def alpha(self) -> torch.Tensor:
        """The temperature, a scalar on the device."""
        return self.log_alpha.exp()

    @property
    def actor_flat(self) -> torch.Tensor:
        """The actor's weights (P,)."""
        return self._actor_weights.master

    @property
    def critics_flat(self) -> torch.Tensor:
        """All critics' weights (P,)."""
        return self._critic_weights.master

    @property
    def target_flat(self) -> torch.Tensor:
        """The target critics' weights (P,)."""
        return self._target_weights.master

    @torch.no_grad()
    def act(self, obs: torch.Tensor, deterministic: bool = False) -> torch.Tensor:
        """Returns actions (B, A) in [-1, 1] for observations (B, obs_dim).

        On a GPU a CUDA graph for each batch size.

        Args:
            obs: float32 on the agent's device.
            deterministic: the policy's mode instead of a sample.

        Raises:
            ValueError: obs has another shape.
        """
        if obs.dim() != 2 or obs.shape[1] != self.obs_dim:
            raise ValueError(f"obs must have shape (B, {self.obs_dim}), got {tuple(obs.shape)}")
        if self.device.type != "cuda":
            return self._act(obs, deterministic)
        key = ("act", len(obs), deterministic)
        if key not in self._graphed:
            held = torch.empty(obs.shape, device=self.device)
            act = partial(self._act, held, deterministic)
            self._graphed[key] = GraphedCall(act, self.device, [self.generator])
            self._held_obs[key] = held
        self._held_obs[key].copy_(obs)
        return self._graphed[key]().clone()  # the graph's own output is overwritten next time

    def update(self, batch: Batch) -> Metrics:
        """One gradient step on critics, actor and temperature, then the Polyak update.

        With a policy delay d, actor and temperature take theirs at every d-th update.

        Args:
            batch: B transitions on the agent's device.

        Returns:
            Scalars on the device, not waited for: critic_loss and q, and where the actor took a
            step actor_loss, entropy, alpha, and alpha_loss if the temperature is learned.
        """
        batch = batch._replace(
            obs=self._normalized(batch.obs), next_obs=self._normalized(batch.next_obs)
        )
        with_actor = (self._updates + 1) % self.config.policy_delay == 0
        with float32_matmuls(self.config.precision):
            metrics = self._update(batch, with_actor)
        self._updates += 1
        return metrics

    def learn(self, replay: ReplayBuffer, batch_size: int, num_updates: int = 1) -> Metrics:
        """Does num_updates updates on batches drawn from the replay.

        On a GPU up to 64 of them are captured once as a CUDA graph and replayed from then on.

        Args:
            replay: on the agent's device.
            batch_size: transitions of a batch.
            num_updates: as many as between two environment steps.

        Returns:
            ``update``'s scalars, of the last update that has them. On a GPU the next call
            overwrites them.

        Raises:
            ValueError: the replay is empty, on another device, or of another task.
        """
        if not len(replay):
            raise ValueError("cannot learn from an empty replay buffer")
        ours = (self.obs_dim, self.action_dim, self.device.type)
        theirs = (replay.obs_dim, replay.action_dim, replay.device.type)
        if ours != theirs:
            raise ValueError(f"the agent's obs_dim, action_dim, device are {ours}, not {theirs}")
        delay = self.config.policy_delay
        most = max(1, _UPDATES_PER_GRAPH // delay) * delay  # whole cycles: one graph serves all
        metrics: Metrics = {}
        while num_updates > 0:
            count = min(num_updates, most)
            arguments = (replay, batch_size, count, self._updates % delay)
            if arguments not in self._graphed:
                block, generators = (
                    partial(self._learn, *arguments),
                    [self.generator, replay.generator],
                )
                self._graphed[arguments] = GraphedCall(block, self.device, generators)
            metrics |= self._graphed[arguments]()
            self._updates += count
            num_updates -= count
        return metrics

    def observe(self, obs: torch.Tensor) -> None:
        """Shows new observations (B, obs_dim) to the normaliser; call once per vector step."""
        if self.normalizer is not None:
            self.normalizer.update(obs)

    def state_dict(self) -> dict[str, Any]:
        """Everything the learner needs to go on, as tensors, numbers and dicts of them."""
        return {name: part.state_dict() for name, part in self._parts().items()} | {
            "scalars": {name: value.clone() for name, value in self._scalars().items()},
            "updates": self._updates,
            "generator": self.generator.get_state(),
            "device": self.device.type,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what state_dict returned, on whatever device and in whatever precision that was.

        On another kind of device the policy's noise starts a stream of its own.

        Raises:
            RuntimeError, ValueError: the state belongs to another configuration.
        """
        if different := state.keys() ^ self.state_dict().keys():
            raise ValueError(f"the state of another configuration: {', '.join(sorted(different))}")
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        for name, value in self._scalars().items():
            value.copy_(state["scalars"][name])
        self._updates = state["updates"]
        if state["device"] == self.device.type:
            self.generator.set_state(state["generator"])

    def _scalars(self) -> dict[str, torch.Tensor]:
        names = ("log_alpha", "learning_rate", "tau", "discount", "target_entropy")
        return {name: getattr(self, name) for name in names}

    def _parts(self) -> dict[str, Any]:
        parts = {
            "actor": self._actor_weights,
            "critics": self._critic_weights,
            "target_critics": self._target_weights,
            "actor_optimizer": self.actor_optimizer,
            "critic_optimizer": self.critic_optimizer,
            "alpha_optimizer": self.alpha_optimizer,
            "normalizer": self.normalizer,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def _act(self, obs: torch.Tensor, deterministic: bool) -> torch.Tensor:
        with float32_matmuls(self.config.precision):
            mean, log_std = self.actor(self._normalized(obs))
        if deterministic:
            return torch.tanh(mean)
        return tanh_gaussian(mean, log_std, self._noise(mean), *self._clamps)[0]

    def _learn(
        self, replay: ReplayBuffer, batch_size: int, num_updates: int, first: int
    ) -> Metrics:
        """The updates number first ... first + num_updates of a policy delay's cycle."""
        metrics: Metrics = {}
        delay, last = self.config.policy_delay, first + num_updates
        with float32_matmuls(self.config.precision):
            for number in range(first + 1, last + 1):
                batch = replay.sample(batch_size, self.normalizer)
                # Losses are for the reader alone: of the last update with the actor, and later.
                report = number + delay > last
                metrics |= self._update(batch, number % delay == 0, report)
        return metrics

    @torch.no_grad()
    def _update(self, batch: Batch, with_actor: bool, report: bool = True) -> Metrics:
        """Algorithm 1's gradient steps, on normalised observations.

        The gradients are written out: what an update costs a CPU beside its arithmetic is then
        1.4 ms, with autograd 2.9 ms.
        """
        alpha = self.alpha
        size = len(batch.reward)
        # Both of the actor's passes in one: the critics' step between them leaves it as it is.
        obs = torch.cat([batch.next_obs, batch.obs]) if with_actor else batch.next_obs
        head, tape = self.actor.mlp.record(obs)
        mean, log_std = head[0].chunk(2, dim=-1)
        noise = self._noise(mean)
        sample = _Sample(mean, log_std, noise, *tanh_gaussian(mean, log_std, noise, *self._clamps))
        next_q = self.target_critics(batch.next_obs, sample.action[:size])
        next_log_prob = sample.log_prob[:size]
        target = soft_td_target(
            batch.reward, batch.terminated, next_q, next_log_prob, alpha, self.discount
        )
        metrics = self._update_critics(batch, target, report)
        if with_actor:
            sample = _Sample(*(x[size:] for x in sample))
            metrics |= self._update_actor(batch, sample, tape.rows_from(size), alpha, report)
            metrics |= self._update_temperature(sample.log_prob, batch.weight, report)
        return metrics

    def _update_critics(self, batch: Batch, target: torch.Tensor, report: bool) -> Metrics:
        output, tape = self.critics.mlp.record(batch.obs, batch.action)
        q = output[..., 0]
        by_q = losses.critic_loss_gradient(q, target, batch.weight)
        weights = self._critic_weights
        tape.differentiate(by_q[..., None], weights.gradients)
        self.critic_optimizer.step(weights.gradient)
        weights.publish()
        self._target_weights.publish()
        if not report:
            return {}
        return {"critic_loss": losses.critic_loss(q, target, batch.weight), "q": q.mean()}

    def _update_actor(
        self, batch: Batch, sample: _Sample, tape: Tape, alpha: torch.Tensor, report: bool
    ) -> Metrics:
        mean, log_std, noise, action, log_prob = sample
        output, critics_tape = self.critics.mlp.record(batch.obs, action)
        q = output[..., 0]
        by_log_prob, by_q = losses.policy_loss_gradient(q, alpha, batch.weight)
        by_action = critics_tape.input_gradient(by_q[..., None], part=1)
        by_head = tanh_gaussian_gradient(
            mean, log_std, noise, by_action, by_log_prob, *self._clamps
        )
        weights = self._actor_weights
        tape.differentiate(torch.cat(by_head, dim=1)[None], weights.gradients)
        self.actor_optimizer.step(weights.gradient)
        weights.publish()
        if not report:
            return {}
        loss = losses.policy_loss(log_prob, q, alpha, batch.weight)
        return {"actor_loss": loss, "entropy": -log_prob.mean()}

    def _update_temperature(
        self, log_prob: torch.Tensor, weight: torch.Tensor, report: bool
    ) -> Metrics:
        metrics = {}
        if self.alpha_optimizer is not None:
            loss = losses.temperature_loss(self.log_alpha, log_prob, self.target_entropy, weight)
            self.alpha_optimizer.step(loss)  # its own derivative
            metrics["alpha_loss"] = loss
        return {**metrics, "alpha": self.alpha} if report else {}

    def _noise(self, like: torch.Tensor) -> torch.Tensor:
        noise = torch.empty_like(like, memory_format=torch.contiguous_format)
        return noise.normal_(generator=self.generator)

    def _normalized(self, obs: torch.Tensor) -> torch.Tensor:
        return obs if self.normalizer is None else self.normalizer(obs)
