"""Soft Actor-Critic (arXiv 1801.01290 with a fixed temperature, 1812.05905 with a learned one)."""

import copy
import math
from typing import Any

import torch
from torch import nn

from fastsac.config import SACConfig
from fastsac.kernels import polyak_, tanh_gaussian
from fastsac.losses import critic_loss, policy_loss, soft_td_target, temperature_loss
from fastsac.networks import Actor, Critics, flatten_parameters, share_parameters
from fastsac.normalizer import RunningNorm
from fastsac.replay import Batch
from fastsac.seeding import stream_seed


class SAC:
    """The learner: an actor, an ensemble of critics with their targets, a temperature.

    Args:
        obs_dim: length of an observation.
        action_dim: length of an action; actions lie in [-1, 1].
        config: the algorithm.
        device: where the networks live.
        seed: of the initial weights and of the policy's noise.
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

        self.actor_flat = flatten_parameters(self.actor)
        self.critics_flat = flatten_parameters(self.critics)
        self.target_flat = flatten_parameters(self.target_critics).detach()
        # The critics as the policy loss sees them: the same weights, held constant.
        self._fixed_critics = copy.deepcopy(self.critics).requires_grad_(False)
        share_parameters(self._fixed_critics, self.critics_flat.data)

        learned = config.temperature is None
        start = config.initial_temperature if learned else config.temperature
        self.log_alpha = nn.Parameter(
            torch.tensor(math.log(start) if start else -math.inf, device=self.device),
            requires_grad=learned,
        )
        entropy = config.target_entropy
        self.target_entropy = -float(action_dim) if entropy is None else entropy
        self.actor_optimizer = self._adam(self.actor_flat)
        self.critic_optimizer = self._adam(self.critics_flat)
        self.alpha_optimizer = self._adam(self.log_alpha) if learned else None
        self.generator = torch.Generator(self.device).manual_seed(stream_seed(seed, "policy"))

    @property
    def alpha(self) -> torch.Tensor:
        """The temperature, a scalar on the device."""
        return self.log_alpha.detach().exp()

    @torch.no_grad()
    def act(self, obs: torch.Tensor, deterministic: bool = False) -> torch.Tensor:
        """Returns actions (B, A) in [-1, 1] for observations (B, obs_dim).

        Args:
            obs: float32 on the agent's device.
            deterministic: the policy's mode instead of a sample.

        Raises:
            ValueError: obs has another shape.
        """
        if obs.dim() != 2 or obs.shape[1] != self.obs_dim:
            raise ValueError(f"obs must have shape (B, {self.obs_dim}), got {tuple(obs.shape)}")
        mean, log_std = self.actor(self._normalized(obs))
        if deterministic:
            return torch.tanh(mean)
        return self._squash(mean, log_std)[0]

    def update(self, batch: Batch) -> dict[str, torch.Tensor]:
        """One gradient step on critics, actor and temperature, then the Polyak update.

        Args:
            batch: B transitions on the agent's device.

        Returns:
            Scalars on the device, not waited for: critic_loss, actor_loss, alpha, entropy and q,
            and alpha_loss if the temperature is learned.
        """
        batch = batch._replace(
            obs=self._normalized(batch.obs), next_obs=self._normalized(batch.next_obs)
        )
        metrics = self._update_critics(batch)
        log_prob, actor_metrics = self._update_actor(batch)
        metrics |= actor_metrics | self._update_temperature(log_prob, batch.weight)
        polyak_(self.target_flat, self.critics_flat.data, self.config.tau)
        return metrics

    def observe(self, obs: torch.Tensor) -> None:
        """Shows new observations (B, obs_dim) to the normaliser; call once per vector step."""
        if self.normalizer is not None:
            self.normalizer.update(obs)

    def state_dict(self) -> dict[str, Any]:
        """Everything the learner needs to go on, as tensors, numbers and dicts of them."""
        state = {name: part.state_dict() for name, part in self._parts().items()}
        return state | {
            "log_alpha": self.log_alpha.detach().clone(),
            "generator": self.generator.get_state(),
            "device": self.device.type,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what state_dict returned, on whatever device that was.

        On another kind of device the policy's noise starts a stream of its own.

        Raises:
            RuntimeError, ValueError: the state belongs to another configuration.
        """
        if different := state.keys() ^ self.state_dict().keys():
            raise ValueError(f"the state of another configuration: {', '.join(sorted(different))}")
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.log_alpha.data.copy_(state["log_alpha"])
        if state["device"] == self.device.type:
            self.generator.set_state(state["generator"])
        for optimizer in (self.actor_optimizer, self.critic_optimizer, self.alpha_optimizer):
            for group in optimizer.param_groups if optimizer else ():
                group["capturable"] = self.device.type == "cuda"

    def _parts(self) -> dict[str, Any]:
        parts = {
            "actor": self.actor,
            "critics": self.critics,
            "target_critics": self.target_critics,
            "actor_optimizer": self.actor_optimizer,
            "critic_optimizer": self.critic_optimizer,
            "alpha_optimizer": self.alpha_optimizer,
            "normalizer": self.normalizer,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def _update_critics(self, batch: Batch) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            next_action, next_log_prob = self._squash(*self.actor(batch.next_obs))
            next_q = self.target_critics(batch.next_obs, next_action)
            target = soft_td_target(
                batch.reward, batch.terminated, next_q, next_log_prob, self.alpha, self.config.gamma
            )
        q = self.critics(batch.obs, batch.action)
        loss = critic_loss(q, target, batch.weight)
        _descend(loss, self.critics_flat, self.critic_optimizer)
        return {"critic_loss": loss.detach(), "q": q.detach().mean()}

    def _update_actor(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        action, log_prob = self._squash(*self.actor(batch.obs))
        loss = policy_loss(
            log_prob, self._fixed_critics(batch.obs, action), self.alpha, batch.weight
        )
        _descend(loss, self.actor_flat, self.actor_optimizer)
        log_prob = log_prob.detach()
        return log_prob, {"actor_loss": loss.detach(), "entropy": -log_prob.mean()}

    def _update_temperature(
        self, log_prob: torch.Tensor, weight: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        if self.alpha_optimizer is None:
            return {"alpha": self.alpha}
        loss = temperature_loss(self.log_alpha, log_prob, self.target_entropy, weight)
        _descend(loss, self.log_alpha, self.alpha_optimizer)
        return {"alpha": self.alpha, "alpha_loss": loss.detach()}

    def _squash(
        self, mean: torch.Tensor, log_std: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        noise = torch.empty_like(mean).normal_(generator=self.generator)
        return tanh_gaussian(mean, log_std, noise, self.config.log_std_min, self.config.log_std_max)

    def _normalized(self, obs: torch.Tensor) -> torch.Tensor:
        return obs if self.normalizer is None else self.normalizer(obs)

    def _adam(self, parameter: nn.Parameter) -> torch.optim.Adam:
        on_gpu = self.device.type == "cuda"
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        rate = self.config.learning_rate
        return torch.optim.Adam([parameter], lr=rate, fused=True, capturable=on_gpu)


def _descend(loss: torch.Tensor, parameter: nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
    """One optimizer step on a flat parameter, whose gradient buffer stays where it is."""
    assert parameter.grad is not None
    parameter.grad.zero_()
    loss.backward()
    optimizer.step()
