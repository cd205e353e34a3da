"""The training loop."""

import dataclasses
import math
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from fastsac import checkpoint, run_directory
from fastsac.background import BackgroundEvaluator
from fastsac.config import EVAL_SEED, TrainConfig
from fastsac.envs import VectorEnv, make
from fastsac.episodes import EpisodeReturns
from fastsac.errors import CheckpointError
from fastsac.evaluation import Evaluation, evaluate
from fastsac.memory_plan import memory_plan, require_worlds
from fastsac.metrics import MetricsWriter
from fastsac.n_step import NStepReturns
from fastsac.policy import Policy, load_policy
from fastsac.profiling import Profiler
from fastsac.replay import ReplayBuffer
from fastsac.sac import SAC
from fastsac.seeding import stream_seed

# Files of a run besides its checkpoints: metrics and TensorBoard events.
_METRICS_BYTES = 16_000_000
_ROUNDING = 1e-5  # of rewards in float32


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


def train(config: TrainConfig) -> TrainResult:
    """Trains a policy and returns its return in the real dm_control.

    Raises:
        UserError: the configuration cannot be run here; nothing was trained.
    """
    run = _Run(config)
    try:
        _train_loop(config, run)
        return run.finish()
    except KeyboardInterrupt:
        run.save_interrupted()
        raise
    finally:
        run.close()


def _train_loop(config: TrainConfig, run: "_Run") -> None:
    """Algorithm 1 of arXiv 1812.05905, with num_envs worlds."""
    env, agent, replay = run.env, run.agent, run.replay
    obs, info = env.reset(seed=config.seed, options={"spread_clocks": True})
    episodes = EpisodeReturns(info["clocks"])
    returns = NStepReturns(config.n_step, config.sac.gamma)
    while not run.finished:
        agent.observe(obs)
        if run.steps < config.learning_starts:
            action = run.random_action()
        else:
            action = agent.act(obs)
        env.send(action)
        if run.steps >= config.learning_starts and len(replay):
            run.learn()  # while the physics runs
        next_obs, reward, terminated, truncated, info = env.recv()
        valid = ~info["invalid"]
        ends = terminated | truncated
        batch = returns.add(obs, action, reward, terminated, ends, info["final_obs"], valid)
        if batch is not None:
            replay.add(*batch)
        episodes.add(reward, ends, valid)
        run.invalid += info["invalid"].sum()
        run.steps += config.num_envs
        obs = next_obs
        run.after_step(episodes)


class _Run:
    """Everything around the loop: what it holds, and what it does now and then."""

    def __init__(self, config: TrainConfig):
        started = time.monotonic()
        self.config = config
        require_worlds(config)
        self.env: VectorEnv = make(
            config.task, config.num_envs, config.engine, config.device, config.seed, config.solver
        )
        obs_dim, action_dim, device = self.env.obs_dim, self.env.action_dim, self.env.device
        engine = self.env.engine
        worlds = engine.reset_bytes if engine.device.type == device.type else 0
        memory_plan(config, obs_dim, action_dim, worlds).require(config, device)
        self.replay = ReplayBuffer(config.replay_capacity, obs_dim, action_dim, device, config.seed)
        self.agent = SAC(obs_dim, action_dim, config.sac, device, config.seed)
        self.steps = self.updates = 0
        self.finished = False
        self.invalid = torch.zeros((), dtype=torch.int64, device=device)
        self.losses: dict[str, torch.Tensor] = {}
        self.evaluator = BackgroundEvaluator(config.task, config.eval_episodes, config.eval_backend)
        self._random = torch.Generator(device).manual_seed(stream_seed(config.seed, "actions"))
        self._logged = (0, 0, time.monotonic())
        weights = sum(p.numel() * 4 for p in (self.agent.actor_flat, self.agent.critics_flat))
        # Weights, targets and Adam's moments, twice: the old checkpoint and the new one.
        self.directory = run_directory.create(config, 8 * weights + _METRICS_BYTES)
        try:
            self._save(required=True)  # a disk that takes no checkpoint is found out now
        except CheckpointError:
            shutil.rmtree(self.directory)
            raise
        self.metrics = MetricsWriter(
            self.directory, config.total_steps, started, config.max_seconds
        )
        self._warned = False
        self._profiler = Profiler(self.directory) if config.profile else None
        self.metrics.say(
            f"fastsac: {config.task}, {config.num_envs} worlds on {self.env.engine_name}, "
            f"learner on {device}, run in {self.directory}"
        )

    def random_action(self) -> torch.Tensor:
        """Returns uniform actions (B, A) in [-1, 1)."""
        shape = (self.config.num_envs, self.env.action_dim)
        uniform = torch.rand(shape, device=self.env.device, generator=self._random)
        return uniform * 2 - 1

    def learn(self) -> None:
        """Does a vector step's updates."""
        updates = self.config.updates_per_vector_step
        with torch.profiler.record_function("updates"):
            self.losses |= self.agent.learn(self.replay, self.config.batch_size, updates)
        self.updates += updates
        if self._profiler and (sentence := self._profiler.step()):
            self.metrics.say(sentence)
            self._profiler = None

    def after_step(self, episodes: EpisodeReturns) -> None:
        """Logs, evaluates and saves when it is time to."""
        seconds, limit = self.metrics.times()["seconds"], self.config.max_seconds
        out_of_time = limit is not None and seconds >= limit
        self.finished = out_of_time or self.steps >= self.config.total_steps
        if self.finished or time.monotonic() - self._logged[2] >= self.config.log_seconds:
            self._log(episodes)
        self._report_evaluation(wait=False)
        if self.finished:  # finish() evaluates and saves
            return
        if self._due(self.config.eval_every):
            self._report_evaluation(wait=True)
            self.evaluator.start(Policy.snapshot(self.agent, self.config.task), self._counters())
        if self._due(self.config.checkpoint_every):
            self._save()

    def finish(self) -> TrainResult:
        """Saves, evaluates in dm_control and reports."""
        counters = self._counters()
        path = self._save(required=True)
        self._report_evaluation(wait=True)
        # Of the saved policy, so that `fastsac eval` finds the same return.
        episodes = self.config.final_eval_episodes
        result = evaluate(load_policy(path), self.config.task, episodes, EVAL_SEED)
        self._write_evaluation(counters, result)
        seconds = counters["seconds"]
        self.metrics.say(
            f"trained {self.steps:,} steps and {self.updates:,} updates in {seconds:.0f} s\n"
            f"return in dm_control over {len(result.returns)} episodes: "
            f"{result.mean:.1f} +- {result.std:.1f}\n"
            f"checkpoint {path}\nagain: fastsac eval {self.directory}"
        )
        return TrainResult(self.directory, self.steps, self.updates, seconds, result)

    def save_interrupted(self) -> None:
        """Saves what an interrupted run has learned, and says where."""
        self.metrics.say(f"interrupted at step {self.steps:,}, checkpoint {self._save()}")

    def close(self) -> None:
        """Closes files and threads."""
        if self._profiler and (sentence := self._profiler.close()):
            self.metrics.say(sentence)
        self.evaluator.close()
        self.metrics.close()
        self.env.close()

    def _due(self, every: int) -> bool:
        """Whether the last vector step crossed a multiple of ``every``."""
        return self.steps // every > (self.steps - self.config.num_envs) // every

    def _counters(self) -> dict[str, float]:
        return {"step": self.steps, "updates": self.updates, **self.metrics.times()}

    def _report_evaluation(self, wait: bool) -> None:
        """Writes the result of the evaluation under way, if there is one."""
        try:
            if done := self.evaluator.take(wait):
                self._write_evaluation(*done)
        except Exception as error:  # it costs its figure, not the training
            self.metrics.say(f"warning: an evaluation failed: {type(error).__name__}: {error}")

    def _write_evaluation(self, counters: dict[str, float], result: Evaluation) -> None:
        self.metrics.write(counters | {"eval_return": result.mean, "eval_return_std": result.std})

    def _log(self, episodes: EpisodeReturns) -> None:
        steps, updates, then = self._logged
        now = time.monotonic()
        row: dict[str, float] = {
            "step": self.steps,
            "updates": self.updates,
            "steps_per_second": (self.steps - steps) / (now - then),
            "updates_per_second": (self.updates - updates) / (now - then),
        }
        measured = {"train_return": episodes.take_mean(), "invalid_transitions": self.invalid}
        measured |= {"lowest": episodes.lowest, "highest": episodes.highest, **self.losses}
        # All at once: the one time in log_seconds that the device is waited for.
        values = torch.stack([x.double() for x in measured.values()]).tolist()
        row |= dict(zip(measured, values, strict=True))
        row["invalid_transitions"] = int(row["invalid_transitions"])  # a count
        if math.isnan(row["train_return"]):  # no episode ended
            del row["train_return"]
        self._warn_of_rewards(row.pop("lowest"), row.pop("highest"))
        self.metrics.write(row)
        self._logged = (self.steps, self.updates, now)

    def _warn_of_rewards(self, lowest: float, highest: float) -> None:
        """Says once that a reward is none that the atoms' default range is made for."""
        sac = self.config.sac
        assumed = sac.num_atoms is not None and sac.value_range is None
        if assumed and not self._warned and (lowest < -_ROUNDING or highest > 1 + _ROUNDING):
            self._warned = True
            self.metrics.say(
                f"warning: rewards from {lowest:.3g} to {highest:.3g} are beyond the [0, 1] that "
                "the atoms' range is made for: give --value-range, or --num-atoms None"
            )

    def _save(self, required: bool = False) -> Path:
        path = self.directory / checkpoint.NAME
        state: dict[str, Any] = {
            "task": self.config.task,
            "obs_dim": self.env.obs_dim,
            "action_dim": self.env.action_dim,
            "config": run_directory.to_json(self.config),
            "agent": self.agent.state_dict(),
            "counters": {"steps": self.steps, "updates": self.updates},
            "env": self.env.state_dict(),
            "rng": {
                "actions": self._random.get_state(),
                "replay": self.replay.state_dict(),
            },
        }
        try:
            checkpoint.save(path, state)
        except OSError as error:
            if required:
                raise CheckpointError(str(error)) from error
            self.metrics.say(f"warning: {error}; training goes on with the last good checkpoint")
        return path
