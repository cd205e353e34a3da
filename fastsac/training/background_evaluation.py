"""Evaluation beside the training, in a thread of its own, and what becomes of its results."""

import collections
import math
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from fastsac.envs import VectorEnv, make
from fastsac.learner.policy import Policy
from fastsac.runs.checkpoints import RunCheckpoints
from fastsac.runs.metrics import MetricsWriter
from fastsac.training.config import EVAL_SEED, TrainConfig
from fastsac.training.evaluation import Evaluation, evaluate, evaluate_in
from fastsac.training.state import TrainingState

Counters = dict[str, float]
Snapshot = tuple[Policy, Counters]


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
        own = torch.get_num_threads()
        self._worker.submit(_take_one_thread).result()
        torch.set_num_threads(own)  # what threads begin with that are started from now on
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


def _take_one_thread() -> None:
    """Keeps torch from starting threads for this one.

    Even idle they would be more than two cores have, and halve the updates a second of a learner
    on them: OpenMP then yields at each barrier.
    """
    torch.get_num_threads()  # else the first operation sets the process's number
    torch.set_num_threads(1)


class RunEvaluations:
    """Evaluates a run's policy, writes what comes out, and keeps the best policy.

    Args:
        config: the run's.
        state: what it trains.
        metrics: where results go.
        checkpoints: where the best policy goes.
        best: the highest mean return so far.

    Attributes:
        best: the highest mean return whose policy is on disk.
    """

    def __init__(
        self,
        config: TrainConfig,
        state: TrainingState,
        metrics: MetricsWriter,
        checkpoints: RunCheckpoints,
        best: float,
    ):
        self._config, self._state = config, state
        self._metrics, self._checkpoints = metrics, checkpoints
        self._evaluator = BackgroundEvaluator(
            config.task, config.eval_episodes, config.eval_backend
        )
        self.best = best

    @property
    def pending(self) -> list[Snapshot]:
        """What is yet to be evaluated, the oldest first."""
        return self._evaluator.pending

    def snapshot(self) -> Snapshot:
        """Returns the policy as it is now, and the counters that its result is written with."""
        counted = {"step": self._state.steps, "updates": self._state.updates}
        policy = Policy.snapshot(self._state.agent, self._config.task)
        return policy, {**counted, **self._metrics.times()}

    def start(self, snapshot: Snapshot) -> None:
        """Starts an evaluation, or queues it behind those that are under way."""
        self._evaluator.start(*snapshot)

    def report(self, wait: bool = False) -> None:
        """Writes the result of the oldest evaluation, where it has finished or is waited for."""
        try:
            done = self._evaluator.take(wait)
        except Exception as error:  # it costs its figure, not the training
            self._metrics.say(f"warning: an evaluation failed: {type(error).__name__}: {error}")
            return
        if done:
            self._write(*done)

    def report_all(self) -> None:
        """Waits for all that are under way and writes their results."""
        while self.pending:
            self.report(wait=True)

    def evaluate_last(self, snapshot: Snapshot) -> Evaluation:
        """Evaluates in the real dm_control, here and now."""
        policy, counters = snapshot
        config = self._config
        result = evaluate(policy, config.task, config.final_eval_episodes, EVAL_SEED)
        self._write(policy, counters, result)
        return result

    def state_dict(self, finished: bool = False) -> dict[str, Any]:
        """What a resumed run evaluates again: those not done, and the best return so far.

        Args:
            finished: whether the last vector step ended the training; what it was due to evaluate
                is evaluated in another way, unless the run is extended.
        """
        skipped = finished and self._state.crossed(self._config.eval_every)
        snapshots = {"evaluations": self.pending, "skipped": [self.snapshot()] if skipped else []}
        states = {
            name: [(policy.state_dict(), counters) for policy, counters in those]
            for name, those in snapshots.items()
        }
        return {"best": self.best, **states}

    def close(self) -> None:
        """Stops the evaluation under way."""
        self._evaluator.close()

    def _write(self, policy: Policy, counters: Counters, result: Evaluation) -> None:
        returns = {"eval_return": result.mean, "eval_return_std": result.std}
        if math.isfinite(result.mean) and result.mean > self.best:
            try:
                self._checkpoints.save_best(policy, counters | returns)
                self.best = result.mean
            except OSError as error:
                self._metrics.say(f"warning: {error}")
        self._metrics.write(counters | returns)  # at last, since who hears it may raise
