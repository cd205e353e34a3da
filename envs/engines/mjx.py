"""MJX under jit: an engine for accelerators, one compiled call a vector step.

What that call does is in mjx_worlds.py; here are the pool of initial states behind it, the thread
that launches it, and the way of its results to torch.
"""

import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from fastsac.envs.compilation_cache import compile_notice
from fastsac.envs.devices import jax_device, torch_device
from fastsac.envs.dlpack import to_jax, to_torch
from fastsac.envs.engines import Step
from fastsac.envs.engines.mjx_worlds import TracedWorlds, Worlds
from fastsac.envs.engines.pool import SLAB, initial_states_for, pool_size, renewed
from fastsac.envs.engines.precision import in_float32
from fastsac.envs.initial_states import InitialStates
from fastsac.envs.suite import SENSORS, Suite

# A step's arguments and temporaries, in sizes of a world's mjx.Data, are 1.2 to 1.4 by XLA's own
# figures and 2.3 of humanoid's (bench/results/offline.md); a start makes worlds beside those there.
_COPIES_OF_A_WORLD = 4


_COUNTS = ("clocks", "rows", "filled", "taken")  # of the worlds and the pool, int32


class MjxEngine(TracedWorlds):
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
        super().__init__(suite, num_envs, fast)
        self.warnings: dict[str, int] = {}  # MJX gives none
        self._jax_device = jax_device()
        self.device = torch_device(self._jax_device)
        # It starts half full: drawing is what a reset costs.
        self._pool_rows = pool_size(num_envs)
        self._written = 0
        self._source: InitialStates | None = None
        self._worlds: Worlds | None = None
        self._steps_until_renewal = 0
        self._thread: ThreadPoolExecutor | None = None
        self._sent: Future[tuple[jax.Array, ...]] | None = None
        self._lent: tuple[jax.Array, ...] = ()

        self._start = jax.jit(in_float32(self._start_worlds))
        self._step = jax.jit(in_float32(self._step_worlds), donate_argnums=0)
        self._restart = jax.jit(in_float32(self._restart_worlds), donate_argnums=0)
        self._set = jax.jit(in_float32(self._set_worlds), donate_argnums=0)
        self._renew = jax.jit(renewed, donate_argnums=0)
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
        self._drop()
        source = initial_states_for(self.suite, self._num_envs, self._source, seed)
        self._source = source
        self._written = (math.ceil(self._num_envs / SLAB) + 2) * SLAB
        rows = self._cast(source.take(self._written))
        empty = self._pool_rows - self._written
        pool = {k: jnp.pad(v, [(0, empty)] + [(0, 0)] * (v.ndim - 1)) for k, v in rows.items()}
        self._steps_until_renewal = self._renewal_interval
        ages = self._put(clocks.astype(np.int32))
        filled = self._put(np.array(self._written, np.int32))
        self._worlds, obs = self._start(pool, ages, filled)
        return _finished(_copied(obs))

    def restart(self, worlds: np.ndarray, seeds: Sequence[int] | None = None) -> torch.Tensor:
        """See Engine.restart."""
        assert seeds is None, "all worlds draw from one pool"
        assert self._worlds, "reset comes first"
        self._renew_used_rows()
        self._worlds, obs = self._restart(self._worlds, self._put(worlds))
        return _finished(_copied(obs))

    def send(self, action: torch.Tensor, overlap: bool = True) -> None:
        """See Engine.send.

        XLA launches a program from the thread that calls it, and at each round of a loop whose
        rounds the data decide that thread waits for the device (its WhileThunk copies the
        predicate to the host): so the caller, who has updates to queue, is not that thread.
        """
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="mjx")
        # A copy: the caller may write to its tensor while the step still runs. The export is
        # ordered behind what the caller's stream holds now.
        self._sent = self._thread.submit(self._dispatch, to_jax(action.clone()))

    def recv(self) -> Step:
        """See Engine.recv."""
        assert self._sent, "send comes first"
        sent, self._sent = self._sent, None
        arrays = sent.result()
        # Until the next ones come, and so until the export of the action between has put XLA's
        # stream behind the copies: only then may XLA have this memory again.
        self._lent = arrays
        return Step(*map(_copied, arrays))

    def _dispatch(self, action: jax.Array) -> tuple[jax.Array, ...]:
        """Launches a step, in the engine's thread; jax's settings are a thread's own."""
        with jax.enable_x64(self._dtype == jnp.float64):
            if self.suite.task.terminate:
                self._renew_used_rows()
            self._worlds, step = self._step(self._worlds, action)
            self._steps_until_renewal -= 1
            if self._steps_until_renewal == 0 and not self.suite.task.terminate:
                self._renew_pool()
            return step

    def clocks(self) -> torch.Tensor:
        """See Engine.clocks."""
        assert self._worlds, "reset comes first"
        return torch.from_numpy(np.asarray(self._worlds.clocks, np.int64)).to(self.device)

    def get_state(self) -> dict[str, torch.Tensor]:
        """See Engine.get_state; in jax's default float type."""
        return {k: _finished(_copied(v)) for k, v in self._current_rows().items()}

    def set_state(self, state: dict[str, np.ndarray]) -> torch.Tensor:
        """See Engine.set_state."""
        rows = self._current_rows() | self._cast(state)
        self._worlds, obs = self._set(self._worlds, rows)
        return _finished(_copied(obs))

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
        self._drop()
        drawn_for = self.suite, self._num_envs, self._source
        self._source = initial_states_for(*drawn_for, **state["initial_states"])
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
        """See Engine.close; a step under way is waited for and dropped."""
        self._drop()
        if self._source:
            self._source.close()
        self._source = None

    def _drop(self) -> None:
        if self._thread:
            self._thread.shutdown()
        self._thread = self._sent = None
        self._lent = ()

    def _current_rows(self) -> dict[str, jax.Array]:
        """Copies of the fields of a state: the originals are donated to the next step."""
        assert self._worlds, "reset comes first"
        state = {k: getattr(self._worlds.data, k) for k in self.suite.state_fields}
        return {
            k: jnp.array(v, self._dtype) for k, v in (state | self._worlds.model_fields).items()
        }

    @property
    def _renewal_interval(self) -> int:
        """Steps in which the worlds together use up about one slab of rows."""
        return max(1, SLAB * self.suite.max_episode_steps // self._num_envs)

    def _renew_pool(self) -> None:
        """Renews what the time limit uses up in an interval, without asking the device."""
        self._renew_slabs(math.ceil(self._num_envs / self.suite.max_episode_steps / SLAB))
        self._steps_until_renewal = self._renewal_interval

    def _renew_used_rows(self) -> None:
        """Keeps a row for each world ahead; waits for the last step in order to know how many."""
        assert self._worlds
        ahead = self._written - int(self._worlds.taken)
        self._renew_slabs(math.ceil(max(0, self._num_envs + SLAB - ahead) / SLAB))

    def _renew_slabs(self, count: int) -> None:
        """Fills the pool, then overwrites the oldest rows."""
        assert self._source and self._worlds
        if not count:
            return
        pool = self._worlds.pool
        for _ in range(count):
            start = self._written % self._pool_rows
            pool = self._renew(pool, self._cast(self._source.take(SLAB)), start)
            self._written += SLAB
        filled = self._put(np.array(min(self._written, self._pool_rows), np.int32))
        self._worlds = self._worlds._replace(pool=pool, filled=filled)

    def _cast(self, rows: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        return {
            k: self._put(v.astype(self._dtype))
            for k, v in rows.items()
            if k in (*self.suite.state_fields, SENSORS, *self._model_fields)
        }

    def _put(self, value: np.ndarray) -> jax.Array:
        # Committed to the device, as the actions that come through DLPack are: a step that saw the
        # one and then the other would be looked up twice in jit's cache.
        return jax.device_put(value, self._jax_device)


def _copied(array: jax.Array) -> torch.Tensor:
    """Hands an array to torch, on a GPU as a copy in torch's own memory.

    There torch reads later than it is told to, and XLA reuses memory in the order of its own
    stream: what torch drops could be written over before it was read. The copies of a step are
    2 MB for 4096 humanoids.
    """
    view = to_torch(array)
    return view.clone() if view.is_cuda else view


def _finished(copy: torch.Tensor) -> torch.Tensor:
    """Waits for a copy that no action's export will order: of a reset, or of a state."""
    if copy.is_cuda:
        torch.cuda.current_stream(copy.device).synchronize()
    return copy


def _on_cpu(arrays: dict[str, jax.Array]) -> dict[str, torch.Tensor]:
    """Returns copies: jax refuses to donate what torch has a view of."""
    return {k: torch.from_numpy(np.array(v)) for k, v in arrays.items()}
