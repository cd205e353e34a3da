"""C MuJoCo in a thread pool: the engine for machines without a GPU, and MJX's reference.

A world steps exactly as dm_control steps it: mj_step2 then mj_step1, so that everything derived
belongs to the new state. Observation and reward are the task's own functions, vmapped, jitted and
evaluated in float64 on arrays gathered from the worlds.
"""

import collections
import copy
import logging
import os
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import mujoco
import numpy as np
import torch

from fastsac.envs.dlpack import to_torch
from fastsac.envs.engines import Step
from fastsac.envs.initial_states import InitialStates, Rows
from fastsac.envs.outcome import observation, outcome
from fastsac.envs.suite import STATE, Suite

_WARNINGS = [n.removeprefix("mjWARN_").lower() for n in list(mujoco.mjtWarning.__members__)[:-1]]
_DIVERGED = [_WARNINGS.index(kind) for kind in ("badctrl", "badqpos", "badqvel", "badqacc")]
_THREADS = "native-engine"
# Below this many microseconds a call, handing the interpreter's lock between threads costs more
# than the second core brings (2 cores, 64 worlds: reacher 1.4 us 0.6x, cheetah 3.3 us 0.9x,
# cartpole 7 us 1.3x, walker 35 us 1.8x).
_WORTH_A_THREAD_US = 5.0
_CALIBRATION_STEPS = 30


class NativeEngine:
    """Steps num_envs worlds on the CPU.

    Args:
        suite: the task and its constants.
        num_envs: the number of worlds.
        num_threads: worker threads; None takes every core, or one where calls are so short that
            threads would only wait for each other. Results do not depend on it.
    """

    name = "native"

    def __init__(self, suite: Suite, num_envs: int, num_threads: int | None = None):
        self.suite = suite
        self.device = torch.device("cpu")
        self._num_envs = num_envs
        self._datas = [mujoco.MjData(suite.model) for _ in range(num_envs)]
        self._ctrl = [data.ctrl for data in self._datas]
        self._rk4 = suite.model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4
        cores = len(os.sched_getaffinity(0))
        threads = num_threads or (cores if self._call_us() > _WORTH_A_THREAD_US else 1)
        threads = min(threads, num_envs)
        # Fields that are per world are rows here, written into a thread's model before each world.
        self._rows: Rows = {
            k: np.repeat(getattr(suite.model, k)[None], num_envs, axis=0)
            for k in suite.model_fields
        }
        self._models = [copy.copy(suite.model) for _ in range(threads)]
        bounds = np.linspace(0, num_envs, threads + 1).astype(int)
        self._slices = list(zip(bounds[:-1], bounds[1:], strict=True))
        self._workers = ThreadPoolExecutor(threads, thread_name_prefix=_THREADS)
        self._pending: list[Future[None]] = []
        self._pool: InitialStates | None = None
        self._clocks = np.zeros(num_envs, np.int64)

        self.warnings: collections.Counter[str] = collections.Counter()
        self._warning_numbers = [data.warning.number for data in self._datas]
        self._warned_before = np.stack(self._warning_numbers)
        # dm_control logs each of MuJoCo's warnings; those of the engine's threads are counted here.
        logging.getLogger("absl").addFilter(_not_from_an_engine)

        fields, model_fields = self._read_fields()
        self._fields = _GatheredFields(self._datas, fields)
        self._read_rows = {k: self._rows[k] for k in sorted(model_fields)}
        self._outcome = self._compile(outcome)
        self._observation = self._compile(observation)
        self.obs_dim = int(self._observe().shape[1])

    def reset(self, seed: int, clocks: np.ndarray) -> torch.Tensor:
        """See Engine.reset."""
        if self._pool:
            self._pool.close()
        self._pool = InitialStates(self.suite, seed)
        self._clocks[:] = clocks
        self._initialise(np.arange(self._num_envs), self._pool.take(self._num_envs))
        return self._observe()

    def send(self, action: torch.Tensor) -> None:
        """See Engine.send."""
        control = self.suite.control(action.numpy().astype(np.float64))
        self._pending = [
            self._workers.submit(self._step_slice, model, low, high, control)
            for model, (low, high) in zip(self._models, self._slices, strict=True)
        ]

    def recv(self) -> Step:
        """See Engine.recv."""
        pending, self._pending = self._pending, []
        wait(pending)
        for future in pending:
            future.result()
        obs, reward, terminated, valid = map(to_torch, self._outcome(self._fields.gather()))
        warned = self._count_warnings()
        invalid = ~valid | torch.from_numpy(warned)
        if warned.any():  # the state is MuJoCo's reset one, finite but not the step's result
            obs, reward = obs.masked_fill(invalid[:, None], 0), reward.masked_fill(invalid, 0)
        self._clocks += 1
        time_up = torch.from_numpy(self._clocks >= self.suite.max_episode_steps)
        truncated = time_up | invalid
        terminated = terminated & ~truncated
        return Step(
            obs=self._reset_where(terminated | truncated, obs),
            final_obs=obs,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            invalid=invalid,
        )

    def initial_states(self) -> dict[str, int]:
        """See Engine.initial_states."""
        return self._pool.state_dict() if self._pool else {}

    def get_state(self) -> dict[str, torch.Tensor]:
        """See Engine.get_state; float64."""
        state = {k: np.stack([getattr(d, k) for d in self._datas]) for k in STATE}
        return {k: torch.from_numpy(v.copy()) for k, v in (state | self._rows).items()}

    def set_state(self, state: Rows) -> torch.Tensor:
        """See Engine.set_state."""
        current = {k: v.numpy() for k, v in self.get_state().items()}
        self._initialise(np.arange(self._num_envs), current | state)
        return self._observe()

    def close(self) -> None:
        """See Engine.close."""
        self._workers.shutdown(wait=True)
        if self._pool:
            self._pool.close()

    def _step_slice(self, model: mujoco.MjModel, low: int, high: int, control: np.ndarray) -> None:
        substeps, rk4 = self.suite.substeps, self._rk4
        mj_step, mj_step1, mj_step2 = mujoco.mj_step, mujoco.mj_step1, mujoco.mj_step2
        overrides = [(getattr(model, k), rows) for k, rows in self._rows.items()]
        for i in range(low, high):
            data = self._datas[i]
            for field, rows in overrides:
                field[...] = rows[i]
            self._ctrl[i][:] = control[i]
            if rk4:
                mj_step(model, data, substeps)
            else:
                mj_step2(model, data)
                if substeps > 1:
                    mj_step(model, data, substeps - 1)
            mj_step1(model, data)

    def _reset_where(self, done: torch.Tensor, obs: torch.Tensor) -> torch.Tensor:
        worlds = np.flatnonzero(done.numpy())
        if not worlds.size:
            return obs.clone()  # not the memory of final_obs
        assert self._pool, "reset comes before step"
        self._initialise(worlds, self._pool.take(worlds.size))
        self._clocks[worlds] = 0
        return torch.where(done[:, None], self._observe(), obs)

    def _initialise(self, worlds: np.ndarray, rows: Rows) -> None:
        """Puts rows[k] into world worlds[k], nothing of its past left, as dm_control resets."""
        model = self._models[0]
        flags = model.opt.disableflags
        model.opt.disableflags = flags | mujoco.mjtDisableBit.mjDSBL_ACTUATION
        for k, i in enumerate(worlds):
            data = self._datas[i]
            mujoco.mj_resetData(model, data)
            for name, values in self._rows.items():
                values[i] = rows[name][k]
                getattr(model, name)[...] = values[i]
            for name in STATE:
                getattr(data, name)[:] = rows[name][k]
            mujoco.mj_forward(model, data)
            data.qacc_warmstart[:] = rows["qacc_warmstart"][k]
            self._warned_before[i] = data.warning.number
        model.opt.disableflags = flags

    def _count_warnings(self) -> np.ndarray:
        """Counts MuJoCo's new warnings, reports a kind's first, and returns (B,) who diverged."""
        numbers = np.stack(self._warning_numbers)
        new = numbers - self._warned_before
        if not new.any():
            return np.zeros(self._num_envs, bool)
        self._warned_before = numbers
        for kind, count in zip(_WARNINGS, new.sum(axis=0).tolist(), strict=True):
            if count and kind not in self.warnings:
                logging.getLogger("fastsac").warning(
                    "%s: MuJoCo warns of %s in world %d; the count goes on in env.warnings",
                    self.suite.task.full_name,
                    kind,
                    int(new[:, _WARNINGS.index(kind)].argmax()),
                )
            self.warnings[kind] += count
        self.warnings = +self.warnings
        return new[:, _DIVERGED].any(axis=1)

    def _observe(self) -> torch.Tensor:
        return to_torch(self._observation(self._fields.gather()))

    def _compile(self, function: Any) -> Any:
        """Returns the function of a world for all, on the CPU in float64."""
        bound = partial(function, self.suite.task, self.suite.model)
        compiled = jax.jit(jax.vmap(lambda fields, rows: bound(SimpleNamespace(**fields), rows)))
        cpu = jax.devices("cpu")[0]  # also where jax's default device is a GPU

        def evaluate(fields: Rows) -> Any:
            with jax.enable_x64(True), jax.default_device(cpu):
                return compiled(fields, self._read_rows)

        return evaluate

    def _read_fields(self) -> tuple[set[str], set[str]]:
        """Returns what the task reads of data and of the model's rows, found by running it once."""
        data = _Recorder(self._datas[0])
        model_fields = _RecordedRows({k: v[0] for k, v in self._rows.items()})
        outcome(self.suite.task, self.suite.model, data, model_fields)
        return data.names, model_fields.names

    def _call_us(self) -> float:
        """Measures the microseconds of one call into MuJoCo, on a world that stays untouched."""
        model, data = self.suite.model, mujoco.MjData(self.suite.model)
        mujoco.mj_forward(model, data)
        start = time.perf_counter()
        for _ in range(_CALIBRATION_STEPS):
            mujoco.mj_step(model, data, self.suite.substeps)
        calls = 1 if self._rk4 else 2
        return (time.perf_counter() - start) / _CALIBRATION_STEPS / calls * 1e6


def _shaped(name: str, value: np.ndarray) -> np.ndarray:
    """Gives rotation matrices MJX's shape (n, 3, 3)."""
    return value.reshape(-1, 3, 3) if name.endswith("mat") else value


class _Recorder:
    """Hands out one world's fields and notes which were asked for."""

    def __init__(self, data: mujoco.MjData):
        self._data, self.names = data, set[str]()

    def __getattr__(self, name: str) -> jax.Array:
        self.names.add(name)
        return jax.numpy.asarray(_shaped(name, np.asarray(getattr(self._data, name))))


class _RecordedRows(dict[str, np.ndarray]):
    """One world's model fields; notes which were asked for."""

    def __init__(self, fields: Rows):
        super().__init__(fields)
        self.names = set[str]()

    def __getitem__(self, name: str) -> np.ndarray:
        self.names.add(name)
        return super().__getitem__(name)


class _GatheredFields:
    """Copies of some fields of all worlds, each stacked in one array (B, ...)."""

    def __init__(self, datas: list[mujoco.MjData], names: set[str]):
        self._stacked, self._copies = {}, []
        for name in sorted(names):
            views = [getattr(data, name) for data in datas]
            flat = np.empty(len(datas) * views[0].size, views[0].dtype)
            self._stacked[name] = flat.reshape(len(datas), *_shaped(name, views[0]).shape)
            self._copies.append(([view.reshape(-1) for view in views], flat))

    def gather(self) -> Rows:
        """Refreshes and returns the arrays; the next call overwrites them."""
        for views, flat in self._copies:
            np.concatenate(views, out=flat)
        return self._stacked


def _not_from_an_engine(record: logging.LogRecord) -> bool:
    return not (record.threadName or "").startswith(_THREADS)
