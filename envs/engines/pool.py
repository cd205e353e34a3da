"""The initial states that wait on the device for episodes to end."""

import math
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import torch

from fastsac.envs.initial_states import InitialStates, Rows
from fastsac.envs.suite import Suite

SLAB = 64  # rows that are drawn and renewed together
# Threads, each perhaps with a process of 300 MB: half of the cores, and two at least.
_MOST_DRAWING = 8


def initial_states_for(
    suite: Suite, num_envs: int, before: InitialStates | None, seed: int, start: int = 0
) -> InitialStates:
    """Returns the initial states that a GPU's worlds begin with, drawn by as many as is fast.

    Those of before, if there were any, go over to this sequence.
    """
    if before:
        before.begin(seed, start)
        return before
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # torchrun's, which share the cores
    threads = min(_MOST_DRAWING, max(2, len(os.sched_getaffinity(0)) // 2 // ranks))
    return InitialStates(suite, seed, start, threads, num_envs / suite.max_episode_steps)


def pool_size(num_envs: int) -> int:
    """Returns the rows of a pool.

    Room for all worlds to reset at once before the rows they used last are renewed, so that no row
    is used twice.
    """
    return (math.ceil(2 * num_envs / SLAB) + 3) * SLAB


def renewed(
    pool: dict[str, jax.Array], rows: dict[str, jax.Array], start: int
) -> dict[str, jax.Array]:
    """Returns the pool with rows from ``start`` on overwritten."""
    put = jax.lax.dynamic_update_slice_in_dim
    return {k: put(v, rows[k], start, axis=0) for k, v in pool.items()}


class StatePool:
    """Initial states on a device: resets take rows in turn, and used ones are drawn anew.

    It starts half full: drawing is what a reset costs.

    Args:
        suite: the task.
        num_envs: the number of worlds.
        device: where the rows go.
        complete: makes what a reset needs of drawn rows (n, ...); called in a thread.

    Attributes:
        rows: name -> (P, ...); replaced by ``renew``.
        filled: () int32, the rows that hold a state so far, on the device.
    """

    def __init__(
        self, suite: Suite, num_envs: int, device: jax.Device, complete: Callable[[Rows], Rows]
    ):
        self._suite, self._num_envs, self._device = suite, num_envs, device
        self._complete = complete
        self._source: InitialStates | None = None
        self._worker: ThreadPoolExecutor | None = None
        self._ahead: Future[Rows] | None = None
        self._renewed = jax.jit(renewed, donate_argnums=0)

    def begin(self, seed: int) -> Rows:
        """Draws the first rows of a seed's sequence and returns one a world."""
        self._open(seed)
        slabs = [self._next_slab() for _ in range(math.ceil(self._num_envs / SLAB) + 2)]
        first = {k: np.concatenate([slab[k] for slab in slabs]) for k in slabs[0]}
        self._written = len(slabs) * SLAB
        self._steps_done = 0
        empty = pool_size(self._num_envs) - self._written
        self.rows = {
            k: self.put(np.pad(v, [(0, empty)] + [(0, 0)] * (v.ndim - 1))) for k, v in first.items()
        }
        self._count_filled()
        return {k: v[: self._num_envs] for k, v in first.items()}

    def renew(self, taken: Callable[[], int], counted: bool = False) -> None:
        """Called once a control step; overwrites the oldest rows as fast as they are used up.

        Args:
            taken: returns the rows used so far; asked for where a task terminates, else the time
                limit alone says how many that can be, and the device is not waited for.
            counted: ask for it in any case, as before resets that no time limit brought.
        """
        if counted or self._suite.task.terminate:
            ahead = self._written - taken()
            count = math.ceil(max(0, self._num_envs + SLAB - ahead) / SLAB)
        else:
            # A row for as many control steps of worlds as the time limit allows.
            of_a_slab = SLAB * self._suite.max_episode_steps
            count, self._steps_done = divmod(self._steps_done + self._num_envs, of_a_slab)
        for _ in range(count):
            rows = {k: self.put(v) for k, v in self._next_slab().items()}
            self.rows = self._renewed(self.rows, rows, self._written % pool_size(self._num_envs))
            self._written += SLAB
        if count:
            self._count_filled()

    def state_dict(self) -> dict[str, Any]:
        """Returns all that load_state_dict goes on from, on the CPU."""
        assert self._source, "begin comes first"
        return {
            "rows": {k: torch.from_numpy(np.array(v)) for k, v in self.rows.items()},
            "written": self._written,
            "steps_done": self._steps_done,
            "initial_states": self._source.state_dict() | {"start": self._given},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what state_dict returned."""
        self._open(**state["initial_states"])
        self._written = state["written"]
        self._steps_done = state["steps_done"]
        self.rows = {k: self.put(np.asarray(v)) for k, v in state["rows"].items()}
        self._count_filled()

    def check(self) -> None:
        """Raises what has stopped a thread that draws."""
        if self._source:
            self._source.check()
        if self._ahead and self._ahead.done():
            self._ahead.result()

    def close(self) -> None:
        """Ends the threads and processes."""
        if self._worker:
            self._worker.shutdown(cancel_futures=True)
        if self._source:
            self._source.close()
        self._source = self._worker = None

    def put(self, value: np.ndarray) -> jax.Array:
        """Returns the value on the device."""
        return jax.device_put(value, self._device)

    def _open(self, seed: int, start: int = 0) -> None:
        if self._worker:
            self._worker.shutdown(cancel_futures=True)
        drawn_for = self._suite, self._num_envs
        self._source = initial_states_for(*drawn_for, self._source, seed, start)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="state-pool")
        self._ahead = None
        self._given = start

    def _count_filled(self) -> None:
        filled = min(self._written, pool_size(self._num_envs))
        self.filled = self.put(np.array(filled, np.int32))

    def _next_slab(self) -> Rows:
        """Returns the next rows, and has those after them drawn meanwhile."""
        assert self._worker
        slab = (self._ahead or self._worker.submit(self._draw)).result()
        self._given += SLAB
        self._ahead = self._worker.submit(self._draw)
        return slab

    def _draw(self) -> Rows:
        assert self._source
        return self._complete(self._source.take(SLAB))
