"""ASHA among the runs of each task."""

from pathlib import Path
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

from fastsac.errors import RunError
from fastsac.runs.listing import read_progress
from fastsac.sweep.spec import Spec

METRIC = "eval_return"


class AshaByTask(FIFOScheduler):
    """Tune's ASHA, one a task, since the returns of different tasks do not compare.

    Tune saves no scheduler, so each trial that is added brings the evaluations that its run has on
    disk: a sweep that goes on knows the rungs of the one before.

    Args:
        spec: the sweep's, with its asha.
        output: the sweep's directory.
    """

    def __init__(self, spec: Spec, output: Path):
        super().__init__()
        assert spec.asha
        self._spec, self._output = spec, output
        self._of_task = {
            task: ASHAScheduler(
                time_attr="step",
                metric=METRIC,
                mode="max",
                max_t=max(config.total_steps for config in spec.edges(task)),
                grace_period=spec.asha.grace,
                reduction_factor=spec.asha.reduction,
                stop_last_trials=False,
            )
            for task in spec.tasks
        }

    def on_trial_add(self, controller: Any, trial: Any) -> None:
        """Takes a new trial, or one that was there before."""
        self._asha(trial).on_trial_add(controller, trial)
        run = self._spec.run_dir(self._output, trial.config, trial.trial_id)
        try:
            evaluations, _ = read_progress(run)
        except RunError:  # the trial will say so
            return
        for step, value in zip(evaluations["step"], evaluations[METRIC], strict=True):
            self._asha(trial).on_trial_result(controller, trial, {"step": step, METRIC: value})

    def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Says whether a trial goes on after an evaluation."""
        return self._asha(trial).on_trial_result(controller, trial, result)

    def on_trial_complete(self, controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Hears a trial's last evaluation."""
        self._asha(trial).on_trial_complete(controller, trial, result)

    def on_trial_remove(self, controller: Any, trial: Any) -> None:
        """Forgets a trial that will not run."""
        self._asha(trial).on_trial_remove(controller, trial)

    def _asha(self, trial: Any) -> ASHAScheduler:
        return self._of_task[self._spec.of_trial(trial.config)[0]]
