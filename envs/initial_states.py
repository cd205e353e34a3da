"""Initial states, drawn by dm_control's own initialize_episode in a background thread."""

import collections
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from fastsac.envs.suite import Suite, load

# Rows drawn with one random state. The sequence is defined chunk by chunk, so that any row can be
# reached without drawing the ones before its chunk; 64 rows cost 2 ms to 90 ms.
CHUNK = 64
_CHUNKS_AHEAD = 2

Rows = dict[str, np.ndarray]


class InitialStates:
    """An endless sequence of initial states, fixed by the seed whatever the thread's timing.

    A row holds qpos, qvel, act and the model fields that the task randomises, float64, as
    dm_control leaves them after ``initialize_episode``.

    Args:
        suite: the task.
        seed: two pools with the same seed give the same rows.
        start: the number of rows to skip, so that a resumed run goes on where it stopped.
    """

    def __init__(self, suite: Suite, seed: int, start: int = 0):
        self.suite = suite
        self.taken = start
        self._seed = seed
        self._env = load(suite.task, seed=0)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="initial-states")
        self._ahead: collections.deque[Future[Rows]] = collections.deque()
        self._next_chunk, skip = divmod(start, CHUNK)
        self._rest = {k: v[skip:] for k, v in self._draw(self._next_chunk).items()}
        self._next_chunk += 1

    def take(self, count: int) -> Rows:
        """Returns the next ``count`` rows, each field (count, ...) float64.

        Raises:
            Exception: whatever dm_control raised while it drew them.
        """
        parts = list(self._parts(count))
        self.taken += count
        return {k: np.concatenate([p[k] for p in parts]) for k in self.suite.initial_fields()}

    def state_dict(self) -> dict[str, int]:
        """Returns the arguments that continue this sequence: seed and start."""
        return {"seed": self._seed, "start": self.taken}

    def close(self) -> None:
        """Ends the background thread."""
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _parts(self, count: int) -> Iterator[Rows]:
        while True:
            available = len(self._rest["qpos"])
            yield {k: v[:count] for k, v in self._rest.items()}
            self._rest = {k: v[count:] for k, v in self._rest.items()}
            if count <= available:
                return
            count -= available
            self._rest = self._next()

    def _next(self) -> Rows:
        while len(self._ahead) <= _CHUNKS_AHEAD:
            self._ahead.append(self._worker.submit(self._draw, self._next_chunk))
            self._next_chunk += 1
        return self._ahead.popleft().result()

    def _draw(self, chunk: int) -> Rows:
        """Draws chunk number ``chunk`` of the sequence with its own random state."""
        env, physics = self._env, self._env.physics
        env.task.random.seed(np.random.SeedSequence([self._seed, chunk]).generate_state(8))
        rows = []
        for _ in range(CHUNK):
            with physics.reset_context():
                env.task.initialize_episode(physics)
            state = {k: np.array(getattr(physics.data, k)) for k in ("qpos", "qvel", "act")}
            model = {k: np.array(getattr(physics.model, k)) for k in self.suite.task.randomised}
            rows.append(state | model)
        return {k: np.stack([row[k] for row in rows]) for k in rows[0]}
