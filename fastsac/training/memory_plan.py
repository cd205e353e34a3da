"""What a run will take of its device's memory, known before it takes any."""

import dataclasses
from collections.abc import Sequence

import torch

from fastsac.envs.engines.world_models import world_bytes
from fastsac.envs.factory import engine_for
from fastsac.envs.registry import find
from fastsac.envs.suite import load_suite
from fastsac.errors import ConfigError, says_out_of_memory
from fastsac.learner.config import SACConfig
from fastsac.learner.replay import free_bytes, row_bytes
from fastsac.training.config import TrainConfig

_FLOAT = 4
# Master weights, gradient and Adam's two moments; a target has no moments.
_TRAINED_COPIES, _TARGET_COPIES = 4, 2
# A layer's sums, what the next layer is given and the gradient of either, none of them freed early.
_COPIES_A_LAYER = 4


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """Bytes on one device.

    Attributes:
        replay: of --replay-capacity transitions.
        worlds: of --num-envs worlds and what a step of them takes; 0 on another device.
        updates: what a gradient step of --batch-size transitions holds.
        networks: weights, gradients, moments and targets.
    """

    replay: int
    worlds: int
    updates: int
    networks: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(dataclasses.astuple(self))

    def require(self, config: TrainConfig, device: torch.device, sharing: int = 1) -> None:
        """Refuses what does not fit.

        Args:
            config: the run's.
            device: of the learner.
            sharing: how many such runs share the machine's memory; a GPU is a run's own.

        Raises:
            ConfigError: with each part, its flag, and the bytes that are free.
        """
        free = free_bytes(device) // (sharing if device.type == "cpu" else 1)
        if self.total <= free:
            return
        parts = (
            f"{self.replay / 1e9:.2f} GB for --replay-capacity {config.replay_capacity}, "
            f"{self.worlds / 1e9:.2f} GB for --num-envs {config.num_envs}, "
            f"{self.updates / 1e9:.2f} GB for --batch-size {config.batch_size}, "
            f"{self.networks / 1e9:.2f} GB for the networks"
        )
        raise ConfigError(
            f"the run needs {self.total / 1e9:.2f} GB on {device} and {free / 1e9:.2f} GB are "
            f"free: {parts}"
        )


def require_worlds(config: TrainConfig, sharing: int = 1) -> None:
    """Refuses more worlds of the native engine than the machine's memory holds.

    Args:
        config: the run's.
        sharing: how many such runs share the memory.

    Raises:
        ConfigError: with the bytes that they need and the bytes that are free.
    """
    if engine_for(config.task, config.engine) != "native":
        return
    free = free_bytes(torch.device("cpu")) // sharing
    needed = config.num_envs * world_bytes(load_suite(find(config.task)))
    if needed > free:
        raise ConfigError(
            f"--num-envs {config.num_envs} needs about {needed / 1e9:.2f} GB for its worlds and "
            f"{free / 1e9:.2f} GB are free; lower it"
        )


def memory_plan(config: TrainConfig, obs_dim: int, action_dim: int, worlds: int) -> MemoryPlan:
    """Returns the plan of a run.

    Args:
        config: the run's.
        obs_dim: length of an observation.
        action_dim: length of an action.
        worlds: bytes that the worlds will yet take on the learner's device.
    """
    sac = config.sac
    actor = (obs_dim, *sac.hidden_sizes, 2 * action_dim)
    critic = (obs_dim + action_dim, *sac.hidden_sizes, sac.num_atoms or 1)
    actor_weights, critic_weights = _weights(actor), sac.num_critics * _weights(critic)
    trained = _TRAINED_COPIES * _FLOAT + _working_bytes(sac)
    target = _TARGET_COPIES * _FLOAT + _working_bytes(sac)
    # The actor sees obs and next_obs; the critics obs twice, their targets next_obs.
    floats_a_row = 2 * sum(actor) + 3 * sac.num_critics * sum(critic)
    rows = config.batch_size * _FLOAT * _COPIES_A_LAYER * floats_a_row
    acting = config.num_envs * _FLOAT * _COPIES_A_LAYER * sum(actor)
    return MemoryPlan(
        replay=config.replay_capacity * row_bytes(obs_dim, action_dim),
        worlds=worlds,
        updates=rows + acting,
        networks=actor_weights * trained + critic_weights * (trained + target),
    )


def out_of_memory(error: BaseException, config: TrainConfig) -> str | None:
    """Returns the sentence for an error that says a device has no memory left, else None."""
    if not says_out_of_memory(error):
        return None
    reason = " ".join(str(error).split())
    return (
        f"out of memory: lower --num-envs {config.num_envs}, --batch-size {config.batch_size} or "
        f"--replay-capacity {config.replay_capacity} ({reason or type(error).__name__})"
    )


def _weights(sizes: Sequence[int]) -> int:
    return sum((i + 1) * o for i, o in zip(sizes[:-1], sizes[1:], strict=True))


def _working_bytes(sac: SACConfig) -> int:
    return 2 if sac.precision == "bf16" else 0
