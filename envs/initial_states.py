"""Initial states, drawn by dm_control's own initialize_episode in background threads."""

import collections
import contextlib
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from fastsac.envs.helper_process import HelperProcess, answer
from fastsac.envs.model_fields import field, write_field
from fastsac.envs.registry import UnknownTask, find
from fastsac.envs.suite import SENSORS, Suite, load, load_suite

# Rows that a thread draws at a time, and how many such jobs they are ahead.
_ROWS_A_JOB = 16
_JOBS_AHEAD = 4
# Drawing that takes longer, in seconds of a control step, is done in processes.
_MOST_IN_THREADS = 1e-3

_log = logging.getLogger("fastsac")

Rows = dict[str, np.ndarray]


class InitialStates:
    """An endless sequence of initial states, fixed by the seed whatever the thread's timing.

    A row holds the fields of a state, sensordata and the model fields that are per world, float64,
    as dm_control leaves them after ``initialize_episode``. Every row is drawn with
    a random state of its own, so that the sequence can be entered anywhere.

    Args:
        suite: the task.
        seed: two sequences with the same seed give the same rows.
        start: the number of rows to skip, so that a resumed run goes on where it stopped.
        threads: how many draw, each with dm_control's environment of its own.
        rows_a_step: how many a control step uses up. Where they cost much CPU time, most of it with
            Python's lock, which the loop needs itself, each thread has a process that draws for it.
    """

    def __init__(
        self, suite: Suite, seed: int, start: int = 0, threads: int = 1, rows_a_step: float = 0.0
    ):
        self.suite = suite
        self._of_thread = threading.local()
        self._workers = ThreadPoolExecutor(threads, thread_name_prefix="initial-states")
        self._threads, self._rows_a_step = threads, rows_a_step
        self._in_processes = False
        self._drawers: list[HelperProcess] = []
        self._ahead: collections.deque[Future[list[Rows]]] = collections.deque()
        self._drawn: collections.deque[Rows] = collections.deque()
        self.begin(seed, start)

    def begin(self, seed: int, start: int = 0) -> None:
        """Goes over to another sequence, with the threads and environments that there are.

        To load dm_control's environment takes 80 to 340 ms, all else of a reset a few.
        """
        if type(seed) is not int or type(start) is not int or min(seed, start) < 0:
            raise ValueError(f"seed and start count from 0, got {seed!r} and {start!r}")
        for job in self._ahead:
            job.cancel()
        self._ahead.clear()
        self._drawn.clear()
        self.taken = start
        self._seed = seed
        self._next_row = start

    def take(self, count: int) -> Rows:
        """Returns the next ``count`` rows, each field (count, ...) float64.

        Raises:
            Exception: whatever dm_control raised while it drew them.
        """
        rows = []
        for _ in range(count):
            if not self._drawn:
                self._drawn.extend(self._next_job())
            rows.append(self._drawn.popleft())
        self.taken += count
        return _stacked(rows)

    def first_rows(self, seeds: Sequence[int]) -> Rows:
        """Returns the first row of each seed's sequence; this one's stays where it is."""
        return _stacked([*self._workers.map(lambda seed: self.row(seed, 0), seeds)])

    def state_dict(self) -> dict[str, int]:
        """Returns the arguments that continue this sequence: seed and start."""
        return {"seed": self._seed, "start": self.taken}

    def check(self) -> None:
        """Raises what has stopped a thread, before ``take`` comes to the rows that are missing.

        Raises:
            Exception: whatever dm_control raised.
        """
        for job in tuple(self._ahead):  # which a pool's thread may be changing
            if job.done():
                job.result()

    def close(self) -> None:
        """Ends the background threads and processes."""
        self._workers.shutdown(wait=True, cancel_futures=True)
        for drawer in self._drawers:
            drawer.close()
        self._drawers.clear()

    def _next_job(self) -> list[Rows]:
        while len(self._ahead) <= max(_JOBS_AHEAD, self._threads * self._in_processes):
            job = range(self._next_row, self._next_row + _ROWS_A_JOB)
            self._ahead.append(self._workers.submit(self._draw, job))
            self._next_row = job.stop
        return self._ahead.popleft().result()

    def _load(self) -> Any:
        """Returns the thread's environment, which it loads once."""
        if not hasattr(self._of_thread, "env"):
            self._of_thread.env = load(self.suite.task, 0)
        return self._of_thread.env

    def _draw(self, job: range) -> list[Rows]:
        """Draws rows in this thread or in its process, and sees what they cost."""
        seed = self._seed
        if self._in_processes:
            try:
                process = self._process()
                process.send(seed, job)
                drawn: list[Rows] = process.receive()
                return drawn
            except (EOFError, OSError) as error:
                if self._in_processes:  # of several threads one says it
                    self._in_processes, self._rows_a_step = False, 0.0
                    _log.warning(
                        f"a process that drew initial states ended ({type(error).__name__}): "
                        "they are drawn in threads from here on"
                    )
        if not self.suite.task.model_is_drawn:
            self._load()  # before the clock starts
        began = time.thread_time()
        rows = [self.row(seed, index) for index in job]
        cost = (time.thread_time() - began) / len(job) * self._rows_a_step
        if cost > _MOST_IN_THREADS and not self._in_processes:
            self._in_processes = self._is_found_by_name()
        return rows

    def _process(self) -> HelperProcess:
        """Returns the thread's process, which it starts once."""
        if not hasattr(self._of_thread, "drawer"):
            self._of_thread.drawer = HelperProcess(__name__)
            self._drawers.append(self._of_thread.drawer)
            self._of_thread.drawer.send(self.suite.task.full_name)
            self._of_thread.drawer.receive()
        return self._of_thread.drawer

    def _is_found_by_name(self) -> bool:
        """Whether another process would draw the same: it has no task but the suite's own."""
        task = self.suite.task
        if not task.domain or task.load or self.suite.randomization.drawn:
            return False
        with contextlib.suppress(UnknownTask):
            return find(task.full_name) == task
        return False

    def row(self, seed: int, index: int) -> Rows:
        """Draws row number ``index`` of a seed's sequence."""
        of_row = _seed_sequence(seed, index, 0).generate_state(8)
        if self.suite.task.model_is_drawn:
            env = load(self.suite.task, np.random.RandomState(of_row))
        else:
            env = self._load()
            env.task.random.seed(of_row)
        physics: Any = env.physics
        if not self.suite.task.model_is_drawn:  # a write relative to the last row's would add up
            for name in self.suite.task.randomised:
                write_field(physics.model.ptr, name, field(self.suite.model, name))
        if self.suite.randomization.drawn:
            of_user = np.random.default_rng(_seed_sequence(seed, index, 1))
            self.suite.randomization.apply(physics.model.ptr, of_user)
        with physics.reset_context():
            env.task.initialize_episode(physics)
        model, data = physics.model.ptr, physics.data.ptr
        row = {
            k: np.array(getattr(data, k), np.float64) for k in (*self.suite.state_fields, SENSORS)
        }
        return row | {k: np.array(field(model, k), np.float64) for k in self.suite.model_fields}


def serve() -> None:
    """Draws a task's rows for a HelperProcess, until that goes."""

    def begin(task: str) -> Any:
        source = InitialStates(load_suite(find(task)), 0)
        return lambda seed, job: [source.row(seed, index) for index in job]

    answer(begin)


def _seed_sequence(seed: int, index: int, use: int) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, index], spawn_key=(use,))


def _stacked(rows: list[Rows]) -> Rows:
    return {k: np.stack([row[k] for row in rows]) for k in rows[0]}
