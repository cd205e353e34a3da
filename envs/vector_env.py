"""The batched environment users hold: gymnasium's vector API over torch tensors, or others."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from fastsac.envs import arguments
from fastsac.envs.arrays import ARRAYS
from fastsac.envs.autoreset import EndedWorlds
from fastsac.envs.devices import ENVIRONMENTS
from fastsac.envs.engines import Engine, Step
from fastsac.envs.rendering import Cameras
from fastsac.envs.spaces import observation_space, observed
from fastsac.forks import use

# Tensors, or what ``make(..., array=)`` names instead.
Array = Any
StepResult = tuple[Array, Array, Array, Array, dict[str, Array]]

_WRONG_STATE = {
    "new": "call reset() first",
    "sent": "call recv() first: a step is under way",
    "closed": "this env was closed",
}


class VectorEnv(gymnasium.vector.VectorEnv):
    """Steps num_envs worlds of one task at once; made by ``fastsac.make``.

    Observations and rewards are torch.float32 on ``device``, actions torch.float32 in [-1, 1],
    which dm_control's action_spec is mapped to. Made with ``array="numpy"`` or ``"jax"`` it hands
    out these arrays instead of tensors, of the same types, and takes actions of any real type,
    which it rounds to float32. Made with ``flatten=False`` an observation is a dict of dm_control's
    parts, each (B, ...), everywhere; made with ``pixels`` a picture, (B, height, width, 3) uint8.

    A world whose episode ends is reset within the same step (AutoresetMode.SAME_STEP): ``obs`` is
    then the first observation of the next episode and ``info["final_obs"]`` the last of the old
    one. Suite tasks end by their time limit, which is truncation, not termination.

    The other modes return the last observation as ``obs``. NEXT_STEP begins the next episode with
    the step after, which ignores that world's action and gives no reward; DISABLED waits for
    ``reset(options={"reset_mask": ...})``. Both wait for the device at each step.

    ``info`` of a step: ``final_obs``, as obs, the observation the step led to, in every
    world; ``_final_obs`` (B,) bool, where an episode ended; ``invalid`` (B,) bool, where a fault
    truncated it: that world was reset, its reward and final_obs are zeros; ``fault`` (B,) uint8: 1
    the physics diverged, 2 the observation or 3 the reward was not finite, else 0.

    Attributes:
        frame_size: width and height of what ``render`` returns, in pixels; dm_control's.
    """

    closed = True  # until there is something to close: gymnasium 1.1 closes what is collected
    render_mode: str | None = "rgb_array"
    frame_size = (320, 240)
    remake: Callable[[], "VectorEnv"] | None = None
    """Makes an env from the same arguments, which is what copies and pickles of this one do."""

    def __init__(
        self,
        engine: Engine,
        num_envs: int,
        device: torch.device,
        seed: int,
        array: str = "torch",
        autoreset_mode: AutoresetMode = AutoresetMode.SAME_STEP,
        flatten: bool = True,
    ):
        self.flatten = flatten
        self.metadata = {
            "autoreset_mode": autoreset_mode,
            "render_modes": ["rgb_array"],
            "render_fps": round(1 / engine.suite.control_timestep),
        }
        self.autoreset_mode = autoreset_mode
        engine.autoreset = autoreset_mode is AutoresetMode.SAME_STEP
        self._ended = None if engine.autoreset else EndedWorlds(engine, num_envs, autoreset_mode)
        self._cameras: Cameras | None = None
        self.num_envs = num_envs
        self.device = device
        self.engine = engine
        self.engine_name = engine.name
        self.suite = engine.suite
        self._kind = engine.suite.kind | {"engine": engine.name, "num_envs": num_envs}
        self._seed = seed
        self._pid = os.getpid()
        self._take, self._give = ARRAYS[array]
        # What becomes of an engine's tensors, if anything.
        self._hand_out = self._give if engine.device == device else self._moved
        self._state = "new"  # then "ready" and, between send and recv, "sent"; at last "closed"
        self.obs_dim, self.action_dim = engine.obs_dim, engine.suite.action_dim
        self.max_episode_steps = engine.suite.max_episode_steps
        self.single_observation_space = observation_space(engine.suite, flatten)
        self.single_action_space = gymnasium.spaces.Box(-1, 1, (self.action_dim,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.closed = False

    def reset(
        self,
        *,
        seed: int | Sequence[int] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """Starts a new episode in every world.

        Args:
            seed: of the initial states, an integer of any type; None counts on from the last seed.
                A list of them, one a world, starts each world as the first world of that seed; the
                episodes after come from one sequence that the list fixes. For the native engine.
            options: {"spread_clocks": True} starts world i with i / num_envs of its episode
                over, so that the worlds' episodes do not all end on one step. {"reset_mask": mask},
                (B,) bool, starts new episodes in those worlds only, by default from the next
                initial states of the sequence.

        Returns:
            obs (B, obs_dim) float32, and info with ``clocks`` (B,) int64, the control steps that
            each world's episode is old.

        Raises:
            TypeError, ValueError: a seed or an option that is none, or a list of seeds that the
                engine cannot take.
            RuntimeError: the env was closed.
        """
        which, spread = arguments.checked_options(options, self.num_envs)
        if arguments.is_list(seed) and self.engine_name != "native":
            raise ValueError(
                f"a seed a world needs the engine native; {self.engine_name} takes one for all"
            )
        seed, of_worlds = arguments.checked_seeds(seed, self.num_envs, which)
        if spread and of_worlds:
            raise ValueError("spread_clocks goes with one seed, not with one a world")
        use(ENVIRONMENTS)
        if self._state == "closed":
            raise RuntimeError(_WRONG_STATE["closed"])
        if self._state == "sent":
            self.recv()
        # All worlds by a mask: as without one where a seed begins another sequence.
        if which is not None and (seed is None or not which.all()) and self._state == "ready":
            return self._begun(which, self.engine.restart(which, of_worlds))
        if which is not None and not which.all():
            raise RuntimeError(_WRONG_STATE[self._state])
        self._seed = self._seed if seed is None else seed
        clocks = np.zeros(self.num_envs, np.int64)
        if spread:
            clocks = np.arange(self.num_envs) * self.max_episode_steps // self.num_envs
        everywhere = np.ones(self.num_envs, bool)
        obs = self.engine.reset(self._seed, clocks)
        if of_worlds:
            obs = self.engine.restart(everywhere, of_worlds)
        self._seed += 1
        self._state = "ready"
        return self._begun(everywhere, obs)

    def step(self, action: Array) -> StepResult:
        """Steps every world by one control step: ``send`` and ``recv`` in one."""
        self._send(action, overlap=False)
        return self.recv()

    def send(self, action: Array) -> None:
        """Starts a control step and returns while it runs.

        Args:
            action: (B, A) float32 on the env's device. Beyond [-1, 1] the actuators saturate as
                in dm_control.

        Raises:
            TypeError: not a torch.float32 tensor, or an array of no real numbers.
            ValueError: wrong shape or device.
            RuntimeError: before reset, or twice without recv.
        """
        self._send(action, overlap=True)

    def recv(self) -> StepResult:
        """Waits for the step that send started.

        Returns:
            obs (B, obs_dim), reward (B,), terminated (B,), truncated (B,) and info.
        """
        use(ENVIRONMENTS)
        if self._state != "sent":
            raise RuntimeError("recv() needs a send() before it")
        self._state = "new"  # if the step fails, the worlds must be reset
        step = self.engine.recv()
        if self._ended:
            step = self._ended.step(step)
        if self._hand_out:
            step = Step(*map(self._hand_out, step))
        self._state = "ready"
        obs = self._observed(step.obs)
        return obs, step.reward, step.terminated, step.truncated, self._info(step)

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Returns a picture of each world, (height, width, 3) uint8, from dm_control's camera 0.

        None without a render_mode, as from gymnasium's own environments.

        Raises:
            RuntimeError: there is no OpenGL here, or before reset.
        """
        if self.render_mode is None:
            return None
        self._require_ready()
        if self._cameras is None:
            self._cameras = Cameras(self.suite, self.num_envs, *self.frame_size[::-1])
        state = {k: v.cpu().numpy() for k, v in self.engine.get_state().items()}
        return tuple(self._cameras.frames(state))

    @property
    def warnings(self) -> dict[str, int]:
        """MuJoCo's warnings so far by kind, such as badqacc or contactfull; none from MJX.

        A world with one of bad ctrl, qpos, qvel or qacc is ``invalid``; a full contact or
        constraint buffer leaves contacts out, and the world goes on. From Warp come those of
        buffers, and in how many worlds.
        """
        return dict(self.engine.warnings)

    def get_state(self) -> dict[str, Array]:
        """Returns the state: equal states and actions have equal futures.

        qpos (B, nq), qvel (B, nv), act (B, na), the solver's warm start qacc_warmstart (B, nv)
        and the model fields that are per world; copies. float64 from the native engine, float32
        from Warp, jax's default float type from MJX and in jax's arrays. Episode clocks are not
        part of it.
        """
        self._require_ready()
        return {k: self._handed_out(v) for k, v in self.engine.get_state().items()}

    def set_state(self, state: Mapping[str, Any]) -> Array:
        """Puts the worlds into a state and refreshes everything derived from it.

        Args:
            state: any of the fields of get_state, tensors or arrays of the same shapes; the rest
                stays as it is. Episode clocks go on.

        Returns:
            obs (B, obs_dim) float32 of the new state.

        Raises:
            TypeError, ValueError: an unknown field, no real numbers, or a wrong shape; nothing
                was changed.
        """
        self._require_ready()
        shapes = {k: tuple(v.shape) for k, v in self.engine.get_state().items()}
        obs = self.engine.set_state(arguments.checked_rows(state, shapes))
        if self._ended:
            self._ended.put(obs)
        return self._observed(self._handed_out(obs))

    def state_dict(self) -> dict[str, Any]:
        """Returns all that a later process goes on from: tensors on the CPU, and numbers.

        The state of get_state, episode clocks and the place in the sequence of initial states. From
        the native engine the steps that follow are the same to the last bit.
        """
        self._require_ready()
        ended = self._ended and self._ended.state_dict()
        state = {"seed": self._seed, "engine": self.engine.state_dict(), "ended": ended}
        return state | {"of": self._kind}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state_dict of an env of the same task, engine and number of worlds.

        The observation to act on is the one that was returned before state_dict was called.

        Raises:
            ValueError: the state is of another kind of env; nothing was changed.
        """
        use(ENVIRONMENTS)
        if self._state == "closed":
            raise RuntimeError(_WRONG_STATE["closed"])
        if self._state == "sent":
            self.recv()
        arguments.require_kind(state.get("of"), self._kind)
        if (state.get("ended") is None) != (self._ended is None):
            raise ValueError("the state is of an env with another autoreset_mode")
        self._state = "new"  # if it fails, the worlds must be reset
        self.engine.load_state_dict(state["engine"])
        self._seed = state["seed"]
        if self._ended:
            self._ended.load_state_dict(state["ended"])
        self._state = "ready"

    def __reduce__(self) -> Any:
        if self.remake is None:
            raise TypeError("only what fastsac.make returned can be copied and pickled")
        return self.remake, (), {"spec": self.spec}

    def close_extras(self, **kwargs: Any) -> None:
        """Ends the engine's threads; ``close`` calls it."""
        self._state = "closed"
        if os.getpid() != self._pid:  # a child of fork has none of them
            return
        self.engine.close()
        if self._cameras:
            self._cameras.close()

    def _send(self, action: Array, overlap: bool) -> None:
        self._require_ready()
        action = self._take(action)
        arguments.require_action(action, (self.num_envs, self.action_dim), self.device)
        if self._ended:
            action = self._ended.action(action)
        self.engine.send(action.detach().to(self.engine.device).contiguous(), overlap)
        self._state = "sent"

    def _begun(self, which: np.ndarray, obs: torch.Tensor) -> tuple[Array, dict[str, Array]]:
        """Returns what reset does, after episodes began in some worlds."""
        if self._ended:
            obs = self._ended.begun(which, obs)
        info = {"clocks": self._handed_out(self.engine.clocks())}
        return self._observed(self._handed_out(obs)), info

    def _info(self, step: Step) -> dict[str, Array]:
        """Returns the info of a step, whose arrays are the user's already."""
        return {
            "final_obs": self._observed(step.final_obs),
            "_final_obs": step.done,
            "invalid": step.invalid,
            "fault": step.fault,
        }

    def _observed(self, obs: Array) -> Any:
        """Returns observations (..., obs_dim), the user's arrays already, as they are asked for."""
        return observed(self.suite, self.flatten, obs)

    def _handed_out(self, tensor: torch.Tensor) -> Array:
        return self._hand_out(tensor) if self._hand_out else tensor

    def _moved(self, tensor: torch.Tensor) -> Array:
        """Hands out a tensor that another device may hold."""
        # Towards the CPU a copy that does not block could be read before it is there.
        tensor = tensor.to(self.device, non_blocking=self.device.type == "cuda")
        return self._give(tensor) if self._give else tensor

    def _require_ready(self) -> None:
        use(ENVIRONMENTS)
        if self._state != "ready":
            raise RuntimeError(_WRONG_STATE[self._state])
