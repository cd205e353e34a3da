"""Level 3: the whole training loop, what its parts cost alone, and whole loops of peers.

"ours" is `fastsac train` itself, logging included, without evaluations and checkpoints. "env"
(the vector env's step), "learner" (acting and the updates) and "transfer" (n-step returns, and
what brings transitions into the replay) are the same work alone, so that a part's rate says which
share of the loop's time it would take; what they leave is the host's, and where they sum to more
than the whole they ran at once. "busy" is "ours" on a CPU beside as many busy programs as it has
cores.
"""

import dataclasses
import io
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fastsac.bench import peers
from fastsac.bench.envs import open_ours as open_env
from fastsac.bench.harness import Case
from fastsac.bench.stepping import trained
from fastsac.training.config import TrainConfig
from fastsac.training.interruption import StopSignals
from fastsac.training.loop import train_loop
from fastsac.training.presets import preset_config
from fastsac.training.run import TrainingRun

_ENDLESS = 1 << 40
_CAPACITY = 100_000  # transitions: enough to draw from, and less memory than a run's


def cases(quick: bool) -> list[Case]:
    """The paper's setting beside peers in it, and the preset for this kind of machine."""
    gpu = torch.cuda.is_available()
    preset, tasks = ("fast", ["humanoid_walk"]) if gpu else ("cpu", ["cheetah_run"])
    if not (gpu or quick):
        tasks.append("humanoid_walk")
    split = [case for task in tasks for case in _split(task, preset)]
    return [*split, *_beside_peers("cheetah_run", quick)]


def _split(task: str, preset: str) -> Iterator[Case]:
    config = _config(task, preset)
    opened = {
        "ours": partial(_open_loop, config),
        "env": partial(open_env, task, config.engine, config.num_envs),
        "learner": partial(_open_part, config, _learn),
        "transfer": partial(_open_part, config, _transfer),
    }
    if torch.cuda.is_available():  # MJX is for tests on a CPU
        brax = partial(
            peers.opened,
            "brax_sac",
            "open_training",
            task,
            num_envs=config.num_envs,
            hidden_sizes=config.sac.hidden_sizes,
            batch_size=config.batch_size,
            grad_updates_per_step=config.updates_per_vector_step,
        )
        opened |= {"brax": partial(brax, impl="jax"), "brax-warp": partial(brax, impl="warp")}
    else:
        opened["busy"] = partial(_open_busy, config)
    return _group(config, opened)


def _beside_peers(task: str, quick: bool) -> Iterator[Case]:
    opened = {
        "ours": partial(_open_loop, _config(task, "seed")),
        "sb3": partial(peers.opened, "sb3", "open_training", task),
        "sbx": partial(peers.opened, "sbx", "open_training", task),
        "eager": partial(peers.opened, "plain_sac", "open_training", task, "eager"),
    }
    if not quick:
        plain = partial(peers.opened, "plain_sac", "open_training")
        opened["compile"] = partial(plain, task, "compile")
    return _group(_config(task, "seed"), opened)


def _config(task: str, preset: str) -> TrainConfig:
    never = dict.fromkeys(("total_steps", "eval_every", "checkpoint_every"), _ENDLESS)
    kept = dict(replay_capacity=_CAPACITY, checkpoint_replay=False, strict=True)
    return preset_config(task, preset, **kept, **never)


def _group(config: TrainConfig, opened: dict[str, Any]) -> Iterator[Case]:
    for variant, open_case in opened.items():
        yield Case(
            labels={
                "task": config.task,
                "preset": config.preset,
                "num_envs": config.num_envs,
                "updates_per_step": config.updates_per_vector_step,
                "variant": variant,
            },
            unit="env steps",
            open=open_case,
            group=f"{config.task} {config.preset}",
            baseline=variant == "ours",
        )


class _Loop(TrainingRun):
    """A run whose loop ends after some vector steps, to be gone on with."""

    def advance(self, count: int) -> int:
        """Trains for so many vector steps and returns the environment steps."""
        self._left = count
        self.finished = False
        with StopSignals() as signals, redirect_stderr(io.StringIO()):
            train_loop(self.config, self, signals)
        signals.raise_received()
        self.wait()
        return count * self.config.num_envs

    def wait(self) -> None:
        """Waits for what a GPU has yet to do of it: it belongs to this repetition's time."""
        if self.state.env.device.type == "cuda":
            torch.cuda.synchronize()

    def after_step(self) -> None:
        """Does what a run does, and counts."""
        super().after_step()
        self._left -= 1
        self.finished = self._left == 0


@contextmanager
def _started(config: TrainConfig) -> Iterator[_Loop]:
    """A run that has begun to learn, in a directory that is gone afterwards."""
    with ExitStack() as opened:
        parent = opened.enter_context(tempfile.TemporaryDirectory())
        config = dataclasses.replace(config, run_dir=str(Path(parent) / "run"))
        with redirect_stderr(io.StringIO()):
            run = opened.enter_context(_Loop(config))
        run.advance(-(-config.learning_starts // config.num_envs) + config.n_step)
        yield run


@contextmanager
def _open_loop(config: TrainConfig) -> Iterator[Callable[[], int]]:
    with _started(config) as run:
        yield trained(run.advance)


@contextmanager
def _open_busy(config: TrainConfig) -> Iterator[Callable[[], int]]:
    with _started(config) as run, ExitStack() as opened:
        others = []
        for _ in range(len(os.sched_getaffinity(0))):
            other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            opened.callback(other.wait)
            opened.callback(other.kill)
            other.send_signal(signal.SIGSTOP)
            others.append(other)

        def advance(count: int) -> int:
            for other in others:
                other.send_signal(signal.SIGCONT)
            try:
                return run.advance(count)
            finally:
                for other in others:
                    other.send_signal(signal.SIGSTOP)

        yield trained(advance)


@contextmanager
def _open_part(config: TrainConfig, part: Callable[[_Loop], None]) -> Iterator[Callable[[], int]]:
    with _started(config) as run:

        def advance(count: int) -> int:
            for _ in range(count):
                part(run)
            run.wait()
            return count * config.num_envs

        yield trained(advance)


def _learn(run: _Loop) -> None:
    run.state.agent.observe(run.state.obs)
    run.state.action()
    run.learn()


def _transfer(run: _Loop) -> None:
    state, device = run.state, run.state.env.device
    action = torch.zeros(state.env.num_envs, state.env.action_dim, device=device)
    reward, no = torch.zeros_like(action[:, 0]), torch.zeros_like(action[:, 0], dtype=torch.bool)
    batch = state.returns.add(state.obs, action, reward, no, no, state.obs, ~no)
    if batch is not None:
        state.replay.add(*batch)
    state.episodes.add(reward, no, ~no)
