"""MJX under jit: the engine for accelerators, one compiled call a vector step.

A control step runs MJX's public stages in dm_control's order (step2, then step1), so that what a
task reads belongs to the new state; ``mjx.step`` would leave it one substep behind. Observation,
reward, time limit, NaN guard and auto-reset are part of the same compiled call.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from mujoco import mjx

from fastsac.envs.compilation_cache import compile_notice
from fastsac.envs.dlpack import to_jax, to_torch
from fastsac.envs.engines import Step
from fastsac.envs.engines.mjx_model import Indexed, edited, held_fields, solve, step1, step2
from fastsac.envs.initial_states import InitialStates
from fastsac.envs.outcome import endings, observation, outcome
from fastsac.envs.suite import SENSORS, STATE, Suite

# Worlds reset together, a share of all: resetting runs the position stage once more, and with
# spread episode clocks one world in a thousand ends per step.
_RESET_SHARE = 64
# Pool rows that are renewed together.
_SLAB = 64
# XLA's arguments, results and temporaries of a step, in sizes of a world's mjx.Data: a guess on the
# safe side until a GPU has measured it.
_COPIES_OF_A_WORLD = 8


class _Worlds(NamedTuple):
    """The device state of all worlds (leading axis B) and of the initial-state pool (P)."""

    data: mjx.Data
    model_fields: dict[str, jax.Array]  # those that are per world, (B, ...)
    clocks: jax.Array  # (B,) int32, control steps since the episode began
    rows: jax.Array  # (B,) int32, the pool row that the episode began with
    pool: dict[str, jax.Array]  # (P, ...)
    filled: jax.Array  # () int32, the pool's rows so far
    taken: jax.Array  # () int32, rows used so far


_COUNTS = ("clocks", "rows", "filled", "taken")  # of the worlds and the pool, int32


class MjxEngine:
    """Steps num_envs worlds with MJX on jax's default device.

    Args:
        suite: the task and its constants.
        num_envs: the number of worlds.
        fast: take the task's fast solver budget instead of the faithful one.

    Raises:
        NotImplementedError: MJX cannot hold this model; the message says why.
    """

    name = "mjx"

    def __init__(self, suite: Suite, num_envs: int, fast: bool = False):
        if suite.task.mjx_refusal:
            raise NotImplementedError(suite.task.mjx_refusal)
        self.suite = suite
        self.warnings: dict[str, int] = {}  # MJX gives none
        self._num_envs = num_envs
        self._jax_device = jax.devices()[0]
        self.device = torch.device("cuda" if self._jax_device.platform == "gpu" else "cpu")
        self._dtype = jnp.zeros(()).dtype
        solver = suite.task.fast_solver if fast else suite.task.solver
        self._model = mjx.put_model(
            edited(suite.model, solver if self._dtype == jnp.float32 else None)
        )
        self._model_fields = held_fields(self._model, suite)
        # Room for all worlds to reset at once before the rows they used last are renewed, so that
        # no row is used twice. It starts half full: drawing is what a reset costs.
        self._pool_rows = (math.ceil(2 * num_envs / _SLAB) + 3) * _SLAB
        self._written = 0
        self._source: InitialStates | None = None
        self._worlds: _Worlds | None = None
        self._steps_until_renewal = 0
        self._pending: Any = None

        self._start = jax.jit(self._start_worlds)
        self._step = jax.jit(self._step_worlds, donate_argnums=0)
        self._set = jax.jit(self._set_worlds, donate_argnums=0)
        self._renew = jax.jit(_renew_rows, donate_argnums=0)
        self.obs_dim = suite.obs_dim

    @property
    def compile_notice(self) -> str:
        """See Engine.compile_notice."""
        return compile_notice(self.suite.task.domain)

    @property
    def reset_bytes(self) -> int:
        """Of the device's memory that reset and step will take, about."""
        world = jax.eval_shape(self._blank)
        size = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(world))
        return self._num_envs * size * _COPIES_OF_A_WORLD

    def reset(self, seed: int, clocks: np.ndarray) -> torch.Tensor:
        """See Engine.reset."""
        self.close()
        self._source = InitialStates(self.suite, seed)
        self._written = (math.ceil(self._num_envs / _SLAB) + 2) * _SLAB
        rows = self._cast(self._source.take(self._written))
        empty = self._pool_rows - self._written
        pool = {k: jnp.pad(v, [(0, empty)] + [(0, 0)] * (v.ndim - 1)) for k, v in rows.items()}
        self._steps_until_renewal = self._renewal_interval
        ages = self._put(clocks.astype(np.int32))
        filled = self._put(np.array(self._written, np.int32))
        self._worlds, obs = self._start(pool, ages, filled)
        return to_torch(obs)

    def send(self, action: torch.Tensor, overlap: bool = True) -> None:
        """See Engine.send."""
        if self.suite.task.terminate:
            self._renew_used_rows()
        # A copy: the caller may write to its tensor while the step still runs.
        self._worlds, self._pending = self._step(self._worlds, to_jax(action.clone()))
        self._steps_until_renewal -= 1
        if self._steps_until_renewal == 0 and not self.suite.task.terminate:
            self._renew_pool()

    def recv(self) -> Step:
        """See Engine.recv."""
        return Step(*map(to_torch, self._pending))

    def get_state(self) -> dict[str, torch.Tensor]:
        """See Engine.get_state; in jax's default float type."""
        return {k: to_torch(v) for k, v in self._current_rows().items()}

    def set_state(self, state: dict[str, np.ndarray]) -> torch.Tensor:
        """See Engine.set_state."""
        rows = self._current_rows() | self._cast(state)
        self._worlds, obs = self._set(self._worlds, rows)
        return to_torch(obs)

    def state_dict(self) -> dict[str, Any]:
        """See Engine.state_dict; the state goes on to float rounding, not to the last bit."""
        assert self._worlds and self._source, "reset comes first"
        worlds = self._worlds
        return {
            "state": _on_cpu(self._current_rows()),
            "pool": _on_cpu(worlds.pool),
            "counts": _on_cpu({k: getattr(worlds, k) for k in _COUNTS}),
            "written": self._written,
            "steps_until_renewal": self._steps_until_renewal,
            "initial_states": self._source.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See Engine.load_state_dict."""
        self.close()
        self._source = InitialStates(self.suite, **state["initial_states"])
        self._written = state["written"]
        self._steps_until_renewal = state["steps_until_renewal"]
        counts = {k: self._put(v.numpy()) for k, v in state["counts"].items()}
        pool = self._cast({k: v.numpy() for k, v in state["pool"].items()})
        worlds, _ = self._start(pool, counts["clocks"], counts["filled"])
        rows = self._cast({k: v.numpy() for k, v in state["state"].items()})
        self._worlds, _ = self._set(worlds._replace(**counts), rows)

    def check(self) -> None:
        """See Engine.check."""
        if self._source:
            self._source.check()

    def close(self) -> None:
        """See Engine.close."""
        if self._source:
            self._source.close()

    def _current_rows(self) -> dict[str, jax.Array]:
        """Copies of the fields of a state: the originals are donated to the next step."""
        assert self._worlds, "reset comes first"
        state = {k: getattr(self._worlds.data, k) for k in STATE}
        return {k: jnp.array(v) for k, v in (state | self._worlds.model_fields).items()}

    # Host side of the pool.

    @property
    def _renewal_interval(self) -> int:
        """Steps in which the worlds together use up about one slab of rows."""
        return max(1, _SLAB * self.suite.max_episode_steps // self._num_envs)

    def _renew_pool(self) -> None:
        """Renews what the time limit uses up in an interval, without asking the device."""
        self._renew_slabs(math.ceil(self._num_envs / self.suite.max_episode_steps / _SLAB))
        self._steps_until_renewal = self._renewal_interval

    def _renew_used_rows(self) -> None:
        """Keeps a row for each world ahead; waits for the last step in order to know how many."""
        assert self._worlds
        ahead = self._written - int(self._worlds.taken)
        self._renew_slabs(math.ceil(max(0, self._num_envs + _SLAB - ahead) / _SLAB))

    def _renew_slabs(self, count: int) -> None:
        """Fills the pool, then overwrites the oldest rows."""
        assert self._source and self._worlds
        if not count:
            return
        pool = self._worlds.pool
        for _ in range(count):
            start = self._written % self._pool_rows
            pool = self._renew(pool, self._cast(self._source.take(_SLAB)), start)
            self._written += _SLAB
        filled = self._put(np.array(min(self._written, self._pool_rows), np.int32))
        self._worlds = self._worlds._replace(pool=pool, filled=filled)

    def _cast(self, rows: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        return {
            k: self._put(v.astype(self._dtype))
            for k, v in rows.items()
            if k in (*STATE, SENSORS, *self._model_fields)
        }

    def _put(self, value: np.ndarray) -> jax.Array:
        # Committed to the device, as the actions that come through DLPack are: a step that saw the
        # one and then the other would be looked up twice in jit's cache.
        return jax.device_put(value, self._jax_device)

    # One world, traced.

    def _blank(self) -> mjx.Data:
        return mjx.make_data(self._model)

    def _with(self, fields: dict[str, jax.Array]) -> mjx.Model:
        if not fields:
            return self._model
        constants = {k: getattr(self._model, k) for k in fields}
        return self._model.replace(
            **{
                k: v if isinstance(constants[k], jax.Array) else Indexed(constants[k], v)
                for k, v in fields.items()
            }
        )

    def _fields(self, row: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {k: row[k] for k in self._model_fields}

    def _observe(self, data: mjx.Data, fields: dict[str, jax.Array]) -> jax.Array:
        return observation(self.suite.task, self.suite.model, data, fields)

    def _initial(self, row: dict[str, jax.Array]) -> tuple[mjx.Data, jax.Array]:
        """Returns a world at an initial state, nothing of its past left, and its observation.

        A row of dm_control's brings the sensors that depend on forces; without them the forces
        are solved for, which costs about as much as a physics step, to compile as well.
        """
        fields = self._fields(row)
        model = self._with(fields)
        data = self._blank().replace(**{k: row[k] for k in STATE})
        data = step1(model, data)
        if SENSORS in row:
            data = data.replace(qacc=row["qacc_warmstart"], sensordata=row[SENSORS])
        else:
            data = solve(model, data, actuated=False)
            data = data.replace(qacc_warmstart=row["qacc_warmstart"])
        return data, self._observe(data, fields)

    def _control_step(self, data: mjx.Data, fields: dict[str, jax.Array], action: jax.Array) -> Any:
        model = self._with(fields)
        data = data.replace(ctrl=self.suite.control(action.astype(self._dtype)))
        substep = lambda _, data: step1(model, step2(model, data))  # noqa: E731
        data = jax.lax.fori_loop(0, self.suite.substeps, substep, data)
        return data, outcome(self.suite.task, self.suite.model, data, fields)

    # All worlds, traced.

    def _start_worlds(
        self, pool: dict[str, jax.Array], clocks: jax.Array, filled: jax.Array
    ) -> Any:
        rows = {k: v[: self._num_envs] for k, v in pool.items()}
        data, obs = jax.vmap(self._initial)(rows)
        worlds = _Worlds(
            data=data,
            model_fields=self._fields(rows),
            clocks=clocks,
            rows=jnp.arange(self._num_envs, dtype=jnp.int32),
            pool=pool,
            filled=filled,
            taken=jnp.int32(self._num_envs),
        )
        return worlds, obs

    def _set_worlds(self, worlds: _Worlds, rows: dict[str, jax.Array]) -> Any:
        data, obs = jax.vmap(self._initial)(rows)
        return worlds._replace(data=data, model_fields=self._fields(rows)), obs

    def _step_worlds(self, worlds: _Worlds, action: jax.Array) -> Any:
        data, result = jax.vmap(self._control_step)(worlds.data, worlds.model_fields, action)
        clocks = worlds.clocks + 1
        terminated, truncated, done = endings(result, clocks, self.suite.max_episode_steps)
        worlds = worlds._replace(data=data, clocks=clocks)
        worlds, obs = self._reset_where(done, worlds, result.obs)
        step = (obs, result.obs, result.reward, terminated, truncated, ~result.valid, done)
        return worlds, step

    def _reset_where(self, done: jax.Array, worlds: _Worlds, obs: jax.Array) -> Any:
        """Resets the worlds that are done, a fixed number at a time, until none is left."""
        batch = max(1, self._num_envs // _RESET_SHARE)

        def reset_some(carry: Any) -> Any:
            pending, worlds, obs = carry
            # Slots without a world get an index past the end, and their writes are dropped.
            index = jnp.nonzero(pending, size=batch, fill_value=self._num_envs)[0]
            at = (worlds.taken + jnp.arange(batch, dtype=jnp.int32)) % worlds.filled
            # Only where worlds diverge so fast that the pool goes round before it is renewed.
            again = at == worlds.rows.at[index].get(mode="fill", fill_value=-1)
            at = jnp.where(again, (at + 1) % worlds.filled, at)
            rows = {k: v[at] for k, v in worlds.pool.items()}
            fresh, first_obs = jax.vmap(self._initial)(rows)
            put = lambda old, new: old.at[index].set(new, mode="drop")  # noqa: E731
            taken = (index < self._num_envs).sum(dtype=jnp.int32)
            worlds = worlds._replace(
                data=jax.tree.map(put, worlds.data, fresh),
                model_fields=jax.tree.map(put, worlds.model_fields, self._fields(rows)),
                clocks=put(worlds.clocks, 0),
                rows=put(worlds.rows, at),
                taken=worlds.taken + taken,
            )
            return put(pending, False), worlds, put(obs, first_obs)

        _, worlds, obs = jax.lax.while_loop(
            lambda carry: carry[0].any(), reset_some, (done, worlds, obs)
        )
        return worlds, obs


def _on_cpu(arrays: dict[str, jax.Array]) -> dict[str, torch.Tensor]:
    """Returns copies: jax refuses to donate what torch has a view of."""
    return {k: torch.from_numpy(np.array(v)) for k, v in arrays.items()}


def _renew_rows(
    pool: dict[str, jax.Array], rows: dict[str, jax.Array], start: int
) -> dict[str, jax.Array]:
    put = partial(jax.lax.dynamic_update_slice_in_dim, start_index=start, axis=0)
    return {k: put(v, rows[k]) for k, v in pool.items()}
