"""Stable-Baselines3's VecEnv, which SBX takes too."""

from typing import Any

import numpy as np
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv as _VecEnv

from fastsac.adapters import require_flat
from fastsac.envs.gymnasium_envs import GymnasiumVectorEnv


class VecEnv(_VecEnv):
    """num_envs worlds of a task for SB3's and SBX's algorithms; all are one env to ``env_method``.

    The info of a world that ended has ``terminal_observation``, ``TimeLimit.truncated`` and
    ``episode``, as if each world were in a Monitor. ``seed(s)`` begins one sequence for all worlds.

    Args:
        task: as in ``fastsac.make``.
        num_envs: the number of worlds.
        of_make: other arguments of ``fastsac.make``, such as engine, and those of gymnasium's env:
            render_mode, width, height.

    Raises:
        ValueError: as ``fastsac.make``; an autoreset_mode besides SAME_STEP, the one SB3 knows.
    """

    def __init__(self, task: str, num_envs: int = 1, **of_make: Any):
        if "autoreset_mode" in of_make:
            raise ValueError("SB3 wants worlds that are reset within the step: no autoreset_mode")
        require_flat(of_make, "flatten")  # SB3's policies take no part that is one number
        self.env = GymnasiumVectorEnv(task, num_envs, **of_make)
        spaces = self.env.single_observation_space, self.env.single_action_space
        super().__init__(self.env.num_envs, *spaces)

    def reset(self) -> np.ndarray:
        """Starts a new episode in every world; returns obs (B, obs_dim) float32."""
        obs, _ = self.env.reset(seed=self._seeds[0], options=self._options[0])
        self._reset_seeds()
        self._reset_options()
        return obs

    def step_async(self, actions: np.ndarray) -> None:
        """Takes the actions (B, A) for ``step_wait``."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Steps; returns obs (B, obs_dim), reward (B,), done (B,) and the worlds' infos."""
        obs, reward, terminated, truncated, info = self.env.step(self._actions)
        dones = terminated | truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for world in np.flatnonzero(dones):
            episode = info["final_info"]["episode"]
            infos[world] = {
                "terminal_observation": info["final_obs"][world],
                "TimeLimit.truncated": bool(truncated[world] and not info["invalid"][world]),
                "episode": {"r": float(episode["r"][world]), "l": int(episode["l"][world])},
            }
        return obs, reward, dones, infos

    def close(self) -> None:
        """Ends the engine's threads."""
        self.env.close()

    def get_images(self) -> Any:
        """Returns a picture of each world, (height, width, 3) uint8."""
        return self.env.render()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Returns the env's attribute once for each world."""
        return [getattr(self.env, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Sets the env's attribute, for all worlds."""
        setattr(self.env, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> Any:
        """Calls the env's method once, for all worlds, and returns what it gave for each world."""
        result = getattr(self.env, method_name)(*args, **kwargs)
        return [result for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Returns whether a wrapper's work is done here, as Monitor's is."""
        return [wrapper_class is Monitor for _ in self._get_indices(indices)]
