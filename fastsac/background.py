"""Evaluation beside the training, in a thread of its own."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from fastsac.config import EVAL_SEED
from fastsac.envs import VectorEnv, make
from fastsac.evaluation import Evaluation, evaluate, evaluate_in
from fastsac.policy import Policy

Counters = dict[str, float]


class BackgroundEvaluator:
    """Evaluates snapshots of a policy, one at a time, in the order they were taken.

    The native engine's worlds stay open from one evaluation to the next.

    Args:
        task: the task's name.
        episodes: per evaluation.
        backend: "engine", all episodes at once, or "dm_control", one after another.
    """

    def __init__(self, task: str, episodes: int, backend: str):
        self._task, self._episodes, self._backend = task, episodes, backend
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="evaluation")
        self._env: VectorEnv | None = None
        self._pending: tuple[Policy, Counters, Future[Evaluation]] | None = None
        self._closing = threading.Event()

    def start(self, policy: Policy, counters: Counters) -> None:
        """Starts an evaluation; the one before must have been taken.

        Args:
            policy: on the CPU, and nobody else's.
            counters: handed back with the result.
        """
        assert self._pending is None, "take the result of the evaluation before"
        self._pending = policy, counters, self._worker.submit(self._evaluate, policy)

    @property
    def pending(self) -> tuple[Policy, Counters] | None:
        """What start was given, if its result was not taken yet."""
        return self._pending and self._pending[:2]

    def take(self, wait: bool) -> tuple[Policy, Counters, Evaluation] | None:
        """Returns policy, counters and result of the evaluation under way, if there is one.

        Args:
            wait: False returns None where it has not finished.

        Raises:
            Exception: whatever stopped the evaluation.
        """
        if self._pending is None or not (wait or self._pending[2].done()):
            return None
        (policy, counters, future), self._pending = self._pending, None
        return policy, counters, future.result()

    def close(self) -> None:
        """Stops the evaluation under way and ends the thread."""
        self._closing.set()
        self._worker.shutdown(wait=True)
        if self._env:
            self._env.close()

    def _evaluate(self, policy: Policy) -> Evaluation:
        def act(obs: torch.Tensor) -> Any:
            if self._closing.is_set():
                raise RuntimeError("the run was closed during an evaluation")
            return policy(obs)

        if self._backend == "dm_control":
            return evaluate(act, self._task, self._episodes, EVAL_SEED)
        if self._env is None:
            self._env = make(self._task, self._episodes, engine="native", device="cpu")
        return evaluate_in(self._env, act, EVAL_SEED)
