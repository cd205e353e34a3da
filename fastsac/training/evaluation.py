"""Returns of a policy, in the real dm_control or in the native engine."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from dm_control.rl.control import PhysicsError

from fastsac.envs import VectorEnv, make
from fastsac.envs.outcome import BAD_REWARD
from fastsac.envs.registry import find
from fastsac.envs.suite import ENDLESS, action_range, load
from fastsac.errors import CheckpointError, ConfigError, NotFiniteError
from fastsac.runs.directory import recorded_task
from fastsac.runs.policy_file import directory_of, load_policy
from fastsac.training.task_of_run import task_of

# Of an evaluation episode where the task has no time limit (lqr).
ENDLESS_STEPS = 1000


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Undiscounted returns of whole episodes.

    Attributes:
        backend: "dm_control" or "engine".
        seed: of the initial states.
        returns: one per episode, in the order they were run.
        diverged: episodes that ended early because the physics diverged; their returns are those
            until then. Of one with a reward that is no finite number the return is NaN.
    """

    backend: str
    seed: int
    returns: tuple[float, ...]
    diverged: int = 0

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        """Standard deviation over episodes (population)."""
        return float(np.std(self.returns))

    def as_dict(self) -> dict[str, Any]:
        """The figures for programs, None for what is no number: JSON has no NaN."""
        mean, std, *returns = (
            x if math.isfinite(x) else None for x in (self.mean, self.std, *self.returns)
        )
        return {**dataclasses.asdict(self), "returns": returns, "mean": mean, "std": std}

    def require_finite(self, task: str) -> None:
        """Refuses a return that is no finite number.

        Raises:
            NotFiniteError: one episode's or more.
        """
        if bad := sum(not math.isfinite(x) for x in self.returns):
            raise NotFiniteError(
                f"{task} has no return: in {bad} of {len(self.returns)} episodes a reward in "
                f"{self.backend} is no finite number"
            )


def evaluate(
    policy: Callable[[torch.Tensor], torch.Tensor],
    task: str,
    episodes: int,
    seed: int,
    backend: str = "dm_control",
) -> Evaluation:
    """Runs a policy for whole episodes.

    Args:
        policy: observations (B, obs_dim) float32 on the CPU -> actions (B, A) in [-1, 1].
        task: the task's name.
        episodes: how many.
        seed: of the initial states; the same seed gives the same returns.
        backend: "dm_control" steps dm_control's own environment, one episode after another;
            "engine" steps the native engine, all episodes at once.
    """
    if backend == "dm_control":
        returns, diverged = in_dm_control(policy, task, episodes, seed)
        return Evaluation(backend, seed, tuple(returns), diverged)
    env = make(task, num_envs=episodes, engine="native", device="cpu")
    try:
        return evaluate_in(env, policy, seed)
    finally:
        env.close()


def evaluate_in(
    env: VectorEnv, policy: Callable[[torch.Tensor], torch.Tensor], seed: int
) -> Evaluation:
    """Runs a policy for one episode in each world of an env on the CPU, which stays open.

    Args:
        env: its worlds are reset.
        policy: observations (B, obs_dim) -> actions (B, A) in [-1, 1].
        seed: of the initial states.
    """
    obs, _ = env.reset(seed=seed)
    totals = torch.zeros(env.num_envs, dtype=torch.float64, device="cpu")
    running = torch.ones(env.num_envs, dtype=torch.bool, device="cpu")
    diverged = 0
    endless = env.max_episode_steps == ENDLESS
    for _ in range(ENDLESS_STEPS if endless else env.max_episode_steps):
        if not running.any():
            break
        obs, reward, terminated, truncated, info = env.step(policy(obs))
        totals += reward * running
        totals[running & (info["fault"] == BAD_REWARD)] = math.nan
        diverged += int((info["invalid"] & (info["fault"] != BAD_REWARD) & running).sum())
        running &= ~(terminated | truncated)
    return Evaluation("engine", seed, tuple(totals.tolist()), diverged)


def evaluate_run(path: str, episodes: int, seed: int, backend: str) -> Evaluation:
    """Evaluates the policy of a run, a file or the zoo.

    Args:
        path: as ``load_policy`` takes it.
        episodes: how many, at least 1.
        seed: of the initial states.
        backend: "dm_control" or "engine".

    Raises:
        UserError: no usable checkpoint there, it is of another task than the run directory says,
            or a number is out of range.
    """
    require_episodes(episodes, seed)
    policy = load_policy(path)
    directory = directory_of(path)
    recorded = recorded_task(directory) if directory else None
    if recorded not in (None, policy.task):
        raise CheckpointError(
            f"{path} has a checkpoint of {policy.task}, but {directory} is a run of {recorded}"
        )
    with task_of(directory, policy.task):
        return evaluate(policy, policy.task, episodes, seed, backend)


def require_episodes(episodes: int, seed: int) -> None:
    """Refuses a number of episodes or a seed out of range.

    Raises:
        ConfigError: with the flag.
    """
    if episodes < 1:
        raise ConfigError(f"--episodes must be at least 1, got {episodes}")
    if not 0 <= seed < 2**32:
        raise ConfigError(f"--seed must be in [0, 2**32), got {seed}")


def in_dm_control(
    policy: Callable[[torch.Tensor], torch.Tensor],
    task: str,
    episodes: int,
    seed: int,
    watch: Callable[[Any, int], None] = lambda env, step: None,
) -> tuple[list[float], int]:
    """Runs a policy in dm_control, one episode after another.

    Args:
        policy: observations (1, obs_dim) -> actions (1, A) in [-1, 1].
        task: the task's name.
        episodes: how many.
        seed: of the initial states.
        watch: called with dm_control's environment and the episode's step before each step.

    Returns:
        The episodes' returns, and how many ended because the physics diverged.
    """
    env = load(find(task), seed)
    low, high = action_range(env)
    middle, half = (high + low) / 2, (high - low) / 2
    limit = env._step_limit  # dm_control has no public name for it
    steps = math.ceil(limit) if math.isfinite(limit) else ENDLESS_STEPS
    returns, diverged = [], 0
    for episode in range(episodes):
        if find(task).model_is_drawn and episode:  # as in training, a model an episode
            env = load(find(task), seed + episode)
        timestep, total = env.reset(), 0.0
        for step in range(steps):
            if timestep.last():
                break
            watch(env, step)
            flat = np.concatenate([np.ravel(x) for x in timestep.observation.values()])
            action = policy(torch.from_numpy(flat.astype(np.float32))[None])[0].numpy()
            try:
                timestep = env.step(middle + half * action)
            except PhysicsError:
                diverged += 1
                break
            total += float(timestep.reward)
        returns.append(total if math.isfinite(total) else math.nan)
    return returns, diverged
