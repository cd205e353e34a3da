"""A training run: its parts, opened and closed in order, and when each has its turn."""

import dataclasses
import math
import os
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from signal import Signals
from typing import Self

import torch

from fastsac.envs.devices import require_jax_cpu
from fastsac.errors import CheckpointError, NotFiniteError, RunError
from fastsac.runs.checkpoints import Resumed
from fastsac.runs.directory import RESULT, RunDirectory, create, shown
from fastsac.runs.metrics import MetricsWriter
from fastsac.runs.wandb_run import require_wandb
from fastsac.training.background_evaluation import RunEvaluations, Snapshot
from fastsac.training.callbacks import Callbacks
from fastsac.training.config import TrainConfig
from fastsac.training.evaluation import Evaluation
from fastsac.training.interruption import StopSignals
from fastsac.training.learner_threads import LearnerThreads
from fastsac.training.log import TrainingLog
from fastsac.training.profiling import Profiler
from fastsac.training.ranks import ALONE, Ranks
from fastsac.training.resuming import load, send_parts
from fastsac.training.saving import RunSaving, checkpoints_of, disk_bytes
from fastsac.training.state import TrainingState, resolved
from fastsac.training.task_of_run import keep_task

# Files of a run besides its checkpoints: metrics and TensorBoard events.
_METRICS_BYTES = 16_000_000


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a training run ends with.

    Attributes:
        run_dir: where everything is.
        steps: environment steps done, of all ranks.
        updates: gradient updates done.
        seconds: wall-clock time of the training, without the final evaluation.
        evaluation: the final one, in dm_control.
    """

    run_dir: Path
    steps: int
    updates: int
    seconds: float
    evaluation: Evaluation


class TrainingRun:
    """A run's state, files and threads; a context that closes them. Of several ranks rank 0 has it.

    Args:
        config: the run's.
        resumed: the directory of the run to go on with; None starts a new one.
        ranks: that train together.
        signals: that end it.
        callbacks: that hear of it, and may end it.

    Attributes:
        state: what it trains.
        finished: whether its steps or its time are used up.

    Raises:
        UserError: it cannot be run here, or there is nothing to go on from.
    """

    def __init__(
        self,
        config: TrainConfig,
        resumed: Path | None = None,
        ranks: Ranks = ALONE,
        signals: StopSignals | None = None,
        callbacks: Callbacks | None = None,
    ):
        self._started = time.monotonic()
        self.config = config
        self._ranks, self._signals = ranks, signals or StopSignals()
        self._callbacks = callbacks or Callbacks()
        self.finished = False
        if config.wandb:
            require_wandb()
        if config.eval_backend == "engine":  # said now rather than at the first evaluation
            require_jax_cpu()
        with ExitStack() as opened:
            if resumed:  # before the set-up, which takes seconds
                self._directory = RunDirectory(resumed)
                opened.callback(self._directory.close)
            loaded = self._loaded(resumed) if resumed else None
            self.state = TrainingState(config, ranks)
            opened.callback(self.state.close)
            config = self.config = resolved(config, self.state.env)
            if not loaded:
                self.state.take_policy()
                needed = disk_bytes(config, self.state.agent, self.state.replay, ranks.size)
                self._directory = create(dataclasses.asdict(config), needed + _METRICS_BYTES)
                opened.callback(self._directory.close)
                opened.push(self._discard_if_failed)
            keep_task(self.path, config.task)
            for notice in (self.state.env.engine.compile_notice, self.state.agent.compile_notice):
                if notice:
                    print(notice, file=sys.stderr, flush=True)
            self._open_parts(opened, loaded)
            if not loaded:  # a disk that takes no checkpoint is found out now
                self._save(required=True)
            delay = config.sac.policy_delay
            cycle = delay // math.gcd(delay, config.updates_per_vector_step)
            self._threads = LearnerThreads(self.state.env.device, cycle)
            opened.callback(self._threads.close)
            self._profiler = Profiler(self.path) if config.profile else None
            opened.callback(self._close_profiler)
            self._opened = opened.pop_all()
        ranks.remember(self.path)
        self.finished = self.state.steps >= config.total_steps
        how = f"{config.task}, {config.num_envs} worlds on {self.state.env.engine_name}"
        if ranks.size > 1:
            how += f" in each of {ranks.size} ranks"
        whither = f"going on at step {self.state.steps:,} of" if loaded else "run in"
        self._metrics.say(
            f"fastsac: {how}, learner on {self.state.env.device}, {whither} {shown(self.path)}"
        )

    def _loaded(self, run_dir: Path) -> Resumed:
        """Reads the checkpoint to go on from, which has a part for each rank."""
        loaded = Resumed(run_dir, self.config.task)
        if loaded.size != self._ranks.size:
            raise CheckpointError(
                f"{run_dir} was trained by {loaded.size} ranks, of which each has a part in its "
                f"checkpoints, and cannot be gone on with by {self._ranks.size}: "
                f"torchrun --nproc-per-node {loaded.size} -m fastsac train --resume {run_dir}"
            )
        return loaded

    def _open_parts(self, opened: ExitStack, loaded: Resumed | None) -> None:
        """Starts the state or loads it; opens what logs, evaluates and saves."""
        config, state = self.config, self.state
        used = loaded.used if loaded else None
        checkpoints = checkpoints_of(config, self.path, state.replay, used)
        snapshots: list[Snapshot] = []
        best = -math.inf
        state.require_alike()
        self._ranks.from_first(loaded is not None)
        if loaded:
            snapshots, best = load(loaded, config, state, self._directory)
            send_parts(loaded, self._ranks)
            best = max(best, checkpoints.best_until(state.steps))
        else:
            state.start()
        self._metrics = self._open_metrics(loaded)
        opened.callback(self._metrics.close)
        self._log = TrainingLog(config, state, self._metrics)
        self._evaluations = RunEvaluations(config, state, self._metrics, checkpoints, best)
        opened.callback(self._evaluations.close)
        newest = list(loaded.used)[-1] if loaded else None
        self._saving = RunSaving(state, self._metrics, checkpoints, newest)
        for snapshot in snapshots:
            self._evaluations.start(snapshot)

    def _open_metrics(self, loaded: Resumed | None) -> MetricsWriter:
        limits = self.config.total_steps, self._started, self.config.max_seconds
        before = loaded.state["metrics"] | {"step": self.state.steps} if loaded else None
        wandb_config = dataclasses.asdict(self.config) if self.config.wandb else None
        try:
            hear = self._callbacks.hear
            metrics = MetricsWriter(self.path, *limits, before, wandb_config, hear)
        except OSError as error:
            raise RunError(f"cannot write to the run {self.path}: {error.strerror}") from error
        for sentence in loaded.left_out if loaded else ():
            metrics.say(f"warning: {sentence}: left out")
        return metrics

    def _discard_if_failed(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leaves nothing behind of a run that could not begin."""
        if kind is not None:
            shutil.rmtree(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    @property
    def path(self) -> Path:
        """The run's directory."""
        return self._directory.path

    def say_ignored(self, signals: Sequence[Signals]) -> None:
        """Says which signals will not end the run, should there be any."""
        ends = f"; kill {os.getpid()} ends the run with a checkpoint"
        for signal in (s for s in signals if s != Signals.SIGHUP):  # nohup is there for that
            self._metrics.say(
                f"{signal.name} stays ignored, as the process that started this one had it"
                + ("" if Signals.SIGTERM in signals else ends)
            )

    def learn(self) -> None:
        """Does a vector step's updates."""
        state, updates = self.state, self.config.updates_per_vector_step
        with torch.profiler.record_function("updates"), self._threads.timed():
            self._log.keep(state.agent.learn(state.replay, self.config.batch_size, updates))
        state.updates += updates
        if self._profiler and (sentence := self._profiler.step()):
            self._metrics.say(sentence)
            self._profiler = None

    def after_step(self) -> None:
        """Logs, evaluates and saves when it is time to.

        Raises:
            NotFiniteError: nothing will come of the run any more; a checkpoint was saved.
            Exception: whatever stopped the thread that draws initial states.
        """
        limit, due = self.config.max_seconds, self._log.due
        # So that the checkpoint is there when the time is up.
        seconds = time.monotonic() - self._started + 2 * self._saving.seconds
        late = self._callbacks.stop or (limit is not None and seconds >= limit)
        late, due = self._ranks.agree(self._signals, late, due)
        self.finished = late or self.state.steps >= self.config.total_steps
        if (self.finished or due) and (reason := self._log.write(self.finished)):
            self._save()
            raise NotFiniteError(f"{reason}; the weights before them are in {self._saving.newest}")
        self._evaluations.report()
        if self.finished:  # save_last saves and finish evaluates
            return
        if self.state.crossed(self.config.eval_every):
            self._evaluations.start(self._evaluations.snapshot())
        if self.state.crossed(self.config.checkpoint_every):
            self._save()

    def save_last(self, signal: Signals | None) -> None:
        """Saves a run whose loop has ended, and says how one that a signal stopped goes on."""
        path = self._save(last=True)
        if signal and path:
            self._metrics.say(
                f"{signal.name} at step {self.state.steps:,}, checkpoint {path}\n"
                f"go on: fastsac train --resume {shown(self.path)}"
            )

    def finish(self) -> TrainResult:
        """Evaluates in dm_control and reports.

        Raises:
            NotFiniteError: the return is no finite number.
        """
        snapshot = self._evaluations.snapshot()
        self._evaluations.report_all()
        result = self._evaluations.evaluate_last(snapshot)
        self._save(last=True)  # once more: it asks for no evaluation, and has this one's row
        seconds = snapshot[1]["seconds"]
        done = TrainResult(self.path, self.state.steps, self.state.updates, seconds, result)
        self._report(done)
        self._ranks.publish(done)
        result.require_finite(self.config.task)
        return done

    def _save(self, required: bool = False, last: bool = False) -> Path | None:
        return self._saving.save(self._evaluations.state_dict(self.finished), required, last)

    def _report(self, done: TrainResult) -> None:
        """Writes result.json and says what came out."""
        figures = {"steps": done.steps, "updates": done.updates, "seconds": done.seconds}
        result = done.evaluation
        try:
            self._directory.write(RESULT, figures | result.as_dict())
        except OSError as error:
            self._metrics.say(f"warning: {error}")
        newest, run = shown(self._saving.newest or self.path), shown(self.path)
        self._metrics.say(
            f"trained {done.steps:,} steps and {done.updates:,} updates in {done.seconds:.0f} s\n"
            f"return in dm_control over {len(result.returns)} episodes: "
            f"{result.mean:.1f} +- {result.std:.1f}\n"
            f"checkpoint {newest}\nagain: fastsac eval {run}"
        )

    def _close_profiler(self) -> None:
        if self._profiler and (sentence := self._profiler.close()):
            self._metrics.say(sentence)
