"""What the learner holds: networks, optimizers, temperature and the scalars that may change."""

import copy
import math
from functools import partial
from typing import Any

import torch

from fastsac.errors import ConfigError
from fastsac.learner.config import SACConfig
from fastsac.learner.flat_weights import Adam, FlatWeights, use_threads, working_dtype
from fastsac.learner.networks import Actor, Critics
from fastsac.learner.normalizer import RunningNorm
from fastsac.learner.peers import Peers
from fastsac.seeding import stream_seed
from fastsac.typed_fields import integers


class LearnerState:
    """An actor, an ensemble of critics with their targets, a temperature, and their optimizers.

    Args:
        obs_dim: length of an observation.
        action_dim: length of an action; actions lie in [-1, 1].
        config: the algorithm.
        device: where the networks live.
        seed: of the initial weights and of the policy's noise.
        peers: who learns with it; None is nobody.
        dtype: of weights, batches and losses, whatever torch's default; on a CPU float64 too.

    Attributes:
        learning_rate: 0-d tensor on the device, as are tau, discount and target_entropy. Written
            to with ``fill_``, they take effect at the next update, captured or not.
        tau: the target critics' share per update.
        discount: per control step.
        target_entropy: of a learned temperature, in nats.

    Raises:
        ConfigError: a size that is none.
    """

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        config: SACConfig = SACConfig(),  # noqa: B008  (frozen)
        device: str | torch.device = "cpu",
        seed: int = 0,
        peers: Peers | None = None,
        dtype: torch.dtype = torch.float32,
    ):
        sizes = integers(obs_dim, action_dim)
        if not sizes or not 0 < min(sizes) <= max(sizes) < 2**31:
            raise ConfigError(
                f"obs_dim and action_dim are positive int32, got {obs_dim!r} and {action_dim!r}"
            )
        obs_dim, action_dim = sizes
        self.config = config
        self.device = torch.empty(0, device=device).device  # with its number, which "cuda" lacks
        use_threads(self.device)
        self.obs_dim, self.action_dim = obs_dim, action_dim
        init = torch.Generator("cpu").manual_seed(stream_seed(seed, "weights"))
        self.actor = Actor(obs_dim, action_dim, config, init).to(self.device, dtype)
        self.critics = Critics(obs_dim, action_dim, config, init).to(self.device, dtype)
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self.normalizer: RunningNorm | None = None
        if config.normalize_obs:
            self.normalizer = RunningNorm(obs_dim, peers, dtype).to(self.device)

        working = working_dtype(config.precision, self.device)
        self.actor_weights = FlatWeights(self.actor, working)
        self.critic_weights = FlatWeights(self.critics, working)
        self.target_weights = FlatWeights(self.target_critics, working)

        scalar = partial(torch.tensor, dtype=dtype, device=self.device)
        self.learning_rate, self.tau = scalar(config.learning_rate), scalar(config.tau)
        self.discount = scalar(config.gamma)
        self.target_entropy = scalar(config.target_entropy_per_dim * action_dim)
        learned = config.temperature is None
        start = config.initial_temperature if learned else config.temperature
        self.log_alpha = scalar(math.log(start) if start else -math.inf)
        rate, decay = self.learning_rate, config.weight_decay
        actor, critics = self.actor_weights.padded_master, self.critic_weights.padded_master
        targets, size = self.target_weights.padded_master, len(self.critics_flat)
        adam = partial(Adam, learning_rate=rate, peers=peers)
        self.actor_optimizer = adam(actor, weight_decay=decay, size=len(self.actor_flat))
        self.critic_optimizer = adam(
            critics, target=targets, tau=self.tau, weight_decay=decay, size=size
        )
        self.alpha_optimizer = adam(self.log_alpha) if learned else None
        self.generator = torch.Generator(self.device).manual_seed(stream_seed(seed, "policy"))
        self.updates = 0

    @property
    def alpha(self) -> torch.Tensor:
        """The temperature, a scalar on the device."""
        return self.log_alpha.exp()

    @property
    def skipped_updates(self) -> torch.Tensor:
        """Optimizer steps skipped so far, their gradients not finite: a float32 scalar."""
        return torch.stack([optimizer.skipped for optimizer in self._optimizers()]).sum()

    @property
    def skipped_in_a_row(self) -> torch.Tensor:
        """The same of one optimizer since its last step, the most of them: a float32 scalar."""
        return torch.stack([x.skipped_in_a_row for x in self._optimizers()]).amax()

    @property
    def actor_flat(self) -> torch.Tensor:
        """The actor's weights (P,)."""
        return self.actor_weights.master

    @property
    def critics_flat(self) -> torch.Tensor:
        """All critics' weights (P,)."""
        return self.critic_weights.master

    @property
    def target_flat(self) -> torch.Tensor:
        """The target critics' weights (P,)."""
        return self.target_weights.master

    @property
    def log_std_clamps(self) -> tuple[float, float]:
        """Of the policy's log standard deviation."""
        return self.config.log_std_min, self.config.log_std_max

    def noise(self, rows: int) -> torch.Tensor:
        """Draws standard normal numbers (rows, A), which the policy's actions are made of."""
        dtype = self.actor_flat.dtype
        noise = torch.empty(rows, self.action_dim, dtype=dtype, device=self.device)
        return noise.normal_(generator=self.generator)

    def normalized(self, obs: torch.Tensor) -> torch.Tensor:
        """Returns observations as the networks take them."""
        return obs if self.normalizer is None else self.normalizer(obs)

    def state_dict(self) -> dict[str, Any]:
        """Everything the learner needs to go on, as tensors, numbers and dicts of them."""
        return {name: part.state_dict() for name, part in self._parts().items()} | {
            "scalars": {name: value.clone() for name, value in self._scalars().items()},
            "updates": self.updates,
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
        self.updates = state["updates"]
        if state["device"] == self.device.type:
            self.generator.set_state(state["generator"])

    def take_policy(self, state: dict[str, Any]) -> None:
        """Goes on from another learner's actor and normaliser; all else stays as it is.

        Args:
            state: of ``Policy.state_dict``.

        Raises:
            RuntimeError, ValueError: the state belongs to another network.
        """
        self.actor_weights.load_state_dict(state["actor"])
        if self.normalizer is not None:
            self.normalizer.load_state_dict(state["normalizer"])

    def _optimizers(self) -> list[Adam]:
        optimizers = (self.actor_optimizer, self.critic_optimizer, self.alpha_optimizer)
        return [optimizer for optimizer in optimizers if optimizer is not None]

    def _scalars(self) -> dict[str, torch.Tensor]:
        names = ("log_alpha", "learning_rate", "tau", "discount", "target_entropy")
        return {name: getattr(self, name) for name in names}

    def _parts(self) -> dict[str, Any]:
        parts = {
            "actor": self.actor_weights,
            "critics": self.critic_weights,
            "target_critics": self.target_weights,
            "actor_optimizer": self.actor_optimizer,
            "critic_optimizer": self.critic_optimizer,
            "alpha_optimizer": self.alpha_optimizer,
            "normalizer": self.normalizer,
        }
        return {name: part for name, part in parts.items() if part is not None}
