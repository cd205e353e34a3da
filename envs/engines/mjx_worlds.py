"""What MJX's compiled calls do: initial states, a control step of all worlds, and their resets.

A control step runs MJX's public stages in dm_control's order (step2, then step1), so that what a
task reads belongs to the new state; ``mjx.step`` would leave it one substep behind. Observation,
reward, time limit, NaN guard and auto-reset are part of the same call.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from mujoco import mjx

from fastsac.envs.c_fields import read_fields
from fastsac.envs.engines.mjx_model import edited, held_fields, solve, step1, step2, with_fields
from fastsac.envs.outcome import endings, observation, outcome
from fastsac.envs.suite import SENSORS, Suite

# Worlds reset together, a share of all: resetting runs the position stage once more, and with
# spread episode clocks one world in a thousand ends per step.
_RESET_SHARE = 64


class Worlds(NamedTuple):
    """The device state of all worlds (leading axis B) and of the initial-state pool (P)."""

    data: mjx.Data
    model_fields: dict[str, jax.Array]  # those that are per world, (B, ...)
    clocks: jax.Array  # (B,) int32, control steps since the episode began
    rows: jax.Array  # (B,) int32, the pool row that the episode began with
    pool: dict[str, jax.Array]  # (P, ...)
    filled: jax.Array  # () int32, the pool's rows so far
    taken: jax.Array  # () int32, rows used so far


class TracedWorlds:
    """The functions of a task that jit compiles; they hold no state.

    Args:
        suite: the task and its constants.
        num_envs: the number of worlds.
        fast: take the task's fast solver budget instead of the faithful one.

    Attributes:
        autoreset: see Engine; read when a step is traced.
    """

    autoreset = True

    def __init__(self, suite: Suite, num_envs: int, fast: bool):
        self.suite, self._num_envs = suite, num_envs
        self._dtype = jnp.zeros(()).dtype
        budget = suite.task.fast_solver if fast else suite.task.solver
        solver = budget if self._dtype == jnp.float32 else None
        self._model = mjx.put_model(edited(suite.model, solver, suite.model_fields), impl="jax")
        self._model_fields = held_fields(self._model, suite)
        blank, (read, _) = jax.eval_shape(self._blank), read_fields(suite)
        if lacking := [name for name in sorted(read) if not hasattr(blank, name)]:
            raise NotImplementedError(f"it has no {lacking[0]}, which the task reads")

    def _blank(self) -> mjx.Data:
        return mjx.make_data(self._model)

    def _with(self, fields: dict[str, jax.Array]) -> mjx.Model:
        return with_fields(self._model, fields) if fields else self._model

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
        blank = self._blank()
        state = {k: row[k].astype(getattr(blank, k).dtype) for k in self.suite.state_fields}
        data = step1(model, blank.replace(**state))
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

    def _start_worlds(
        self, pool: dict[str, jax.Array], clocks: jax.Array, filled: jax.Array
    ) -> Any:
        rows = {k: v[: self._num_envs] for k, v in pool.items()}
        data, obs = jax.vmap(self._initial)(rows)
        worlds = Worlds(
            data=data,
            model_fields=self._fields(rows),
            clocks=clocks,
            rows=jnp.arange(self._num_envs, dtype=jnp.int32),
            pool=pool,
            filled=filled,
            taken=jnp.int32(self._num_envs),
        )
        return worlds, obs

    def _set_worlds(self, worlds: Worlds, rows: dict[str, jax.Array]) -> Any:
        data, obs = jax.vmap(self._initial)(rows)
        return worlds._replace(data=data, model_fields=self._fields(rows)), obs

    def _restart_worlds(self, worlds: Worlds, which: jax.Array) -> Any:
        obs = jax.vmap(self._observe)(worlds.data, worlds.model_fields)
        return self._reset_where(which, worlds, obs)

    def _step_worlds(self, worlds: Worlds, action: jax.Array) -> Any:
        data, result = jax.vmap(self._control_step)(worlds.data, worlds.model_fields, action)
        clocks = worlds.clocks + 1
        terminated, truncated, done = endings(result, clocks, self.suite.max_episode_steps)
        worlds, obs = worlds._replace(data=data, clocks=clocks), result.obs
        if self.autoreset:
            worlds, obs = self._reset_where(done, worlds, obs)
        step = (obs, result.obs, result.reward, terminated, truncated, result.fault, done)
        return worlds, step

    def _reset_where(self, done: jax.Array, worlds: Worlds, obs: jax.Array) -> Any:
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
