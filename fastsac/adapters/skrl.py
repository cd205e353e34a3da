"""skrl's environment wrapper, and what its agents need at the end of an episode."""

from typing import Any, TypeVar

import gymnasium
import torch
from skrl.envs.wrappers.torch import Wrapper

from fastsac.adapters import ends, require_flat
from fastsac.envs import make

Agent = TypeVar("Agent")


class Env(Wrapper):
    """num_envs worlds of a task for skrl's agents and trainers.

    Worlds are reset within the step; ``infos["final_obs"]`` (B, obs_dim) is what the step led to.

    Args:
        task: as in ``fastsac.make``.
        num_envs: the number of worlds.
        of_make: other arguments of ``fastsac.make``, such as engine.

    Raises:
        ValueError: as ``fastsac.make``, and for flatten and pixels.
    """

    def __init__(self, task: str, num_envs: int, **of_make: Any):
        require_flat(of_make, "flatten", "pixels")
        super().__init__(make(task, num_envs, **of_make))
        self._last: tuple[torch.Tensor, dict[str, Any]] | None = None

    @property
    def observation_space(self) -> gymnasium.Space:
        """Of one world."""
        return self._env.single_observation_space

    @property
    def action_space(self) -> gymnasium.Space:
        """Of one world."""
        return self._env.single_action_space

    def reset(self) -> tuple[torch.Tensor, dict[str, Any]]:
        """Starts the first episodes; later it returns what the last step did, as skrl's own do."""
        self._last = self._last or self._env.reset()
        return self._last

    def step(
        self, actions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """Steps every world; beyond [-1, 1] the actuators saturate.

        Args:
            actions: (B, A) float32.

        Returns:
            obs (B, obs_dim), reward, terminated and truncated (B, 1), and infos.
        """
        obs, reward, terminated, truncated, infos = self._env.step(actions)
        terminated, truncated = ends(terminated, truncated, infos)
        self._last = obs, infos
        return obs, reward[:, None], terminated[:, None], truncated[:, None], infos

    def state(self) -> None:
        """There is none besides the observation."""

    def render(self, *args: Any, **kwargs: Any) -> None:
        """Shows nothing: trainers call it each step, and there is no window."""

    def close(self) -> None:
        """Ends the engine's threads."""
        self._env.close()


def bootstrapping(agent: Agent) -> Agent:
    """Makes an agent learn from what each step led to; returns the agent.

    skrl's trainers record the observation that they act on next, which belongs to the next episode
    where one ended. An agent made so records ``infos["final_obs"]`` instead. PPO and its like look
    at it with ``time_limit_bootstrap=True``.
    """
    record: Any = agent.record_transition  # type: ignore[attr-defined]

    def record_transition(*, next_observations: torch.Tensor, infos: Any, **others: Any) -> None:
        record(next_observations=infos["final_obs"], infos=infos, **others)

    agent.record_transition = record_transition  # type: ignore[attr-defined]
    return agent
