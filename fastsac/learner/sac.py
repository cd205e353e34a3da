"""Soft Actor-Critic (arXiv 1801.01290 with a fixed temperature, 1812.05905 with a learned one)."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from fastsac.kernels import strict_kernels, tanh_gaussian
from fastsac.learner.compiled_step import CompiledStep
from fastsac.learner.config import SACConfig
from fastsac.learner.cuda_graph import Fallback, GraphedCall
from fastsac.learner.flat_weights import float32_matmuls, use_threads
from fastsac.learner.gradient_step import Metrics, gradient_step
from fastsac.learner.peers import Peers
from fastsac.learner.replay import Batch, ReplayBuffer
from fastsac.learner.state import LearnerState

# A graph's capture takes time and memory an update, its launch about as long as one kernel's.
_UPDATES_PER_GRAPH = 64


class SAC(LearnerState):
    """The learner: acts, and learns from batches or straight from a replay.

    Its arguments and attributes are ``LearnerState``'s, and one more. ``copy`` and ``pickle`` make
    an agent of its own, which goes on as this one would.

    Args:
        strict: on a GPU, a kernel that does not compile or launch and a CUDA graph that cannot be
            captured raise what went wrong, and on a CPU updates that do not compile. Otherwise
            torch's operations and eager calls take their place, after one warning each.
    """

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        config: SACConfig = SACConfig(),  # noqa: B008  (frozen)
        device: str | torch.device = "cpu",
        seed: int = 0,
        strict: bool = False,
        peers: Peers | None = None,
        dtype: torch.dtype = torch.float32,
    ):
        before = set(vars(self))
        super().__init__(obs_dim, action_dim, config, device, seed, peers, dtype)
        self._peers = peers
        self._fallback = Fallback(strict)
        self._graphed: dict[Any, GraphedCall] = {}
        self._held: dict[Any, list[torch.Tensor]] = {}
        # With peers their gradients are summed in its middle, by calls that no compiler takes; a
        # float64 scalar on a CPU, as log_alpha then is, Inductor reads and does not write.
        takes = self.device.type == "cpu" and peers is None and dtype == torch.float32
        is_compiled = config.compile_updates and takes
        self._compiled = CompiledStep(self, self._fallback) if is_compiled else None
        self._own_attributes = {*vars(self), "_own_attributes"} - before  # not a subclass's

    @property
    def compile_notice(self) -> str:
        """What the first update of a run is to say, if it compiles anything; else empty."""
        said = "compiling the updates, half a minute; the next start reads them from a cache"
        return said if self._compiled else ""

    def __getstate__(self) -> tuple[Any, ...]:
        """What copy and pickle take: an agent's memory is views, which they would cut.

        A subclass's attributes, and those set on it, go along as they are.

        Raises:
            TypeError: it learns with peers, which a copy would not.
        """
        if self._peers:
            raise TypeError("an agent that learns with peers cannot be copied: they would not know")
        made_of = self.obs_dim, self.action_dim, self.config, self.device
        others = {k: v for k, v in vars(self).items() if k not in self._own_attributes}
        return (*made_of, self._fallback.strict, self.actor_flat.dtype, self.state_dict(), others)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Builds the copy, which captures graphs of its own."""
        obs_dim, action_dim, config, device, strict, dtype, weights, others = state
        SAC.__init__(self, obs_dim, action_dim, config, device, strict=strict, dtype=dtype)
        self.load_state_dict(weights)
        vars(self).update(others)

    @torch.no_grad()
    def act(
        self,
        obs: torch.Tensor,
        deterministic: bool = False,
        noise: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Returns actions (B, A) in [-1, 1] for observations (B, obs_dim).

        On a GPU a CUDA graph for each batch size.

        Args:
            obs: of the agent's dtype, float32 unless another was asked for, on its device.
            deterministic: the policy's mode instead of a sample.
            noise: standard normal numbers (B, A) to make the sample of; None draws them.

        Raises:
            TypeError: obs or noise is no float32 tensor.
            ValueError: obs or noise has another shape or device, or there is noise for the mode.
        """
        self._require_tensor("obs", obs)
        if obs.dim() != 2 or obs.shape[1] != self.obs_dim:
            raise ValueError(f"obs must have shape (B, {self.obs_dim}), got {tuple(obs.shape)}")
        given: tuple[torch.Tensor, ...] = (obs,)
        if noise is not None and deterministic:
            raise ValueError("the policy's mode is made of no noise")
        if noise is not None:
            self._require_tensor("noise", noise)
            if noise.shape != (len(obs), self.action_dim):
                shape = len(obs), self.action_dim
                raise ValueError(f"noise must have shape {shape}, got {tuple(noise.shape)}")
            given = (obs, noise)
        if self.device.type != "cuda":
            return self._act(deterministic, *given)
        key = ("act", len(obs), deterministic, len(given))
        if key not in self._graphed:
            held = [torch.empty(x.shape, dtype=x.dtype, device=self.device) for x in given]
            act = partial(self._act, deterministic, *held)
            self._graphed[key] = GraphedCall(act, self.device, [self.generator], self._fallback)
            self._held[key] = held
        for kept, value in zip(self._held[key], given, strict=True):
            kept.copy_(value)
        return self._graphed[key]().clone()  # the graph's own output is overwritten next time

    def update(self, batch: Batch) -> Metrics:
        """One gradient step on critics, actor and temperature, then the Polyak update.

        With a policy delay d, actor and temperature take theirs at every d-th update. Whose
        gradient is not finite, as after a reward that is no number, takes none: see
        ``skipped_in_a_row``.

        Args:
            batch: B transitions on the agent's device.

        Returns:
            Scalars on the device, not waited for: critic_loss, q and skipped_updates (optimizer
            steps skipped so far), and where it was the actor's turn actor_loss, entropy, alpha,
            and alpha_loss if the temperature is learned.

        Raises:
            TypeError: no Batch of float32 tensors.
            ValueError: wrong shapes or device.
        """
        self._require_batch(batch)
        batch = batch._replace(
            obs=self.normalized(batch.obs), next_obs=self.normalized(batch.next_obs)
        )
        with_actor = (self.updates + 1) % self.config.policy_delay == 0
        with self._computing():
            metrics = self._step(batch, with_actor)
        self.updates += 1
        return metrics

    def learn(self, replay: ReplayBuffer, batch_size: int, num_updates: int = 1) -> Metrics:
        """Does num_updates updates on batches drawn from the replay.

        On a GPU up to 64 of them are captured once as a CUDA graph and replayed from then on.

        Args:
            replay: on the agent's device.
            batch_size: transitions of a batch.
            num_updates: as many as between two environment steps.

        Returns:
            ``update``'s scalars, of the last update that has them. On a GPU the next call may
            overwrite them.

        Raises:
            ValueError: the replay is empty, on another device, or of another task.
        """
        if not len(replay):
            raise ValueError("cannot learn from an empty replay buffer")
        ours = (self.obs_dim, self.action_dim, self.device)
        theirs = (replay.obs_dim, replay.action_dim, replay.device)
        if ours != theirs:
            mine, other = (", ".join(map(str, x)) for x in (ours, theirs))
            raise ValueError(f"the agent's obs_dim, action_dim, device are {mine}, not {other}")
        delay = self.config.policy_delay
        most = max(1, _UPDATES_PER_GRAPH // delay) * delay  # whole cycles: one graph serves all
        metrics: Metrics = {}
        while num_updates > 0:
            count = min(num_updates, most)
            arguments = (replay, batch_size, count, self.updates % delay)
            if arguments not in self._graphed:
                block, generators = (
                    partial(self._learn, *arguments),
                    [self.generator, replay.generator],
                )
                call = GraphedCall(block, self.device, generators, self._fallback)
                self._graphed[arguments] = call
            metrics |= self._graphed[arguments]()
            self.updates += count
            num_updates -= count
        return metrics

    def close(self) -> None:
        """Lets go of the captured CUDA graphs, as is needed before what they call is closed."""
        self._graphed.clear()

    def observe(self, obs: torch.Tensor) -> None:
        """Shows new observations (B, obs_dim) to the normaliser; call once per vector step."""
        if self.normalizer is not None:
            self.normalizer.update(obs)

    def _require_tensor(self, name: str, tensor: torch.Tensor) -> None:
        dtype = self.actor_flat.dtype
        if not isinstance(tensor, torch.Tensor) or tensor.dtype != dtype or tensor.is_sparse:
            kind = getattr(tensor, "dtype", type(tensor).__name__)
            raise TypeError(f"{name} must be a dense {dtype} tensor, got {kind}")
        if tensor.device != self.device:
            raise ValueError(f"{name} must be on {self.device}, got {tensor.device}")

    def _require_batch(self, batch: Batch) -> None:
        if not isinstance(batch, Batch):
            raise TypeError(f"batch must be a fastsac.Batch, got {type(batch).__name__}")
        self._require_tensor("obs", batch.obs)
        count = len(batch.obs) if batch.obs.dim() else 0
        wide = {"obs": self.obs_dim, "next_obs": self.obs_dim, "action": self.action_dim}
        for name, tensor in batch._asdict().items():
            self._require_tensor(name, tensor)
            shape = (count, wide[name]) if name in wide else (count,)
            if tuple(tensor.shape) != shape or not count:
                raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")

    @contextmanager
    def _computing(self) -> Iterator[None]:
        use_threads(self.device)
        own = torch.autocast(self.device.type, enabled=False)  # --precision decides
        with own, float32_matmuls(self.config.precision), strict_kernels(self._fallback.strict):
            yield

    def _act(
        self, deterministic: bool, obs: torch.Tensor, noise: torch.Tensor | None = None
    ) -> torch.Tensor:
        with self._computing():
            mean, log_std = self.actor(self.normalized(obs))
            if deterministic:
                return torch.tanh(mean)
            noise = self.noise(len(mean)) if noise is None else noise
            return tanh_gaussian(mean, log_std, noise, *self.log_std_clamps)[0]

    def _learn(
        self, replay: ReplayBuffer, batch_size: int, num_updates: int, first: int
    ) -> Metrics:
        """The updates number first ... first + num_updates of a policy delay's cycle."""
        metrics: Metrics = {}
        delay, last = self.config.policy_delay, first + num_updates
        with self._computing():
            for number in range(first + 1, last + 1):
                batch = replay.sample(batch_size, self.normalizer)
                # Losses are for the reader alone: of the last update with the actor, and later.
                report = number + delay > last
                metrics |= self._step(batch, number % delay == 0, report)
        return metrics

    def _step(self, batch: Batch, with_actor: bool, report: bool = True) -> Metrics:
        noise = self.noise(len(batch.action) * (2 if with_actor else 1))
        if self._compiled:
            return self._compiled(batch, noise, with_actor)
        return gradient_step(self, batch, noise, with_actor, report)
