"""What a run saves to go on from."""

from typing import Any

from fastsac.config import TrainConfig, to_json
from fastsac.learner.replay import ReplayBuffer, row_bytes
from fastsac.learner.sac import SAC

# Larger buffers are not saved unless asked for.
_LARGEST_REPLAY = 2_000_000_000


def disk_bytes(config: TrainConfig, agent: SAC, replay: ReplayBuffer) -> int:
    """Returns about how many bytes a run's checkpoints will take."""
    weights = sum(p.numel() * 4 for p in (agent.actor_flat, agent.critics_flat))
    # Weights, targets and Adam's moments, in each file and in the one being written.
    needed = 4 * weights * (config.keep_checkpoints + 1)
    a_row = row_bytes(replay.obs_dim, replay.action_dim)
    if saves_replay(config, replay):
        # The ring's oldest rows share a file with some that are gone, in each checkpoint kept.
        rows = config.replay_capacity + config.keep_checkpoints * config.checkpoint_every
        needed += min(rows, config.total_steps) * a_row
    return needed


def saves_replay(config: TrainConfig, replay: ReplayBuffer) -> bool:
    """Whether a run's checkpoints hold its replay."""
    if config.checkpoint_replay is not None:
        return config.checkpoint_replay
    return config.replay_capacity * row_bytes(replay.obs_dim, replay.action_dim) < _LARGEST_REPLAY


def about_policy(config: TrainConfig, replay: ReplayBuffer) -> dict[str, Any]:
    """Returns what a file of a run says of its policy besides the weights."""
    return {
        "task": config.task,
        "obs_dim": replay.obs_dim,
        "action_dim": replay.action_dim,
        "config": to_json(config),
    }
