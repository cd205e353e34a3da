"""C MuJoCo on the CPU: the engine for machines without a GPU, and MJX's reference.

MuJoCo's own Batch holds the worlds and steps them on threads that never take Python's lock. A
world steps exactly as dm_control steps it: mj_step2 then mj_step1, so that everything derived
belongs to the new state. Observation and reward are the task's own functions, vmapped, jitted and
evaluated in float64 on copies of the batch's arrays.
"""

import collections
import ctypes
import logging
import os
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from types import SimpleNamespace
from typing import Any

import jax
import mujoco
import numpy as np
import torch
from mujoco.batch import Batch

from fastsac.envs.c_fields import Mirror, read_fields, shaped
from fastsac.envs.dlpack import aliased, aligned
from fastsac.envs.engines import Step
from fastsac.envs.engines.native_warnings import (
    DIVERGING,
    WARNINGS,
    is_not_counted,
    warnings_are_counted,
)
from fastsac.envs.engines.world_models import WorldModels, velocity_acts
from fastsac.envs.initial_states import InitialStates, Rows
from fastsac.envs.outcome import DIVERGED, endings, observation, outcome
from fastsac.envs.suite import FLAGS, Suite

# With these stages at the new state a step is mj_step2, mj_step1: the next one continues from them.
_AS_STEP1 = int(mujoco.mjtStage.mjSTAGE_VEL)
_NOTHING = int(mujoco.mjtStage.mjSTAGE_NONE)
# A thread that has fewer microseconds of work a step costs more to wake than it brings (two threads
# against one, 64 worlds: pendulum, 150 us in all, 1.25x and reacher, 180 us, 1.35x on two idle
# cores; 0.85x where another program keeps one of them busy).
_WORTH_A_THREAD_US = 75.0
_CALIBRATION_STEPS = 30

_batches = weakref.WeakSet[Batch]()


class NativeEngine:
    """Steps num_envs worlds on the CPU.

    Args:
        suite: the task and its constants.
        num_envs: the number of worlds.
        num_threads: threads that step; None takes every core, or fewer where a step of all worlds
            is not worth them. Results do not depend on it.
    """

    name = "native"
    autoreset = True
    reset_bytes = 0  # Batch takes its memory at once
    compile_notice = ""  # 0.2 to 1 s

    def __init__(self, suite: Suite, num_envs: int, num_threads: int | None = None):
        self.suite = suite
        self.device = torch.device("cpu")
        self._num_envs = num_envs
        cores = len(os.sched_getaffinity(0))
        worth_it = max(1, int(num_envs * self._world_us() / _WORTH_A_THREAD_US))
        threads = min(num_threads or min(cores, worth_it), num_envs)
        # Persistent: an MjData a world, so that a step goes on from the last one's stages.
        batch = self._batch = Batch(suite.model, num_envs, threads, persistent=True)
        _batches.add(batch)
        self._velocity_acts = velocity_acts(suite)
        self._models = WorldModels(batch, suite.model_fields, whole=self._velocity_acts)
        self._state: Rows = {k: batch.bind(k) for k in suite.state_fields}  # live views (B, ...)
        self._reset_state = {k: v.copy() for k, v in self._state.items()}
        self._control = batch.bind("ctrl")
        # A world as mj_resetData leaves it; what Batch.reset checks takes as long as a small step.
        self._blank = batch.state[0].copy()
        # What of a past such a row does not wipe out: act_dot, a plugin's own memory, who sleeps.
        sleeps = suite.model.opt.enableflags & int(mujoco.mjtEnableBit.mjENBL_SLEEP)
        self._resets_slowly = bool(suite.model.na or suite.model.nplugin or sleeps)
        fields, model_fields = read_fields(suite)
        sources = {k: shaped(k, batch.bind(k), batch_dims=1) for k in sorted(fields)}
        self._fields = Mirror(sources, flags=FLAGS)
        self._model_fields = Mirror({k: self._models.rows[k] for k in sorted(model_fields)})
        self.obs_dim = suite.obs_dim
        # dm_control resets with the actuators off, and MuJoCo then leaves their velocities at 0.
        # With mj_step2 an episode's first physics step goes on from there; RK4's is a whole one.
        self._first_step_is_step2 = suite.model.opt.integrator != mujoco.mjtIntegrator.mjINT_RK4
        self._begins_still = np.zeros(num_envs, bool)

        self.warnings: collections.Counter[str] = collections.Counter()
        self._warned_before = np.zeros((num_envs, len(WARNINGS)), np.int32)
        # dm_control logs each of MuJoCo's warnings; those of the engine's steps are counted here.
        logging.getLogger("absl").addFilter(is_not_counted)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="native-engine")
        self._pending: Future[None] | None = None
        self._pool: InitialStates | None = None
        self._clocks = aligned((num_envs,), np.int64)
        self._clocks_read = aliased(self._clocks)

    def reset(self, seed: int, clocks: np.ndarray) -> torch.Tensor:
        """See Engine.reset."""
        self._draw_from(seed)
        assert self._pool
        self._clocks[:] = clocks
        self._begins_still[:] = self._first_step_is_step2
        self._initialise(np.arange(self._num_envs), self._pool.take(self._num_envs))
        return torch.from_numpy(self._observe())

    def restart(self, worlds: np.ndarray, seeds: Sequence[int] | None = None) -> torch.Tensor:
        """See Engine.restart."""
        assert self._pool, "reset comes first"
        index = np.flatnonzero(worlds)
        rows = self._pool.take(index.size) if seeds is None else self._pool.first_rows(seeds)
        self._clocks[index] = 0
        self._begins_still[index] = self._first_step_is_step2
        self._initialise(index, rows)
        return torch.from_numpy(self._observe())

    def send(self, action: torch.Tensor, overlap: bool = True) -> None:
        """See Engine.send."""
        self._control[:] = self.suite.control(action.numpy().astype(np.float64))
        self._pending = self._worker.submit(self._step_beside) if overlap else None

    def recv(self) -> Step:
        """See Engine.recv."""
        if self._pending:
            self._pending.result()
        else:
            self._step()
        self._clocks += 1
        self._begins_still[:] = False
        obs, reward, (terminated, truncated, fault, done) = self._outcomes()
        if (self._batch.warning[:, :, 1] != self._warned_before).any():
            warned = self._count_warnings()
            # The state is MuJoCo's reset one, finite but not the step's result.
            obs[warned], reward[warned], terminated[warned] = 0, 0, False
            fault[warned] = DIVERGED
            for flag in (truncated, done):
                flag |= warned
        next_obs = self._reset_where(done, obs) if self.autoreset else obs.copy()
        arrays = (next_obs, obs, reward, terminated, truncated, fault, done)
        return Step(*map(torch.from_numpy, arrays))

    def clocks(self) -> torch.Tensor:
        """See Engine.clocks."""
        return torch.from_numpy(self._clocks.copy())

    def get_state(self) -> dict[str, torch.Tensor]:
        """See Engine.get_state; float64."""
        state = self._state | self._models.rows
        return {k: torch.from_numpy(v.astype(np.float64)) for k, v in state.items()}

    def set_state(self, state: Rows) -> torch.Tensor:
        """See Engine.set_state."""
        rows = {k: v.numpy() for k, v in self.get_state().items()} | state
        self._initialise(np.arange(self._num_envs), rows)
        return torch.from_numpy(self._observe())

    def read(self, name: str) -> np.ndarray:
        """Returns a copy of one of MuJoCo's arrays of all worlds (B, ...), float64."""
        return shaped(name, self._batch.bind(name).copy(), batch_dims=1)

    def state_dict(self) -> dict[str, Any]:
        """See Engine.state_dict."""
        assert self._pool, "reset comes first"
        return {
            "state": self.get_state(),
            "clocks": torch.from_numpy(self._clocks.copy()),
            "begins_still": torch.from_numpy(self._begins_still.copy()),
            "initial_states": self._pool.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See Engine.load_state_dict."""
        self._draw_from(**state["initial_states"])
        self._clocks[:] = state["clocks"].numpy()
        self._begins_still[:] = state.get("begins_still", False)
        # A checkpoint of format 4 has no more of a custom task than of the suite's.
        rows = self._reset_state | {k: v.numpy() for k, v in state["state"].items()}
        self._initialise(np.arange(self._num_envs), rows)

    def check(self) -> None:
        """See Engine.check."""
        if self._pool:
            self._pool.check()

    def close(self) -> None:
        """See Engine.close."""
        self._worker.shutdown(wait=True)
        if self._pool:
            self._pool.close()

    def _draw_from(self, seed: int, start: int = 0) -> None:
        """Begins the sequence of initial states, or enters it."""
        if self._pool:
            self._pool.begin(seed, start)
        else:
            self._pool = InitialStates(self.suite, seed, start)

    def _step_beside(self) -> None:
        with torch.profiler.record_function("physics"):  # 5 us; what --profile looks for
            self._step()

    def _step(self) -> None:
        with warnings_are_counted():
            self._batch.step(nstep=self.suite.substeps, stage=_AS_STEP1)

    def _reset_where(self, done: np.ndarray, obs: np.ndarray) -> np.ndarray:
        """Resets the worlds that are done; returns all observations, in memory of their own."""
        worlds = np.flatnonzero(done)
        if not worlds.size:
            return obs.copy()
        assert self._pool
        self._begins_still[worlds] = self._first_step_is_step2
        self._initialise(worlds, self._pool.take(worlds.size))
        self._clocks[worlds] = 0
        return np.where(done[:, None], self._observe(), obs)

    def _initialise(self, worlds: np.ndarray, rows: Rows) -> None:
        """Puts rows[k] into world worlds[k], nothing of its past left, as dm_control resets."""
        if self._resets_slowly:
            self._batch.reset(worlds, stage=_NOTHING)
        else:
            self._batch.state[worlds] = self._blank
        self._batch.warning[worlds] = self._warned_before[worlds] = 0
        for name, values in self._state.items():
            values[worlds] = rows[name]
        self._models.write(worlds, rows)
        self._model_fields.refresh()
        with self._models.without_actuation(worlds), warnings_are_counted():
            self._batch.forward(worlds)
        self._state["qacc_warmstart"][worlds] = rows["qacc_warmstart"]
        if self._velocity_acts:
            # A state that was written to is begun anew with mj_step1: done here, it is not then.
            still = worlds[self._begins_still[worlds]]
            with self._models.without_actuation(still), warnings_are_counted():
                self._batch.forward(worlds, stage=_AS_STEP1)

    def _count_warnings(self) -> np.ndarray:
        """Counts MuJoCo's new warnings, reports a kind's first, and returns (B,) who diverged.

        MuJoCo's own numbers stay, up to a reset: the first of a kind it reports to dm_control, in
        Python.
        """
        numbers = self._batch.warning[:, :, 1]
        # A diverged world was reset by MuJoCo, and its numbers with it.
        new = np.where(numbers >= self._warned_before, numbers - self._warned_before, numbers)
        self._warned_before[:] = numbers
        for kind in np.flatnonzero(new.any(axis=0)):
            if WARNINGS[kind] not in self.warnings:
                logging.getLogger("fastsac").warning(
                    "%s: MuJoCo warns of %s in world %d; env.warnings counts from here on",
                    self.suite.task.full_name,
                    WARNINGS[kind],
                    new[:, kind].argmax(),
                )
            self.warnings[WARNINGS[kind]] += int(new[:, kind].sum())
        return new[:, DIVERGING].any(axis=1)

    def _observe(self) -> np.ndarray:
        """Returns obs (B, obs_dim) float32."""
        return self._evaluate(self._observation).view(np.float32).reshape(self._num_envs, -1)

    def _outcomes(self) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """Returns obs (B, obs_dim), reward (B,), and what became of the episodes, each (B,).

        Which are: terminated and truncated, bool, the fault, uint8, and done, bool.
        """
        words, size = self._evaluate(self._outcome), self._num_envs * self.obs_dim
        reward = words[size : size + self._num_envs]
        flags = words[size + self._num_envs :].view(np.uint8)
        return (
            words[:size].view(np.float32).reshape(self._num_envs, -1),
            reward.view(np.float32),
            [row if i == 2 else row.view(bool) for i, row in enumerate(flags.reshape(4, -1))],
        )

    def _evaluate(self, compiled: Any) -> np.ndarray:
        self._fields.refresh()
        return np.array(compiled(self._fields.arrays, self._model_fields.arrays, self._clocks_read))

    @cached_property
    def _observation(self) -> Any:
        """(B * obs_dim,) words."""
        return self._compile(
            lambda fields, rows, _: [jax.vmap(self._of_world(observation))(fields, rows)]
        )

    @cached_property
    def _outcome(self) -> Any:
        """(B * obs_dim + 2 * B,) words; see _outcomes."""

        def step(fields: Rows, rows: Rows, clocks: jax.Array) -> list[jax.Array]:
            result = jax.vmap(self._of_world(outcome))(fields, rows)
            terminated, truncated, done = endings(result, clocks, self.suite.max_episode_steps)
            flags = [x.astype("uint8") for x in (terminated, truncated, result.fault, done)]
            bytes_of_words = jax.numpy.stack(flags).reshape(-1, 4)
            return [result.obs, result.reward, bytes_of_words]

        return self._compile(step)

    def _of_world(self, function: Any) -> Any:
        function = partial(function, self.suite.task, self.suite.model)
        return lambda fields, rows: function(SimpleNamespace(**fields), rows)

    def _compile(self, function: Any) -> Any:
        """Returns the function on the CPU in float64, its results raveled to words of 4 bytes.

        One array of them: each that leaves jax costs 10 to 30 us.
        """

        def raveled(*arguments: Any) -> jax.Array:
            parts = [jax.lax.bitcast_convert_type(p, "int32") for p in function(*arguments)]
            return jax.numpy.concatenate([part.ravel() for part in parts])

        arguments = self._fields.arrays, self._model_fields.arrays, self._clocks_read
        with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
            return jax.jit(raveled).lower(*arguments).compile()

    def _world_us(self) -> float:
        """Measures the microseconds of one world's step."""
        model, data = self.suite.model, mujoco.MjData(self.suite.model)
        start = time.perf_counter()
        mujoco.mj_step(model, data, _CALIBRATION_STEPS * self.suite.substeps)
        return (time.perf_counter() - start) / _CALIBRATION_STEPS * 1e6


def _keep_batches() -> None:
    """In a child of fork, where a Batch's end would wait for threads that are not there."""
    for batch in _batches:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(batch))


os.register_at_fork(after_in_child=_keep_batches)
