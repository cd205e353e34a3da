"""rsl_rl's VecEnv, for its runners."""

from typing import Any

import torch
from rsl_rl.env import VecEnv as _VecEnv
from tensordict import TensorDict

from fastsac.adapters import require_flat
from fastsac.envs import make


class VecEnv(_VecEnv):
    """num_envs worlds of a task, whose observation is the group ``policy``.

    Args:
        task: as in ``fastsac.make``.
        num_envs: the number of worlds.
        of_make: other arguments of ``fastsac.make``, such as engine.

    Raises:
        ValueError: as ``fastsac.make``, and for flatten and pixels.
    """

    def __init__(self, task: str, num_envs: int, **of_make: Any):
        require_flat(of_make, "flatten", "pixels")
        self.env = make(task, num_envs, **of_make)
        self.cfg = {"task": task, "num_envs": num_envs, **of_make}
        self.num_envs, self.num_actions = self.env.num_envs, self.env.action_dim
        self.max_episode_length = self.env.max_episode_steps
        self.device = self.env.device
        self._obs, _ = self.env.reset()

    @property
    def episode_length_buf(self) -> torch.Tensor:
        """How many control steps each world's episode is old, (B,) int64.

        A copy: to change ages assign a whole tensor, as rsl_rl does.
        """
        return self.env.engine.clocks().to(self.device)

    @episode_length_buf.setter
    def episode_length_buf(self, ages: torch.Tensor) -> None:
        state = self.env.state_dict()
        state["engine"]["clocks"] = ages.to("cpu", state["engine"]["clocks"].dtype)
        self.env.load_state_dict(state)

    def get_observations(self) -> TensorDict:
        """Returns the last observation, "policy" (B, obs_dim) float32."""
        return TensorDict({"policy": self._obs}, [self.num_envs], device=self.device)

    def step(
        self, actions: torch.Tensor
    ) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        """Steps every world; beyond [-1, 1] the actuators saturate.

        Args:
            actions: (B, A) float32.

        Returns:
            observations, reward (B,), done (B,) and ``time_outs`` (B,) bool.
        """
        self._obs, reward, _, truncated, info = self.env.step(actions)
        time_outs = truncated & ~info["invalid"]
        return self.get_observations(), reward, info["_final_obs"], {"time_outs": time_outs}
