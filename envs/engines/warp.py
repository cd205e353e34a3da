"""MuJoCo Warp: an engine for GPUs, one CUDA graph a control step.

Warp's arrays are the state. jax evaluates the task's functions on views of that memory, resets
included, and torch copies what new episodes begin with back into it. On a GPU all of it is queued
on one stream of torch's, which jax's own waits for and is waited for by, event by event. The host
waits for the pool's next rows where they are late, and for the last step where a task ends episodes
early, to count the rows it took. On a CPU, where Warp serves tests, the same functions run at once.

The order of a vector step's events: the caller's stream, with its action and the controls (torch)
-> control step (Warp's graph) -> outcome (jax) -> results copied out, new episodes' states in
(torch) -> the caller's stream, at recv. Beside it runs what the caller queues between send and
recv: its updates.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import warp as wp

from fastsac.envs.c_fields import read_fields
from fastsac.envs.devices import jax_device, torch_device
from fastsac.envs.dlpack import to_jax, to_torch
from fastsac.envs.engines import Step
from fastsac.envs.engines.native import NativeEngine
from fastsac.envs.engines.packing import Packing
from fastsac.envs.engines.pool import SLAB, StatePool, pool_size
from fastsac.envs.engines.precision import in_float32
from fastsac.envs.engines.warp_physics import WarpPhysics
from fastsac.envs.initial_states import Rows
from fastsac.envs.model_fields import field
from fastsac.envs.outcome import endings, outcome
from fastsac.envs.suite import Suite


class WarpEngine:
    """Steps num_envs worlds with MuJoCo Warp on jax's default device.

    On a GPU contacts come in an order that differs from run to run, and float32 sums with it: a
    step is reproduced to rounding. On a CPU it is reproduced to the last bit.

    Args:
        suite: the task and its constants.
        num_envs: the number of worlds.
        fast: take the task's fast solver budget instead of the model's own.

    Raises:
        NotImplementedError: MuJoCo Warp cannot hold this model; the message says why.

    Attributes:
        physics: the worlds.
        warp_stream: what their steps run on; None on a CPU.
    """

    name = "warp"
    autoreset = True
    compile_notice = "compiling the physics, up to a minute; the next start reads it from a cache"

    def __init__(self, suite: Suite, num_envs: int, fast: bool = False):
        self.suite, self._num_envs = suite, num_envs
        self.obs_dim = suite.obs_dim
        where = jax_device()
        self.device = torch_device(where)
        wp.config.log_level = wp.LOG_WARNING
        wp.init()  # which streams need
        self._stream = self.warp_stream = None
        if self.device.type == "cuda":
            self._stream = torch.cuda.Stream(self.device)
            self.warp_stream = wp.stream_from_torch(self._stream)
        fields, model_fields = read_fields(suite)
        self._read_model_fields = sorted(model_fields)
        self.physics = WarpPhysics(suite, num_envs, fast, fields, wp.get_device(str(self.device)))
        self._step_memory, self._state_memory = self._layouts()
        with self.on_own_stream():  # on its device, whichever is current
            self._views = {k: to_jax(v) for k, v in self.physics.views.items()}
        copied = [k for k, v in self.physics.views.items() if not _shares(self._views[k], v)]
        self._reread = {"qpos", *copied}
        self._launch: Callable[[], None] | None = None
        self._clocks: jax.Array  # (B,) int32
        # (B, obs_dim), those of the last step: until the next one derived fields of worlds that
        # were reset are the old episode's.
        self._obs: jax.Array
        self._taken: jax.Array  # () int32, rows of the pool so far
        self._middle, self._half = (
            torch.from_numpy(v.astype(np.float32)).to(self.device) for v in suite.control_range
        )
        self._c_mujoco = NativeEngine(suite, SLAB, num_threads=1)  # observes initial states
        self._c_mujoco_is_used = threading.Lock()  # by the pool's thread and by set_state
        self._pool = StatePool(suite, num_envs, where, self._completed)
        self._finish = jax.jit(in_float32(self._finished))
        self._anew = jax.jit(in_float32(self._begun_anew))
        self._sent: Step | None = None
        self._lent: Any = ()
        self._reported: set[str] = set()

    @property
    def reset_bytes(self) -> int:
        """See Engine.reset_bytes: the pool and jax's results; Warp's arrays are there already."""
        physics, rows = self.physics, pool_size(self._num_envs) + 2 * self._num_envs
        numbers = self.obs_dim + sum(physics.views[k][0].numel() for k in physics.reset_fields)
        return rows * numbers * 4

    @property
    def warnings(self) -> dict[str, int]:
        """See Engine.warnings: in how many worlds a buffer was too small; waits for the device."""
        self._wait()
        return self.physics.overflows()

    def reset(self, seed: int, clocks: np.ndarray) -> torch.Tensor:
        """See Engine.reset."""
        self._drop()
        first = self._pool.begin(seed)
        self._begin(clocks.astype(np.int32), self._num_envs)
        return self._put(first)

    def restart(self, worlds: np.ndarray, seeds: Sequence[int] | None = None) -> torch.Tensor:
        """See Engine.restart."""
        assert seeds is None, "all worlds draw from one pool"
        with self.on_own_stream():
            self._pool.renew(lambda: int(self._taken), counted=True)
            fields, pool, filled = self._read(), self._pool.rows, self._pool.filled
            where, clocks = self._pool.put(worlds), self._clocks
            began = self._anew(where, self._obs, fields, clocks, pool, filled, self._taken)
            self._obs, state, self._clocks, self._taken = began
            copy = to_torch(self._obs).clone()
            self.physics.write(self._state_memory.unpack(state))
        self._wait()
        return copy

    def send(self, action: torch.Tensor, overlap: bool = True) -> None:
        """See Engine.send."""
        assert self._launch, "reset comes first"
        # On the caller's stream, behind the last step also where that is not recv's: its action may
        # be gone or written over as soon as this returns.
        if self._stream:
            torch.cuda.current_stream(self.device).wait_stream(self._stream)
        torch.addcmul(self._middle, self._half, action, out=self.physics.views["ctrl"])
        with self.on_own_stream():
            self._launch()
            self._sent = self._outcome()

    def recv(self) -> Step:
        """See Engine.recv."""
        assert self._sent, "send comes first"
        step, self._sent = self._sent, None
        if self._stream:
            current = torch.cuda.current_stream(self.device)
            current.wait_stream(self._stream)
            for tensor in step:
                tensor.record_stream(current)
        return step

    def clocks(self) -> torch.Tensor:
        """See Engine.clocks."""
        return torch.from_numpy(np.asarray(self._clocks, np.int64)).to(self.device)

    def get_state(self) -> dict[str, torch.Tensor]:
        """See Engine.get_state; float32."""
        state = self._state()
        names = (*self.suite.state_fields, *self.physics.model_fields)
        return {k: state[k].float() for k in names}

    def set_state(self, state: Rows) -> torch.Tensor:
        """See Engine.set_state; the observation is C MuJoCo's of the same state."""
        current = {k: v.cpu().numpy().astype(np.float64) for k, v in self.get_state().items()}
        return self._put(self._completed(current | state))

    def state_dict(self) -> dict[str, Any]:
        """See Engine.state_dict; on a GPU the state goes on to float rounding."""
        return {
            "state": {k: v.cpu() for k, v in self._state().items()},
            "clocks": torch.from_numpy(np.array(self._clocks)),
            "taken": int(self._taken),
            "pool": self._pool.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See Engine.load_state_dict."""
        self._drop()
        self._pool.load_state_dict(state["pool"])
        self._begin(state["clocks"].numpy(), state["taken"])
        self.physics.write(state["state"])
        current = {k: v.cpu().numpy().astype(np.float64) for k, v in self.get_state().items()}
        self._obs = self._pool.put(self._completed(current)["obs"])

    def check(self) -> None:
        """See Engine.check; logs once of each buffer that was too small."""
        self._pool.check()
        for kind in self.warnings.keys() - self._reported:
            self._reported.add(kind)
            logging.getLogger("fastsac").warning(
                "%s: MuJoCo Warp warns of %s: a buffer was too small and contacts were left out; "
                "env.warnings counts the worlds",
                self.suite.task.full_name,
                kind,
            )

    def close(self) -> None:
        """See Engine.close; a step under way is waited for and dropped."""
        self._drop()
        self._pool.close()

    def _drop(self) -> None:
        self._wait()
        self._sent, self._lent = None, ()

    def _begin(self, clocks: np.ndarray, taken: int) -> None:
        """Sets the counts; compiles a control step if that was not done yet."""
        self._clocks = self._pool.put(clocks)
        self._taken = self._pool.put(np.array(taken, np.int32))
        self._launch = self._launch or self.physics.ready(self.physics.step, self.warp_stream)
        self._wait()  # for the step done meanwhile: the first states are written after it

    def _put(self, rows: Rows) -> torch.Tensor:
        """Puts all worlds into the states of completed rows, and returns obs."""
        self.physics.write({k: torch.from_numpy(v) for k, v in rows.items()})
        self._obs = self._pool.put(rows["obs"])
        return torch.from_numpy(rows["obs"].copy()).to(self.device)  # jax may keep this memory

    def on_own_stream(self) -> Any:
        """Has torch queue on the engine's stream, behind what the caller's holds now."""
        if not self._stream:
            return contextlib.nullcontext()
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        return torch.cuda.stream(self._stream)

    def _wait(self) -> None:
        if self._stream:
            self._stream.synchronize()

    def _state(self) -> dict[str, torch.Tensor]:
        """Returns copies of what an episode begins with."""
        self._wait()
        return {k: self.physics.views[k].clone() for k in self.physics.reset_fields}

    def _outcome(self) -> Step:
        """Evaluates the step, and puts new episodes in the places of those that ended."""
        self._pool.renew(lambda: int(self._taken))
        fields, pool, filled = self._read(), self._pool.rows, self._pool.filled
        results = self._finish(fields, self._clocks, pool, filled, self._taken)
        step, state, self._obs, self._clocks, self._taken = results
        copies = Step(**{k: v.clone() for k, v in self._step_memory.unpack(step).items()})
        if self.autoreset:
            self.physics.write(self._state_memory.unpack(state))
        # Until the next export has put XLA's stream behind the copies: only then may XLA have this
        # memory again.
        self._lent = (step, state)
        return copies

    def _read(self) -> dict[str, jax.Array]:
        """Returns jax's views of Warp's arrays.

        They were made once, as each costs the host some 100 us, and one is made anew: a function
        that takes it waits for what torch's stream held then, and so for what wrote all of them.
        It is qpos, which every outcome reads: jit drops what is not read, and the wait with it.
        """
        return self._views | {k: to_jax(self.physics.views[k]) for k in self._reread}

    def _layouts(self) -> tuple[Packing, Packing]:
        """Returns where the arrays of a Step lie that jax hands to torch, and of new states."""
        count, views = self._num_envs, self.physics.views
        obs, reward = ((count, self.obs_dim), torch.float32), ((count,), torch.float32)
        flag, fault = ((count,), torch.bool), ((count,), torch.uint8)
        state = {k: (tuple(views[k].shape), views[k].dtype) for k in self.physics.reset_fields}
        step = (obs, obs, reward, flag, flag, fault, flag)
        return Packing(dict(zip(Step._fields, step, strict=True))), Packing(state)

    def _finished(
        self,
        fields: dict[str, jax.Array],
        clocks: jax.Array,
        pool: dict[str, jax.Array],
        filled: jax.Array,
        taken: jax.Array,
    ) -> Any:
        """Returns a Step and what the worlds go on from, packed, obs, clocks and rows taken."""
        task, model, of_model = self.suite.task, self.suite.model, self.physics.model_fields
        data = {k: v for k, v in fields.items() if k not in of_model}
        rows = {k: fields[k] for k in self._read_model_fields}
        result = jax.vmap(lambda data, rows: outcome(task, model, SimpleNamespace(**data), rows))(
            data, rows
        )
        clocks, obs = clocks + 1, result.obs
        state: list[jax.Array] = []
        terminated, truncated, done = endings(result, clocks, self.suite.max_episode_steps)
        if self.autoreset:
            began = self._begun_anew(done, obs, fields, clocks, pool, filled, taken)
            obs, state, clocks, taken = began
        step = (obs, result.obs, result.reward, terminated, truncated, result.fault, done)
        packed = self._step_memory.pack(dict(zip(Step._fields, step, strict=True)))
        return packed, state, obs, clocks, taken

    def _begun_anew(
        self,
        where: jax.Array,
        obs: jax.Array,
        fields: dict[str, jax.Array],
        clocks: jax.Array,
        pool: dict[str, jax.Array],
        filled: jax.Array,
        taken: jax.Array,
    ) -> Any:
        """Returns obs, states to go on from, packed, clocks and rows taken, as some began anew."""
        index = (taken + jnp.cumsum(where, dtype=jnp.int32) - 1) % filled

        def anew(name: str, old: jax.Array) -> jax.Array:
            rows = where.reshape(-1, *[1] * (old.ndim - 1))
            return jnp.where(rows, pool[name][index].reshape(old.shape), old)

        state = self._state_memory.pack({k: anew(k, fields[k]) for k in self.physics.reset_fields})
        taken = taken + where.sum(dtype=jnp.int32)
        return anew("obs", obs), state, jnp.where(where, 0, clocks), taken

    def _completed(self, rows: Rows) -> Rows:
        """Returns what a reset writes, and "obs" (n, obs_dim), as C MuJoCo has them, float32."""
        count = len(rows["qpos"])
        rows = self._model_fields_of(count) | rows
        names = (*self.physics.reset_fields, "obs")
        parts = []
        for start in range(0, count, SLAB):
            at = np.arange(start, start + SLAB) % count
            part = {k: rows[k][at] for k in (*self.suite.state_fields, *self.suite.model_fields)}
            with self._c_mujoco_is_used:
                part["obs"] = self._c_mujoco.set_state(part).numpy()
                part |= {k: self._c_mujoco.read(k) for k in names if k not in part}
            parts.append(part)
        return {k: np.concatenate([p[k] for p in parts])[:count].astype(np.float32) for k in names}

    def _model_fields_of(self, count: int) -> Rows:
        """The model's own values of those fields that a state may leave out."""
        model = self.suite.model
        values = {k: field(model, k) for k in self.suite.model_fields}
        return {k: np.broadcast_to(v, (count, *v.shape)) for k, v in values.items()}


def _shares(array: jax.Array, tensor: torch.Tensor) -> bool:
    """Whether a jax array is a view of a tensor: on a CPU jax copies what is not aligned."""
    return not tensor.numel() or array.unsafe_buffer_pointer() == tensor.data_ptr()
