"""MJX under jit: the engine for accelerators, one compiled call a vector step.

A control step runs MJX's public stages in dm_control's order (step2, then step1), so that what a
task reads belongs to the new state; ``mjx.step`` would leave it one substep behind. Observation,
reward, time limit, NaN guard and auto-reset are part of the same compiled call.
"""

import copy
import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import torch
from mujoco import mjx

from fastsac.envs.dlpack import to_jax, to_torch
from fastsac.envs.engines import Step
from fastsac.envs.initial_states import CHUNK, InitialStates
from fastsac.envs.outcome import observation, outcome
from fastsac.envs.suite import Suite

# Worlds reset together, a share of all: resetting runs the position stage once more, and with
# spread episode clocks one world in a thousand ends per step.
_RESET_SHARE = 64


class _Worlds(NamedTuple):
    """The device state of all worlds (leading axis B) and of the initial-state pool (P)."""

    data: mjx.Data
    model_fields: dict[str, jax.Array]  # the randomised ones, (B, ...)
    clocks: jax.Array  # (B,) int32, control steps since the episode began
    pool: dict[str, jax.Array]  # (P, ...)
    cursor: jax.Array  # () int32, the next pool row


class MjxEngine:
    """Steps num_envs worlds with MJX on jax's default device.

    Args:
        suite: the task and its constants.
        num_envs: the number of worlds.

    Raises:
        NotImplementedError: MJX cannot hold this model; the message is MJX's.
    """

    name = "mjx"

    def __init__(self, suite: Suite, num_envs: int):
        self.suite = suite
        self._num_envs = num_envs
        self._jax_device = jax.devices()[0]
        self.device = torch.device("cuda" if self._jax_device.platform == "gpu" else "cpu")
        self._dtype = jnp.zeros(()).dtype
        self._model = mjx.put_model(_edited(suite.model, single=self._dtype == jnp.float32))
        # Room for all worlds to reset at once before the rows they used last are renewed, so that
        # no row is used twice.
        self._pool_rows = (math.ceil(2 * num_envs / CHUNK) + 1) * CHUNK
        self._slab = 0
        self._source: InitialStates | None = None
        self._worlds: _Worlds | None = None
        self._steps_until_renewal = 0
        self._pending: Any = None

        self._start = jax.jit(self._start_worlds)
        self._step = jax.jit(self._step_worlds, donate_argnums=0)
        self._set = jax.jit(self._set_worlds, donate_argnums=0)
        self._renew = jax.jit(_renew_rows, donate_argnums=0)
        shapes = jax.eval_shape(lambda: self._observe(self._blank()))
        self.obs_dim = int(shapes.shape[0])

    def reset(self, seed: int, clocks: np.ndarray) -> torch.Tensor:
        """See Engine.reset."""
        self.close()
        self._source = InitialStates(self.suite, seed)
        pool = self._cast(self._source.take(self._pool_rows))
        self._slab = 0
        self._steps_until_renewal = self._renewal_interval
        self._worlds, obs = self._start(pool, jnp.asarray(clocks, jnp.int32))
        return to_torch(obs)

    def send(self, action: torch.Tensor) -> None:
        """See Engine.send."""
        # A copy: the caller may write to its tensor while the step still runs.
        self._worlds, self._pending = self._step(self._worlds, to_jax(action.clone()))
        self._steps_until_renewal -= 1
        if self._steps_until_renewal == 0:
            self._renew_pool()

    def recv(self) -> Step:
        """See Engine.recv."""
        return Step(*map(to_torch, self._pending))

    def initial_states(self) -> dict[str, int]:
        """See Engine.initial_states."""
        return self._source.state_dict() if self._source else {}

    def get_state(self) -> dict[str, torch.Tensor]:
        """See Engine.get_state; in jax's default float type."""
        return {k: to_torch(v) for k, v in self._current_rows().items()}

    def set_state(self, state: dict[str, np.ndarray]) -> torch.Tensor:
        """See Engine.set_state."""
        rows = self._current_rows() | self._cast(state)
        self._worlds, obs = self._set(self._worlds, rows)
        return to_torch(obs)

    def close(self) -> None:
        """See Engine.close."""
        if self._source:
            self._source.close()

    def _current_rows(self) -> dict[str, jax.Array]:
        """Copies of the fields of a state: the originals are donated to the next step."""
        assert self._worlds, "reset comes first"
        data = self._worlds.data
        state = {"qpos": data.qpos, "qvel": data.qvel, "act": data.act}
        return {k: jnp.array(v) for k, v in (state | self._worlds.model_fields).items()}

    # Host side of the pool.

    @property
    def _renewal_interval(self) -> int:
        """Steps in which the worlds together use up about one chunk of rows."""
        return max(1, CHUNK * self.suite.max_episode_steps // self._num_envs)

    def _renew_pool(self) -> None:
        """Overwrites the oldest rows; more than one chunk where a step uses more than one."""
        assert self._source and self._worlds
        pool = self._worlds.pool
        for _ in range(math.ceil(self._num_envs / self.suite.max_episode_steps / CHUNK)):
            pool = self._renew(pool, self._cast(self._source.take(CHUNK)), self._slab * CHUNK)
            self._slab = (self._slab + 1) % (self._pool_rows // CHUNK)
        self._worlds = self._worlds._replace(pool=pool)
        self._steps_until_renewal = self._renewal_interval

    def _cast(self, rows: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        # Committed to the device, as the actions that come through DLPack are: a step that saw the
        # one and then the other would be looked up twice in jit's cache.
        return {k: jax.device_put(v.astype(self._dtype), self._jax_device) for k, v in rows.items()}

    # One world, traced.

    def _blank(self) -> mjx.Data:
        return mjx.make_data(self._model)

    def _with(self, fields: dict[str, jax.Array]) -> mjx.Model:
        return self._model.replace(**fields) if fields else self._model

    def _observe(self, data: mjx.Data) -> jax.Array:
        return observation(self.suite.task, self.suite.model, data)

    def _initial(self, row: dict[str, jax.Array]) -> mjx.Data:
        """Returns a world at an initial state, nothing of its past left."""
        model = self._with({k: row[k] for k in self.suite.task.randomised})
        data = self._blank().replace(qpos=row["qpos"], qvel=row["qvel"], act=row["act"])
        return _solve(model, _step1(model, data), actuated=False)

    def _control_step(self, data: mjx.Data, fields: dict[str, jax.Array], action: jax.Array) -> Any:
        model = self._with(fields)
        data = data.replace(ctrl=self.suite.control(action.astype(self._dtype)))
        substep = lambda _, data: _step1(model, _step2(model, data))  # noqa: E731
        data = jax.lax.fori_loop(0, self.suite.substeps, substep, data)
        return data, outcome(self.suite.task, self.suite.model, data)

    # All worlds, traced.

    def _start_worlds(self, pool: dict[str, jax.Array], clocks: jax.Array) -> Any:
        rows = {k: v[: self._num_envs] for k, v in pool.items()}
        data = jax.vmap(self._initial)(rows)
        worlds = _Worlds(
            data=data,
            model_fields={k: rows[k] for k in self.suite.task.randomised},
            clocks=clocks,
            pool=pool,
            cursor=jnp.int32(self._num_envs),
        )
        return worlds, jax.vmap(self._observe)(data)

    def _set_worlds(self, worlds: _Worlds, rows: dict[str, jax.Array]) -> Any:
        data = jax.vmap(self._initial)(rows)
        fields = {k: rows[k] for k in self.suite.task.randomised}
        return worlds._replace(data=data, model_fields=fields), jax.vmap(self._observe)(data)

    def _step_worlds(self, worlds: _Worlds, action: jax.Array) -> Any:
        data, result = jax.vmap(self._control_step)(worlds.data, worlds.model_fields, action)
        clocks = worlds.clocks + 1
        truncated = (clocks >= self.suite.max_episode_steps) | ~result.valid
        terminated = result.terminated & ~truncated
        worlds = worlds._replace(data=data, clocks=clocks)
        worlds, obs = self._reset_where(terminated | truncated, worlds, result.obs)
        step = (obs, result.obs, result.reward, terminated, truncated, ~result.valid)
        return worlds, step

    def _reset_where(self, done: jax.Array, worlds: _Worlds, obs: jax.Array) -> Any:
        """Resets the worlds that are done, a fixed number at a time, until none is left."""
        batch = max(1, self._num_envs // _RESET_SHARE)

        def reset_some(carry: Any) -> Any:
            pending, worlds, obs = carry
            # Slots without a world get an index past the end, and their writes are dropped.
            index = jnp.nonzero(pending, size=batch, fill_value=self._num_envs)[0]
            at = (worlds.cursor + jnp.arange(batch, dtype=jnp.int32)) % self._pool_rows
            rows = {k: v[at] for k, v in worlds.pool.items()}
            fresh = jax.vmap(self._initial)(rows)
            put = lambda old, new: old.at[index].set(new, mode="drop")  # noqa: E731
            fields = {k: put(v, rows[k]) for k, v in worlds.model_fields.items()}
            taken = (index < self._num_envs).sum(dtype=jnp.int32)
            worlds = worlds._replace(
                data=jax.tree.map(put, worlds.data, fresh),
                model_fields=fields,
                clocks=worlds.clocks.at[index].set(0, mode="drop"),
                cursor=(worlds.cursor + taken) % self._pool_rows,
            )
            pending = pending.at[index].set(False, mode="drop")
            return pending, worlds, put(obs, jax.vmap(self._observe)(fresh))

        _, worlds, obs = jax.lax.while_loop(
            lambda carry: carry[0].any(), reset_some, (done, worlds, obs)
        )
        return worlds, obs


def _edited(model: mujoco.MjModel, single: bool) -> mujoco.MjModel:
    """Returns a copy of dm_control's model with the edits that MJX, and float32, need."""
    model = copy.copy(model)
    model.opt.enableflags &= ~int(mujoco.mjtEnableBit.mjENBL_ENERGY)
    if single:
        model.opt.iterations = 20
        model.opt.ls_iterations = 8
        model.opt.tolerance = 1e-6
    return model


def _renew_rows(
    pool: dict[str, jax.Array], rows: dict[str, jax.Array], start: int
) -> dict[str, jax.Array]:
    put = partial(jax.lax.dynamic_update_slice_in_dim, start_index=start, axis=0)
    return {k: put(v, rows[k]) for k, v in pool.items()}


def _step1(model: mjx.Model, data: mjx.Data) -> mjx.Data:
    """mj_step1: all that depends on position and velocity."""
    data = mjx.sensor_pos(model, mjx.fwd_position(model, data))
    return mjx.sensor_vel(model, mjx.fwd_velocity(model, data))


def _solve(model: mjx.Model, data: mjx.Data, actuated: bool = True) -> mjx.Data:
    """The acceleration stage of mj_forward; without actuators as dm_control resets."""
    flags = model.opt.disableflags
    if not actuated:
        off = flags | mjx.DisableBit.ACTUATION
        model = model.replace(opt=model.opt.replace(disableflags=off))
    data = mjx.fwd_acceleration(model, mjx.fwd_actuation(model, data))
    if data._impl.efc_J.size == 0:
        return data.replace(qacc=data.qacc_smooth)
    return mjx.sensor_acc(model, mjx.solve(model, data))


def _step2(model: mjx.Model, data: mjx.Data) -> mjx.Data:
    """mj_step2: accelerations from an up-to-date step1, then integration."""
    data = _solve(model, data)
    match model.opt.integrator:
        case mjx.IntegratorType.RK4:
            return mjx.rungekutta4(model, data)
        case mjx.IntegratorType.EULER:
            return mjx.euler(model, data)
        case mjx.IntegratorType.IMPLICITFAST:
            return mjx.implicit(model, data)
        case other:
            raise NotImplementedError(f"MJX has no integrator {other}; use --engine native")
