"""The training loop."""

import dataclasses
from pathlib import Path
from typing import Any

from fastsac.errors import ConfigError
from fastsac.training.callbacks import Callback, Callbacks
from fastsac.training.config import TrainConfig, recorded_config
from fastsac.training.follower import Follower
from fastsac.training.interruption import StopSignals
from fastsac.training.memory_plan import out_of_memory
from fastsac.training.ranks import Ranks, joined
from fastsac.training.run import TrainingRun, TrainResult
from fastsac.training.task_of_run import task_of

# What a resumed run may be given anew: nothing that its training depends on.
_CHANGEABLE = {
    "total_steps",
    "max_seconds",
    "eval_every",
    "eval_episodes",
    "eval_backend",
    "final_eval_episodes",
    "checkpoint_every",
    "keep_checkpoints",
    "checkpoint_replay",
    "log_seconds",
    "profile",
    "strict",
    "wandb",
}


def train(
    config: TrainConfig, *, on_log: Callback | None = None, on_evaluation: Callback | None = None
) -> TrainResult:
    """Trains a policy and returns its return in the real dm_control.

    SIGINT and SIGTERM end the training after the vector step under way, with a checkpoint; then
    KeyboardInterrupt or SystemExit is raised. Under torchrun each rank calls it with the same
    configuration, and all return rank 0's result.

    Args:
        config: the run's.
        on_log: called with each row of metrics.csv that is no evaluation's, every ``log_seconds``;
            under torchrun in rank 0. Returning True ends the run as its time limit does, with a
            checkpoint and the final evaluation. What it raises ends it as an error does, and is
            raised: ``resume`` goes on from the newest checkpoint.
        on_evaluation: likewise, with each evaluation's row, the final one's included: "step",
            "updates", "seconds", "cpu_seconds", "eval_return" and "eval_return_std".

    Raises:
        UserError: the configuration cannot be run here; nothing was trained.
        NotFiniteError: too many updates in a row were skipped, or no reward or observation was a
            finite number, or the return is none; there is a checkpoint.
        RankError: another rank of torchrun has ended.
    """
    return _run(config, None, Callbacks(on_log, on_evaluation))


def resume(
    run_dir: str | Path,
    *,
    on_log: Callback | None = None,
    on_evaluation: Callback | None = None,
    **changes: Any,
) -> TrainResult:
    """Goes on with a run from its newest good checkpoint, as if nothing had stopped it.

    On the CPU the policy is the uninterrupted run's to the last bit, if the replay was saved.

    Args:
        run_dir: the run's directory.
        on_log: as ``train``'s.
        on_evaluation: as ``train``'s.
        **changes: fields of TrainConfig that do not change what is trained, such as total_steps.

    Raises:
        UserError: no run or no good checkpoint there, another process trains it, it has done its
            steps, or a change is not allowed.
    """
    path = Path(run_dir)
    recorded = recorded_config(path)
    try:
        config = dataclasses.replace(recorded, **changes)
    except TypeError as error:
        raise ConfigError(f"unknown field: {error}") from error
    for name, before in vars(recorded).items():
        if name not in _CHANGEABLE and getattr(config, name) != before:
            flag = name.replace("_", "-")
            raise ConfigError(
                f"a resumed run keeps its --{flag}"
                if name != "sac"
                else "a resumed run keeps its algorithm's flags"
            )
    return _run(config, path, Callbacks(on_log, on_evaluation))


def _run(config: TrainConfig, resumed: Path | None, callbacks: Callbacks) -> TrainResult:
    try:
        with joined() as ranks:
            resumed = resumed or ranks.remembered()
            with task_of(resumed, config.task):
                if ranks.rank:
                    return _follow(config, ranks)
                return _lead(config, resumed, ranks, callbacks)
    except (MemoryError, RuntimeError) as error:
        if sentence := out_of_memory(error, config):
            raise ConfigError(sentence) from error
        raise


def _lead(
    config: TrainConfig, resumed: Path | None, ranks: Ranks, callbacks: Callbacks
) -> TrainResult:
    signals = StopSignals(hold=ranks.size > 1)
    with TrainingRun(config, resumed, ranks, signals, callbacks) as run:
        with signals:
            run.say_ignored(signals.ignored)
            train_loop(config, run, signals)
            run.save_last(signals.received)
            ranks.agree(signals, False, False)  # on a signal that came meanwhile
        signals.raise_received()
        return run.finish()


def _follow(config: TrainConfig, ranks: Ranks) -> TrainResult:
    signals = StopSignals(hold=True)
    with Follower(config, ranks, signals) as run:
        with signals:
            train_loop(config, run, signals)
            run.save_last()
            ranks.agree(signals, False, False)
        signals.raise_received()
        return run.finish()


def train_loop(config: TrainConfig, run: TrainingRun | Follower, signals: StopSignals) -> None:
    """Algorithm 1 of arXiv 1812.05905, with num_envs worlds."""
    state = run.state
    env, agent = state.env, state.agent
    while not (run.finished or signals.received):
        agent.observe(state.obs)
        action = state.action()
        env.send(action)
        if state.learns:
            run.learn()  # while the physics runs
        obs, reward, terminated, truncated, info = env.recv()
        valid = ~info["invalid"]
        ends = terminated | truncated
        batch = state.returns.add(
            state.obs, action, reward, terminated, ends, info["final_obs"], valid
        )
        if batch is not None:
            state.replay.add(*batch)
        state.episodes.add(reward, ends, valid)
        state.invalid += info["invalid"].sum()
        state.faults.add(info["fault"], state.steps)
        state.steps += state.worlds
        state.obs = obs
        run.after_step()
