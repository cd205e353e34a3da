"""A run's configuration: a frozen dataclass from which the command line is generated."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fastsac.errors import RunError
from fastsac.learner.config import SACConfig, sac_from_json
from fastsac.runs.directory import CONFIG, recorded
from fastsac.typed_fields import require, require_types

# Of the evaluations' initial states: others than a training's, unless its --seed is this one.
EVAL_SEED = 10_000

_LEAST = {
    "seed": 0,
    "num_envs": 1,
    "total_steps": 1,
    "noise_steps": 1,
    "learning_starts": 0,
    "batch_size": 1,
    "n_step": 1,
    "replay_capacity": 1,
    "eval_every": 1,
    "eval_episodes": 1,
    "final_eval_episodes": 1,
    "checkpoint_every": 1,
    "keep_checkpoints": 1,
}


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A training run; the defaults are the paper's setting with one world."""

    task: Annotated[str, tyro.conf.Suppress]
    """Task name, of `fastsac tasks`, or the path of a Python file that registers one."""
    preset: Literal["seed", "cpu", "fast"] = "seed"
    """Defaults; `fastsac train` picks cpu from 16 worlds on and fast from 1024 on by itself."""
    seed: int = 0
    """Of everything random in the run."""
    num_envs: int = 1
    """Worlds stepped at once; under torchrun each rank's."""
    engine: Literal["auto", "native", "warp", "mjx"] = "auto"
    """Physics: native is C MuJoCo on the CPU, warp and mjx run on the GPU; auto picks."""
    solver: Literal["faithful", "fast"] = "faithful"
    """MJX's constraint solver in float32: fast declares its error in bench/results/solver.md."""
    device: str | None = None
    """Of learner and replay, cpu or cuda; None is the engine's, and with auto cuda if any."""
    total_steps: int = 1_000_000
    """Environment steps (control steps summed over worlds, of all ranks) to train for."""
    max_seconds: float | None = None
    """Wall-clock seconds after which training ends before its total steps."""
    noise_steps: int = 1
    """Most vector steps that a world keeps one exploration noise; k of them as often as 1 / k^2."""
    learning_starts: int = 5_000
    """Environment steps with uniformly random actions before the first update."""
    batch_size: int = 256
    """Transitions per gradient update."""
    n_step: int = 1
    """Rewards that a transition sums before it bootstraps, fewer where its episode ends."""
    updates_per_step: int | None = None
    """Gradient updates per vector step; None is num_envs, one per environment step."""
    replay_capacity: int = 1_000_000
    """Transitions kept."""
    eval_every: int = 10_000
    """Environment steps between evaluations."""
    eval_episodes: int = 5
    """Episodes per evaluation during training."""
    eval_backend: Literal["dm_control", "engine"] = "engine"
    """What evaluations during training step: the native engine at once, or dm_control in turn."""
    final_eval_episodes: int = 10
    """Episodes of the final evaluation, in dm_control."""
    checkpoint_every: int = 50_000
    """Environment steps between checkpoints."""
    keep_checkpoints: int = 2
    """Newest checkpoints to keep, besides the best evaluated policy."""
    checkpoint_replay: bool | None = None
    """Save the replay with the checkpoints, so that --resume loses nothing; None: below 2 GB."""
    log_seconds: float = 5.0
    """Seconds between rows of metrics.csv; reading the losses waits for the device."""
    wandb: bool = False
    """Send config and metrics to Weights & Biases too; WANDB_MODE=offline keeps them in wandb/."""
    profile: bool = False
    """Write trace.json, some vector steps after learning began, for a browser's trace viewer."""
    strict: bool = False
    """End the run where a GPU's kernel or CUDA graph fails, instead of going on more slowly."""
    start_from: str | None = None
    """Policy to begin with, its actor and observation statistics: zoo:walker_run, a run, a file."""
    run_dir: str | None = None
    """Where the run is written; None is runs/TASK-DATE-TIME."""
    sac: tyro.conf.OmitArgPrefixes[SACConfig] = SACConfig()
    """The algorithm."""

    def __post_init__(self) -> None:
        require_types(self)
        for flag, least in _LEAST.items():
            value = getattr(self, flag)
            sentence = f"--{flag.replace('_', '-')} must be at least {least}, got {value}"
            require(value >= least, sentence)
        require(self.seed < 2**32, f"--seed must be below 2**32, got {self.seed}")
        require(
            self.noise_steps <= 1000, f"--noise-steps must be at most 1000, got {self.noise_steps}"
        )
        require(
            self.updates_per_step is None or self.updates_per_step >= 1,
            f"--updates-per-step must be at least 1, got {self.updates_per_step}",
        )
        require(
            self.max_seconds is None or self.max_seconds > 0,
            f"--max-seconds must be positive, got {self.max_seconds}",
        )
        require(self.log_seconds > 0, f"--log-seconds must be positive, got {self.log_seconds}")
        require(
            self.run_dir is None or (self.run_dir != "" and "\0" not in self.run_dir),
            f"--run-dir must be a path, got {self.run_dir!r}",
        )
        require(
            self.start_from is None or (self.start_from != "" and "\0" not in self.start_from),
            f"--start-from must be a run, a policy's file or zoo:TASK, got {self.start_from!r}",
        )
        require(
            self.replay_capacity >= self.num_envs,
            f"--replay-capacity {self.replay_capacity} cannot hold one step of "
            f"--num-envs {self.num_envs} worlds",
        )
        require(
            self.learning_starts < self.total_steps,
            f"--learning-starts {self.learning_starts} leaves nothing to learn in "
            f"--total-steps {self.total_steps}",
        )
        self.require_updates()

    def require_updates(self, ranks: int = 1) -> None:
        """Refuses a run that ends before its first update.

        Args:
            ranks: how many processes have num_envs worlds each.

        Raises:
            ConfigError: it does.
        """
        worlds = self.num_envs * ranks
        before = max(math.ceil(self.learning_starts / worlds), self.n_step) * worlds
        of_ranks = f" in each of {ranks} ranks" if ranks > 1 else ""
        require(
            before < self.total_steps,
            f"the first update comes after {before} steps (--learning-starts "
            f"{self.learning_starts}, --n-step {self.n_step}, --num-envs {self.num_envs}"
            f"{of_ranks}): none in --total-steps {self.total_steps}",
        )

    @property
    def updates_per_vector_step(self) -> int:
        """Gradient updates after each vector step."""
        return self.num_envs if self.updates_per_step is None else self.updates_per_step


def to_json(config: TrainConfig) -> str:
    """Returns the whole configuration as JSON."""
    return json.dumps(dataclasses.asdict(config), indent=2)


def from_json(text: str) -> TrainConfig:
    """Returns the configuration that ``to_json`` wrote.

    Raises:
        KeyError, TypeError, ValueError: it is none of this version.
        ConfigError: a field is out of range.
    """
    return TrainConfig(**json.loads(text) | {"sac": sac_from_json(text)})


def recorded_config(path: Path) -> TrainConfig:
    """Returns the configuration in a run's directory.

    Raises:
        RunError: there is no run, or config.json is damaged or of another version.
    """
    config = recorded(path, from_json)
    if config is None:
        raise RunError(f"{path} holds no run: there is no {path / CONFIG}")
    return config
