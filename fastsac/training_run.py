"""What a training run does around its loop: it logs, evaluates, saves and ends."""

import dataclasses
import math
import shutil
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from signal import Signals
from typing import Self

import torch

from fastsac.background import BackgroundEvaluator
from fastsac.config import EVAL_SEED, TrainConfig
from fastsac.errors import CheckpointError, NotFiniteError, RunError
from fastsac.evaluation import Evaluation, evaluate
from fastsac.learner.policy import Policy
from fastsac.memory_plan import out_of_memory
from fastsac.profiling import Profiler
from fastsac.runs import checkpoint_file
from fastsac.runs.checkpoints import Resumed, RunCheckpoints
from fastsac.runs.directory import CONFIG, RESULT, RunDirectory, create
from fastsac.runs.metrics import MetricsWriter
from fastsac.runs.wandb_run import require_wandb
from fastsac.saving import about_policy, disk_bytes, saves_replay
from fastsac.training_state import TrainingState

# Files of a run besides its checkpoints: metrics and TensorBoard events.
_METRICS_BYTES = 16_000_000
_ROUNDING = 1e-5  # of rewards in float32
# Skipped updates in a row, as of a log interval, after which nothing will come of a run any more.
_MOST_SKIPPED = 100


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a training run ends with.

    Attributes:
        run_dir: where everything is.
        steps: environment steps done.
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
    """A run's state, files and threads; a context that closes them.

    Args:
        config: the run's.
        resumed: the directory of the run to go on with; None starts a new one.

    Attributes:
        state: what it trains.
        finished: whether its steps or its time are used up.

    Raises:
        UserError: it cannot be run here, or there is nothing to go on from.
    """

    def __init__(self, config: TrainConfig, resumed: Path | None = None):
        self._started = time.monotonic()
        self.config = config
        self._losses: dict[str, torch.Tensor] = {}
        self._warned = False
        self._save_seconds = 0.0
        self._best = -math.inf
        self.finished = False
        self._saved: Path | None = None  # the newest checkpoint
        if config.wandb:
            require_wandb()
        with ExitStack() as opened:
            if resumed:  # before the set-up, which takes seconds
                self._directory = RunDirectory(resumed)
                opened.callback(self._directory.close)
            loaded = Resumed(resumed, config.task) if resumed else None
            self.state = TrainingState(config)
            opened.callback(self.state.close)
            if not loaded:
                needed = disk_bytes(config, self.state.agent, self.state.replay) + _METRICS_BYTES
                self._directory = create(dataclasses.asdict(config), needed)
                opened.callback(self._directory.close)
                opened.push(self._discard_if_failed)
            used = loaded.used if loaded else None
            self._checkpoints = RunCheckpoints(
                self.path,
                about_policy(config, self.state.replay),
                config.keep_checkpoints,
                self.state.replay if saves_replay(config, self.state.replay) else None,
                used,
            )
            self._evaluator = BackgroundEvaluator(
                config.task, config.eval_episodes, config.eval_backend
            )
            opened.callback(self._evaluator.close)
            if notice := self.state.env.engine.compile_notice:
                print(notice, file=sys.stderr, flush=True)
            if loaded:
                self._saved = list(loaded.used)[-1]
                self._load(loaded)
            else:
                self.state.start()
            self._metrics = self._open_metrics(loaded)
            opened.callback(self._metrics.close)
            if not loaded:
                self._save(required=True)  # a disk that takes no checkpoint is found out now
            self._profiler = Profiler(self.path) if config.profile else None
            opened.callback(self._close_profiler)
            self._opened = opened.pop_all()
        self.finished = self.state.steps >= config.total_steps
        self._logged = (self.state.steps, self.state.updates, time.monotonic())
        how = f"{config.task}, {config.num_envs} worlds on {self.state.env.engine_name}"
        whither = f"going on at step {self.state.steps:,} of" if loaded else "run in"
        self._metrics.say(
            f"fastsac: {how}, learner on {self.state.env.device}, {whither} {self.path}"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    @property
    def path(self) -> Path:
        """The run's directory."""
        return self._directory.path

    def learn(self) -> None:
        """Does a vector step's updates."""
        updates = self.config.updates_per_vector_step
        with torch.profiler.record_function("updates"):
            self._losses |= self.state.agent.learn(
                self.state.replay, self.config.batch_size, updates
            )
        self.state.updates += updates
        if self._profiler and (sentence := self._profiler.step()):
            self._metrics.say(sentence)
            self._profiler = None

    def after_step(self) -> None:
        """Logs, evaluates and saves when it is time to.

        Raises:
            NotFiniteError: too many updates in a row were skipped; a checkpoint was saved.
            Exception: whatever stopped the thread that draws initial states.
        """
        limit = self.config.max_seconds
        # So that the checkpoint is there when the time is up.
        seconds = time.monotonic() - self._started + 2 * self._save_seconds
        out_of_time = limit is not None and seconds >= limit
        self.finished = out_of_time or self.state.steps >= self.config.total_steps
        if self.finished or time.monotonic() - self._logged[2] >= self.config.log_seconds:
            self._log()
        self._report_evaluation(wait=False)
        if self.finished:  # save_last saves and finish evaluates
            return
        if self._due(self.config.eval_every):
            self._evaluator.start(*self._snapshot())
        if self._due(self.config.checkpoint_every):
            self._save()

    def save_last(self, signal: Signals | None) -> None:
        """Saves a run whose loop has ended, and says how one that a signal stopped goes on."""
        path = self._save()
        if signal and path:
            self._metrics.say(
                f"{signal.name} at step {self.state.steps:,}, checkpoint {path}\n"
                f"go on: fastsac train --resume {self.path}"
            )

    def finish(self) -> TrainResult:
        """Evaluates in dm_control and reports."""
        policy, counters = self._snapshot()
        while self._evaluator.pending:
            self._report_evaluation(wait=True)
        self._save()  # once more, now that it asks for no evaluation
        result = evaluate(policy, self.config.task, self.config.final_eval_episodes, EVAL_SEED)
        self._write_evaluation(policy, counters, result)
        steps, updates, seconds = self.state.steps, self.state.updates, counters["seconds"]
        done = {"steps": steps, "updates": updates, "seconds": seconds, **result.as_dict()}
        try:
            self._directory.write(RESULT, done)
        except OSError as error:
            self._metrics.say(f"warning: {error}")
        self._metrics.say(
            f"trained {steps:,} steps and {updates:,} updates in {seconds:.0f} s\n"
            f"return in dm_control over {len(result.returns)} episodes: "
            f"{result.mean:.1f} +- {result.std:.1f}\n"
            f"checkpoint {self._saved}\nagain: fastsac eval {self.path}"
        )
        return TrainResult(self.path, steps, updates, seconds, result)

    def _discard_if_failed(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leaves nothing behind of a run that could not begin."""
        if kind is not None:
            shutil.rmtree(self.path)

    def _open_metrics(self, loaded: Resumed | None) -> MetricsWriter:
        limits = self.config.total_steps, self._started, self.config.max_seconds
        before = loaded.state["metrics"] | {"step": self.state.steps} if loaded else None
        wandb_config = dataclasses.asdict(self.config) if self.config.wandb else None
        try:
            metrics = MetricsWriter(self.path, *limits, before, wandb_config)
        except OSError as error:
            raise RunError(f"cannot write to the run {self.path}: {error.strerror}") from error
        for sentence in loaded.left_out if loaded else ():
            metrics.say(f"warning: {sentence}: left out")
        return metrics

    def _load(self, loaded: Resumed) -> None:
        state = loaded.state
        try:
            self.state.load_state_dict(state, loaded.rows())
            best = self._checkpoints.best_until(self.state.steps)
            self._best = max(float(state["best"]), best)
            done = self.state.steps >= self.config.total_steps
            for actor, counters in state["evaluations"] + ([] if done else state["skipped"]):
                sizes = self.state.env.obs_dim, self.state.env.action_dim
                policy = Policy(self.config.task, *sizes, self.config.sac, *actor.values())
                self._evaluator.start(policy, counters)
        except checkpoint_file.MISFITS as error:
            if out_of_memory(error, self.config):
                raise
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"the checkpoint does not fit the run {self.path}: {reason}"
            ) from error
        result = self.path / RESULT
        if done and result.exists():
            raise RunError(
                f"{self.path} has done its {self.state.steps:,} steps: give a higher --total-steps"
            )
        try:
            self._directory.write(CONFIG, dataclasses.asdict(self.config))
            result.unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"cannot write to the run {self.path}: {error}") from error

    def _snapshot(self) -> tuple[Policy, dict[str, float]]:
        return Policy.snapshot(self.state.agent, self.config.task), self._counters()

    def _close_profiler(self) -> None:
        if self._profiler and (sentence := self._profiler.close()):
            self._metrics.say(sentence)

    def _due(self, every: int) -> bool:
        """Whether the last vector step crossed a multiple of ``every``."""
        steps = self.state.steps
        return steps // every > (steps - self.config.num_envs) // every

    def _counters(self) -> dict[str, float]:
        counted = {"step": self.state.steps, "updates": self.state.updates}
        return {**counted, **self._metrics.times()}

    def _report_evaluation(self, wait: bool) -> None:
        """Writes the result of the evaluation under way, if there is one."""
        try:
            if done := self._evaluator.take(wait):
                self._write_evaluation(*done)
        except Exception as error:  # it costs its figure, not the training
            self._metrics.say(f"warning: an evaluation failed: {type(error).__name__}: {error}")

    def _write_evaluation(
        self, policy: Policy, counters: dict[str, float], result: Evaluation
    ) -> None:
        returns = {"eval_return": result.mean, "eval_return_std": result.std}
        self._metrics.write(counters | returns)
        if result.mean > self._best:
            try:
                self._checkpoints.save_best(policy, counters | returns)
                self._best = result.mean
            except OSError as error:
                self._metrics.say(f"warning: {error}")

    def _log(self) -> None:
        self.state.env.engine.check()
        steps, updates, then = self._logged
        now, state = time.monotonic(), self.state
        row: dict[str, float] = {
            "step": state.steps,
            "updates": state.updates,
            "steps_per_second": (state.steps - steps) / (now - then),
            "updates_per_second": (state.updates - updates) / (now - then),
        }
        measured = {
            "train_return": state.episodes.take_mean(),
            "invalid_transitions": state.invalid,
        }
        measured |= {"lowest": state.episodes.lowest, "highest": state.episodes.highest}
        measured |= {"in_a_row": state.agent.skipped_in_a_row, **self._losses}
        # All at once: the one time in log_seconds that the device is waited for.
        values = torch.stack([x.double() for x in measured.values()]).tolist()
        row |= dict(zip(measured, values, strict=True))
        for count in ("invalid_transitions", "skipped_updates"):
            if count in row:
                row[count] = int(row[count])
        if math.isnan(row["train_return"]):  # no episode ended
            del row["train_return"]
        self._warn_of_rewards(row.pop("lowest"), row.pop("highest"))
        in_a_row = row.pop("in_a_row")
        self._metrics.write(row)
        self._logged = (state.steps, state.updates, now)
        if in_a_row >= _MOST_SKIPPED and state.updates > updates:
            self._save()
            raise NotFiniteError(
                f"the last {in_a_row:.0f} updates had losses or gradients that are no finite "
                f"numbers and were skipped; the weights before them are in {self._saved}"
            )

    def _warn_of_rewards(self, lowest: float, highest: float) -> None:
        """Says once that a reward is none that the atoms' default range is made for."""
        sac = self.config.sac
        assumed = sac.num_atoms is not None and sac.value_range is None
        if assumed and not self._warned and (lowest < -_ROUNDING or highest > 1 + _ROUNDING):
            self._warned = True
            self._metrics.say(
                f"warning: rewards from {lowest:.3g} to {highest:.3g} are beyond the [0, 1] that "
                "the atoms' range is made for: give --value-range, or --num-atoms None"
            )

    def _save(self, required: bool = False) -> Path | None:
        """Saves a checkpoint; where the disk takes none, says so and returns None.

        Raises:
            CheckpointError: the disk takes none, and it is required.
        """
        started = time.monotonic()
        evaluations = [(p.state_dict(), counters) for p, counters in self._evaluator.pending]
        # Of the last step, which finish evaluates in its own way, should the run be extended.
        skipped = []
        if self.finished and self._due(self.config.eval_every):
            policy, counters = self._snapshot()
            skipped = [(policy.state_dict(), counters)]
        others = {"best": self._best, "evaluations": evaluations, "skipped": skipped}
        try:
            others["metrics"] = self._metrics.state_dict()
            self._saved = self._checkpoints.save(self.state.state_dict() | others)
        except OSError as error:
            if required:
                raise CheckpointError(str(error)) from error
            self._metrics.say(f"warning: {error}; the newest checkpoint is {self._saved}")
            return None
        self._save_seconds = time.monotonic() - started
        return self._saved
