"""What a sweep is: tasks x seeds x flags of `fastsac train`, and the runs that come of them."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastsac.learner.config import SACConfig
from fastsac.runs.directory import short_name
from fastsac.training.config import TrainConfig
from fastsac.training.presets import preset_config, preset_for
from fastsac.typed_fields import require

# Where a trial's configuration says which of its setting's runs it is; Tune's Repeater names it.
RUN_INDEX = "__trial_index__"
RUNS = "runs"  # in the sweep's directory

Flags = dict[str, Any]  # fields of TrainConfig and SACConfig


@dataclasses.dataclass(frozen=True)
class Tried:
    """Values of a flag: all of a grid, one of a choice, or what is drawn between two ends.

    Attributes:
        kind: grid, choice, uniform, loguniform or randint, as Tune names them.
        values: of a grid or a choice; or both ends, of which randint leaves out the upper.
    """

    kind: str
    values: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Asha:
    """Asynchronous successive halving (arXiv 1810.05934), among the runs of a task.

    Attributes:
        grace: environment steps before a run may be stopped.
        reduction: one run of so many goes on at a rung; the next rung is so many times as far.
    """

    grace: int
    reduction: float = 4.0


@dataclasses.dataclass(frozen=True)
class Spec:
    """A sweep that can be run.

    Attributes:
        tasks: names of tasks.
        seeds: of the runs.
        flags: by field: a value, or a Tried.
        search: how what is drawn is drawn: "random" or "optuna".
        samples: how many settings are drawn.
        asha: what stops runs early, or None.
        cpu: cores of a run.
        gpu: GPUs of a run, or a part of one.
    """

    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    flags: Flags
    search: str
    samples: int
    asha: Asha | None
    cpu: float
    gpu: float

    @property
    def tried(self) -> dict[str, Tried]:
        """The flags that differ between settings."""
        return {name: value for name, value in self.flags.items() if isinstance(value, Tried)}

    @property
    def runs(self) -> list[tuple[str, int]]:
        """The task and the seed of each run of a setting."""
        return [(task, seed) for task in self.tasks for seed in self.seeds]

    def of_trial(self, trial: Flags) -> tuple[str, int, Flags]:
        """Returns task, seed and setting of what Tune calls a trial's configuration."""
        setting = {name: as_tuples(trial[name]) for name in self.tried}
        return *self.runs[trial[RUN_INDEX]], setting

    def run_dir(self, output: Path, trial: Flags, trial_id: str) -> Path:
        """Returns where a trial's run is, in the sweep's directory."""
        task, seed, _ = self.of_trial(trial)
        return output / RUNS / f"{short_name(task)}-{seed}-{trial_id}"

    @property
    def settings(self) -> int:
        """How many settings there are."""
        grids = [len(one.values) for one in self.tried.values() if one.kind == "grid"]
        return self.samples * math.prod(grids)

    def config(self, task: str, seed: int, setting: Flags, **others: Any) -> TrainConfig:
        """Returns the configuration of a run.

        Args:
            task: its name.
            seed: the run's.
            setting: the values of what is tried.
            **others: fields of TrainConfig that no flag sets.

        Raises:
            ConfigError: `fastsac train` would refuse it.
        """
        flags = {name: as_tuples(value) for name, value in (self.flags | setting).items()}
        worlds = flags.get("num_envs", 1)
        preset = flags.pop("preset", None) or preset_for(worlds if isinstance(worlds, int) else 1)
        sac = {name: flags.pop(name) for name in flags.keys() & SACConfig.__dataclass_fields__}
        algorithm = dataclasses.replace(preset_config(task, preset).sac, **sac)
        return preset_config(task, preset, seed=seed, sac=algorithm, **flags, **others)

    def edges(self, task: str) -> Iterator[TrainConfig]:
        """Yields configurations of a task, with each value or end of what is tried at least once.

        Raises:
            ConfigError: `fastsac train` would refuse one of them.
        """
        ends = {name: _ends(one) for name, one in self.tried.items()}
        first = {name: values[0] for name, values in ends.items()}
        for seed in self.seeds:
            yield self.config(task, seed, first)
        for name, values in ends.items():
            for value in values[1:]:
                yield self.config(task, self.seeds[0], first | {name: value})


def require_evaluations(asha: Asha, config: TrainConfig) -> None:
    """Refuses ASHA where it would have no say in a run.

    Raises:
        ConfigError: it ends before its first evaluation, or before ASHA's first rung.
    """
    total, task = config.total_steps, short_name(config.task)
    require(
        config.eval_every < total,
        f"asha needs an evaluation before a run's end, and --eval-every {config.eval_every} leaves "
        f"none in {task}'s --total-steps {total}",
    )
    require(
        asha.grace < total,
        f"asha's grace of {asha.grace} steps leaves none of {task}'s --total-steps {total}",
    )


def _ends(one: Tried) -> tuple[Any, ...]:
    if one.kind == "randint":
        return one.values[0], one.values[1] - 1
    return one.values


def as_tuples(value: Any) -> Any:
    """Returns a value with tuples for lists, as the configurations have them."""
    return tuple(map(as_tuples, value)) if isinstance(value, list | tuple) else value
