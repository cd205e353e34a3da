"""TorchRL's EnvBase."""

from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from fastsac.adapters import ends, require_flat
from fastsac.envs import make


class Env(EnvBase):
    """num_envs worlds of a task, batch_size (num_envs,): ``observation``, ``action``, ``reward``.

    A world that ended waits for the reset that collectors and rollouts ask for, so the last
    observation of an episode is in ("next", "observation").

    Args:
        task: as in ``fastsac.make``.
        num_envs: the number of worlds.
        of_make: other arguments of ``fastsac.make``, such as engine.

    Raises:
        ValueError: as ``fastsac.make``, and for flatten and pixels.
    """

    def __init__(self, task: str, num_envs: int, **of_make: Any):
        require_flat(of_make, "flatten", "pixels")
        env = make(task, num_envs, autoreset_mode="DISABLED", **of_make)
        super().__init__(device=env.device, batch_size=[env.num_envs])
        self.env = env
        self._next_seed: int | None = None
        rows, kwargs = env.num_envs, {"device": env.device}
        obs = Unbounded((rows, env.obs_dim), **kwargs)
        self.observation_spec = Composite(observation=obs, shape=[rows], **kwargs)
        self.action_spec = Bounded(-1, 1, (rows, env.action_dim), **kwargs)
        self.reward_spec = Unbounded((rows, 1), **kwargs)
        flag = Categorical(2, (rows, 1), dtype=torch.bool, **kwargs)
        flags = {name: flag.clone() for name in ("done", "terminated", "truncated")}
        self.done_spec = Composite(flags, shape=[rows], **kwargs)

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Ends the engine's threads."""
        self.env.close()
        super().close(raise_if_closed=raise_if_closed)

    def _reset(self, tensordict: TensorDictBase | None = None, **_: Any) -> TensorDict:
        where = None if tensordict is None else tensordict.get("_reset", None)
        options = None if where is None else {"reset_mask": where.view(self.batch_size)}
        obs, _info = self.env.reset(seed=self._next_seed, options=options)
        self._next_seed = None
        return self._dict(observation=obs)

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        obs, reward, terminated, truncated, info = self.env.step(tensordict["action"])
        terminated, truncated = ends(terminated, truncated, info)
        return self._dict(
            observation=obs,
            reward=reward[:, None],
            done=info["_final_obs"][:, None],
            terminated=terminated[:, None],
            truncated=truncated[:, None],
        )

    def _set_seed(self, seed: int | None) -> None:
        self._next_seed = seed

    def _dict(self, **entries: torch.Tensor) -> TensorDict:
        return TensorDict(entries, self.batch_size, device=self.device)
