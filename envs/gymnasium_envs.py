"""What gymnasium.make and make_vec build of the ids fastsac/TASK-v0: envs over numpy arrays."""

import functools
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from fastsac.envs.arguments import integer
from fastsac.envs.factory import make
from fastsac.envs.vector_env import VectorEnv

_RENDER_MODES = (None, "rgb_array")


class GymnasiumVectorEnv(VectorEnv):
    """The env of ``fastsac.make(..., array="numpy")`` with gymnasium's ``info``.

    ``info``: ``clocks`` (B,) int64, how many control steps each world's episode is old, and
    ``invalid`` (B,) bool, where the physics diverged with this step. Where a world ended, in mode
    SAME_STEP, besides: ``final_obs`` (B,) of arrays (obs_dim,) or None, and
    ``final_info`` with the last step's ``clocks``, ``invalid`` and ``episode``, its return ``r``
    (B,) float64 and length ``l`` (B,) int64. Each has a mask (B,) bool, such as ``_final_obs``.

    Args:
        task: as in ``fastsac.make``.
        num_envs: the number of worlds.
        render_mode: None or "rgb_array".
        width: of a picture, pixels.
        height: of a picture, pixels.
        seed: of the initial states before the first ``reset(seed=)``; None draws one.
        of_make: other arguments of ``fastsac.make``, such as engine and autoreset_mode.

    Raises:
        ValueError: besides those of ``fastsac.make``, another render_mode, or an argument that
            gymnasium fixes, such as array.
    """

    def __init__(
        self,
        task: str,
        num_envs: int = 1,
        render_mode: str | None = None,
        width: int = 320,
        height: int = 240,
        seed: int | None = None,
        **of_make: Any,
    ):
        picture: dict[str, Any] = {"render_mode": render_mode, "width": width, "height": height}
        remake = functools.partial(type(self), task, num_envs, seed=seed, **picture, **of_make)
        self.render_mode, self.frame_size = _checked(**picture)
        first = _drawn_seed() if seed is None else seed
        _refuse(of_make, "array")
        env = make(task, num_envs, seed=first, array="numpy", **of_make)
        mode, env.closed = env.autoreset_mode, True  # its engine goes over to this one
        of_env = env.engine, env.num_envs, env.device
        super().__init__(*of_env, first, "numpy", mode, env.flatten)
        self.remake = remake
        self._clocks = np.zeros(env.num_envs, np.int64)
        self._returns = np.zeros(env.num_envs)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """See VectorEnv.reset."""
        obs, info = super().reset(seed=seed, options=options)
        if np.ndim(seed) == 0 and seed is not None:
            gymnasium.vector.VectorEnv.reset(self, seed=integer("seed", seed, 0))  # np_random
        which = np.ones(self.num_envs, bool)
        if options and "reset_mask" in options:
            which = np.asarray(options["reset_mask"])
        self._returns[which] = 0
        self._clocks = info["clocks"].copy()
        return obs, _masked(info | {"invalid": np.zeros(self.num_envs, bool)}, which)

    def state_dict(self) -> dict[str, Any]:
        """See VectorEnv.state_dict; the episodes' returns so far and lengths are part of it."""
        episodes = {"returns": torch.tensor(self._returns), "clocks": torch.tensor(self._clocks)}
        return super().state_dict() | {"episodes": episodes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See VectorEnv.load_state_dict."""
        super().load_state_dict(state)
        episodes = state.get("episodes")  # of fastsac.make's env there are none
        clocks = self._handed_out(self.engine.clocks())
        self._clocks = episodes["clocks"].numpy().copy() if episodes else clocks.copy()
        self._returns = episodes["returns"].numpy().copy() if episodes else np.zeros(len(clocks))

    def _info(self, step: Any) -> dict[str, Any]:
        ages, self._clocks = self._clocks + 1, self._handed_out(self.engine.clocks())
        self._returns += step.reward
        done = step.done
        info = {"clocks": self._clocks.copy(), "invalid": step.invalid}
        info = _masked(info, np.ones(self.num_envs, bool))
        if self.autoreset_mode is AutoresetMode.SAME_STEP and done.any():
            final_obs = np.full(self.num_envs, None, object)
            for world in np.flatnonzero(done):
                final_obs[world] = self._observed(np.array(step.final_obs[world]))
            episode = {"r": self._returns.copy(), "l": ages}
            last = {"clocks": ages.copy(), "invalid": step.invalid.copy()}
            last["episode"] = _masked(episode, done)
            info |= _masked({"final_obs": final_obs, "final_info": _masked(last, done)}, done)
        self._returns[self._clocks == 0] = 0
        return info


class GymnasiumEnv(gymnasium.Env):
    """One world, as gymnasium's Env over numpy arrays.

    ``info``: ``invalid``, whether the physics diverged, which truncates the episode.

    Args:
        task: as in ``fastsac.make``.
        render_mode: None or "rgb_array".
        width: of a picture, pixels.
        height: of a picture, pixels.
        of_make: other arguments of ``fastsac.make``, such as engine.

    Raises:
        ValueError: besides those of ``fastsac.make``, another render_mode, or an argument that
            gymnasium fixes, such as array.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}

    def __init__(
        self,
        task: str,
        render_mode: str | None = None,
        width: int = 320,
        height: int = 240,
        **of_make: Any,
    ):
        picture: dict[str, Any] = {"render_mode": render_mode, "width": width, "height": height}
        self._remake = functools.partial(type(self), task, **picture, **of_make)
        self.render_mode, frame_size = _checked(**picture)
        _refuse(of_make, "num_envs", "array", "autoreset_mode")
        self._worlds = make(
            task, 1, array="numpy", autoreset_mode=AutoresetMode.DISABLED, **of_make
        )
        self._worlds.frame_size = frame_size
        self.suite = self._worlds.suite
        self.observation_space = self._worlds.single_observation_space
        self.action_space = self._worlds.single_action_space
        self.metadata = self.metadata | {"render_fps": self._worlds.metadata["render_fps"]}
        self._started = "seed" in of_make

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Starts an episode.

        Args:
            seed: starts the sequence of episodes that this seed fixes, with that of world 0 of
                ``fastsac.make``; None goes on in the sequence, at first in one drawn at random.
            options: there are none.

        Returns:
            obs (obs_dim,) float32, with flatten=False a dict of its parts, with pixels a picture,
            and info.
        """
        if options:
            raise ValueError(f"unknown reset option {next(iter(options))!r}; there are none")
        seed = None if seed is None else integer("seed", seed, 0)
        super().reset(seed=seed)
        if seed is None and not self._started:
            seed = int(self.np_random.integers(2**31))
        self._started = True
        mask = None if seed is not None else {"reset_mask": np.ones(1, bool)}
        return _first(self._worlds.reset(seed=seed, options=mask)[0]), {"invalid": False}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Steps by one control step.

        Args:
            action: (A,) of any real type, rounded to float32.

        Returns:
            obs as of reset, reward, terminated, truncated and info.

        Raises:
            TypeError, ValueError: an action that is none.
            RuntimeError: before reset, or after the episode's end.
        """
        obs, reward, terminated, truncated, info = self._worlds.step(np.asarray(action)[None])
        flags = bool(terminated[0]), bool(truncated[0])
        return _first(obs), float(reward[0]), *flags, {"invalid": bool(info["invalid"][0])}

    def render(self) -> Any:
        """Returns a picture (height, width, 3) uint8 from dm_control's camera 0.

        Raises:
            RuntimeError: there is no OpenGL here, or before reset.
        """
        frames = None if self.render_mode is None else self._worlds.render()
        return frames and frames[0]

    def close(self) -> None:
        """Ends the engine's threads."""
        self._worlds.close()

    def __reduce__(self) -> Any:
        return self._remake, (), {"spec": self.spec}


def _refuse(of_make: Mapping[str, Any], *fixed: str) -> None:
    """Raises ValueError where arguments of make are given that this env has its own for."""
    for name in fixed:
        if name in of_make:
            raise ValueError(f"this env takes no {name}: it is of gymnasium's own kind")


def _checked(render_mode: str | None, width: int, height: int) -> tuple[Any, tuple[int, int]]:
    if render_mode not in _RENDER_MODES:
        raise ValueError(f"unknown render_mode {render_mode!r}; there are None and 'rgb_array'")
    return render_mode, (integer("width", width, 1), integer("height", height, 1))


def _first(obs: Any) -> Any:
    return {k: np.asarray(v[0]) for k, v in obs.items()} if isinstance(obs, dict) else obs[0]


def _drawn_seed() -> int:
    return int(np.random.SeedSequence().generate_state(1)[0])


def _masked(values: dict[str, Any], mask: np.ndarray) -> dict[str, Any]:
    """Returns the values, each with a mask that says in which worlds they are."""
    return values | {f"_{name}": mask.copy() for name in values}
