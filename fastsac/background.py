"""Evaluation beside the training, in a thread of its own."""

import collections
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from fastsac.config import EVAL_SEED
from fastsac.envs import VectorEnv, make
from fastsac.evaluation import Evaluation, evaluate, evaluate_in
from fastsac.learner.policy import Policy

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
        self._pending = collections.deque[tuple[Policy, Counters, Future[Evaluation]]]()
        self._closing = threading.Event()

    def start(self, policy: Policy, counters: Counters) -> None:
        """Starts an evaluation, or queues it behind those that are under way.

        Args:
            policy: on the CPU, and nobody else's.
            counters: handed back with the result.
        """
        self._pending.append((policy, counters, self._worker.submit(self._evaluate, policy)))

    @property
    def pending(self) -> list[tuple[Policy, Counters]]:
        """What start was given and take has not returned, the oldest first."""
        return [(policy, counters) for policy, counters, _ in self._pending]

    def take(self, wait: bool) -> tuple[Policy, Counters, Evaluation] | None:
        """Returns policy, counters and result of the oldest evaluation, if there is one.

        Args:
            wait: False returns None where it has not finished.

        Raises:
            Exception: whatever stopped the evaluation.
        """
        if not self._pending or not (wait or self._pending[0][2].done()):
            return None
        policy, counters, future = self._pending.popleft()
        return policy, counters, future.result()

    def close(self) -> None:
        """Stops the evaluation under way and ends the thread."""
        self._closing.set()
        self._worker.shutdown(wait=True, cancel_futures=True)
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
