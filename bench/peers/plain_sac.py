"""SAC in plain torch, as a single file of it is usually written: what ours is measured against."""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from fastsac.bench import device, learner, stepping
from fastsac.learner.config import Precision
from fastsac.learner.flat_weights import float32_matmuls

_GAMMA, _TAU, _LEARNING_RATE = 0.99, 0.005, 3e-4
_LOG_STD_MIN, _LOG_STD_MAX = -20.0, 2.0
_BATCH_SIZE, _WIDTH = 256, 256  # the paper's, of open_training
_RANDOM_STEPS = 100  # before the first update


class _Actor(nn.Module):
    def __init__(self, obs_dim: int, action_dim: int, width: int):
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Linear(obs_dim, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )
        self.mean, self.log_std = nn.Linear(width, action_dim), nn.Linear(width, action_dim)

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns an action (B, A) and its log-probability (B,), arXiv 1812.05905 eq. 26."""
        x = self.trunk(obs)
        mean, log_std = self.mean(x).float(), self.log_std(x).float()
        log_std = log_std.clamp(_LOG_STD_MIN, _LOG_STD_MAX)
        noise = torch.randn_like(mean)
        action = torch.tanh(mean + log_std.exp() * noise)
        log_normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        return action, (log_normal - torch.log(1 - action.square() + 1e-6)).sum(-1)


class _Critic(nn.Module):
    def __init__(self, obs_dim: int, action_dim: int, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(obs_dim + action_dim, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 1),
        )

    def forward(self, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Returns Q(s, a) (B,)."""
        return self.layers(torch.cat([obs, action], dim=1)).float()[:, 0]


class PlainSAC:
    """Clipped double Q, a learned temperature, a module a network, torch's Adam, autograd.

    Args:
        obs_dim: length of an observation.
        action_dim: length of an action.
        width: of both hidden layers.
        device: cpu or cuda.
        compiled: torch.compile for acting and the three parts of an update, optimizers included.
        precision: of the matmuls; bf16 by autocast.
    """

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        width: int,
        device: str,
        compiled: bool = False,
        precision: Precision = "float32",
    ):
        self.device, self.precision = device, precision
        self.actor = _Actor(obs_dim, action_dim, width).to(device)
        critics = [_Critic(obs_dim, action_dim, width).to(device) for _ in range(4)]
        self.critics, self.targets = critics[:2], critics[2:]
        for critic, target in zip(self.critics, self.targets, strict=True):
            target.load_state_dict(critic.state_dict())
            target.requires_grad_(False)
        # The same weights without gradients, for the policy loss.
        self.fixed_critics = [copy.deepcopy(critic) for critic in self.critics]
        for critic, fixed in zip(self.critics, self.fixed_critics, strict=True):
            fixed.requires_grad_(False)
            for p, same in zip(critic.parameters(), fixed.parameters(), strict=True):
                same.data = p.data
        self.log_alpha = torch.zeros((), device=device, requires_grad=True)
        self.target_entropy = -float(action_dim)

        # Capturable keeps the step count on the GPU: graphs need that, and eager code is slower.
        capturable = compiled and device == "cuda"
        self.actor_optimizer, self.critic_optimizer, self.alpha_optimizer = (
            torch.optim.Adam(parameters, lr=_LEARNING_RATE, capturable=capturable)
            for parameters in (
                list(self.actor.parameters()),
                [p for critic in self.critics for p in critic.parameters()],
                [self.log_alpha],
            )
        )
        parts: list[Callable[..., Any]] = [
            self._update_critics,
            self._update_actor,
            self._update_targets,
        ]
        self._policy = torch.compile(self.actor, dynamic=False) if compiled else self.actor
        self._parts = [torch.compile(f, dynamic=False) if compiled else f for f in parts]

    @torch.no_grad()
    def act(self, obs: np.ndarray) -> np.ndarray:
        """Returns an action (A,) drawn for an observation (obs_dim,)."""
        action, _ = self._policy(torch.as_tensor(obs, device=self.device)[None])
        return action[0].cpu().numpy()

    def update(self, batch: list[torch.Tensor]) -> None:
        """One gradient step on critics, actor and temperature, then the Polyak update.

        Args:
            batch: obs (B, obs_dim), action (B, A), reward, terminated (B,), next_obs (B, obs_dim).
        """
        update_critics, update_actor, update_targets = self._parts
        update_critics(*batch)
        update_actor(batch[0])
        update_targets()

    def _update_critics(
        self,
        obs: torch.Tensor,
        action: torch.Tensor,
        reward: torch.Tensor,
        terminated: torch.Tensor,
        next_obs: torch.Tensor,
    ) -> None:
        with self._autocast():
            with torch.no_grad():
                next_action, next_log_prob = self.actor(next_obs)
                next_q = torch.minimum(*(target(next_obs, next_action) for target in self.targets))
                soft_value = next_q - self.log_alpha.exp() * next_log_prob
                target_q = reward + _GAMMA * (1 - terminated) * soft_value
            first, second = (F.mse_loss(critic(obs, action), target_q) for critic in self.critics)
        self.critic_optimizer.zero_grad()
        (0.5 * (first + second)).backward()
        self.critic_optimizer.step()

    def _update_actor(self, obs: torch.Tensor) -> None:
        with self._autocast():
            action, log_prob = self.actor(obs)
            q = torch.minimum(*(critic(obs, action) for critic in self.fixed_critics))
            loss = (self.log_alpha.detach().exp() * log_prob - q).mean()
        self.actor_optimizer.zero_grad()
        loss.backward()
        self.actor_optimizer.step()
        surplus = log_prob.detach() + self.target_entropy
        self.alpha_optimizer.zero_grad()
        (-self.log_alpha.exp() * surplus).mean().backward()
        self.alpha_optimizer.step()

    @torch.no_grad()
    def _update_targets(self) -> None:
        for critic, target in zip(self.critics, self.targets, strict=True):
            for p, slow in zip(critic.parameters(), target.parameters(), strict=True):
                slow.lerp_(p, _TAU)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16")


class Sampled:
    """Updates of a plain SAC on batches drawn from transitions on its device.

    Args:
        agent: what learns.
        transitions: obs (C, obs_dim), action (C, A), reward, terminated (C,), next_obs
            (C, obs_dim).
        batch_size: B.
        graph: one CUDA graph an update, drawing the batch outside of it (LeanRL's recipe, with
            torch.compile).

    Attributes:
        filled: of the C transitions those to draw from, the first ones.
    """

    def __init__(
        self, agent: PlainSAC, transitions: list[torch.Tensor], batch_size: int, graph: bool = False
    ):
        self._transitions, self._batch_size = transitions, batch_size
        self.filled = transitions[0].shape[0]
        self._batch = [x[:batch_size].clone() for x in transitions]
        self._update: Callable[[], Any] = lambda: agent.update(self._batch)
        if graph:
            with float32_matmuls(agent.precision):
                self._update = device.captured(self._update)

    def __call__(self) -> None:
        """Draws a batch and updates."""
        device = self._transitions[0].device
        index = torch.randint(self.filled, (self._batch_size,), device=device)
        for x, part in zip(self._transitions, self._batch, strict=True):
            torch.index_select(x, 0, index, out=part)
        self._update()


@contextmanager
def open_learner(
    batch: int, width: int, updates: int, variant: str, precision: Precision = "float32"
) -> Iterator[Callable[[], int]]:
    """Opens it as "eager", "compile" or "compile+graph"; a call is one update."""
    assert updates == 1
    compiled = variant != "eager"
    where = device.device_type()
    with device.compiling() if compiled else nullcontext():
        agent = PlainSAC(learner.OBS_DIM, learner.ACTION_DIM, width, where, compiled, precision)
        sampled = Sampled(agent, learner.transitions(), batch, variant == "compile+graph")
        with device.repeated(sampled) as work:
            yield work


class Loop:
    """A loop as CleanRL's in one world: a step, its transition stored, an update.

    Args:
        env: a gymnasium.Env with flat observations and actions in [-1, 1].
        agent: what acts and learns.
    """

    def __init__(self, env: Any, agent: PlainSAC):
        self._env, self._agent = env, agent
        self._obs, _ = env.reset()
        obs, action = self._obs.shape, env.action_space.shape
        self._replay = [
            torch.zeros((learner.TRANSITIONS, *shape), device=agent.device)
            for shape in (obs, action, (), (), obs)
        ]
        self._sampled = Sampled(agent, self._replay, _BATCH_SIZE)
        self._stored = 0
        generator = np.random.default_rng(0)
        for _ in range(_RANDOM_STEPS):
            self._step(generator.uniform(-1, 1, action).astype(np.float32))

    def advance(self, steps: int) -> int:
        """Acts and learns for so many environment steps, and returns them."""
        for _ in range(steps):
            self._step(self._agent.act(self._obs))
            self._sampled()
        if self._agent.device == "cuda":
            torch.cuda.synchronize()
        return steps

    def _step(self, action: np.ndarray) -> None:
        next_obs, reward, terminated, truncated, _ = self._env.step(action)
        row = self._stored % learner.TRANSITIONS
        transition = (self._obs, action, reward, terminated, next_obs)
        for x, value in zip(self._replay, transition, strict=True):
            x[row] = torch.as_tensor(value)
        self._stored += 1
        self._sampled.filled = min(self._stored, learner.TRANSITIONS)
        self._obs = self._env.reset()[0] if terminated or truncated else next_obs


@contextmanager
def open_training(task: str, variant: str) -> Iterator[Callable[[], int]]:
    """Opens it as "eager" or "compile" in a world of dm_control's own."""
    from fastsac.bench.peers import dm_control_env  # of packages that the learner does without

    compiled = variant == "compile"
    env = dm_control_env.maker(task)()
    try:
        sizes = env.observation_space.shape[0], env.action_space.shape[0]
        with device.compiling() if compiled else nullcontext():
            agent = PlainSAC(*sizes, _WIDTH, device.device_type(), compiled)
            yield stepping.trained(Loop(env, agent).advance)
    finally:
        env.close()
