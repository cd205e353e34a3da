"""One run of a sweep, in a process of Ray's."""

import contextlib
import shutil
import time
from pathlib import Path

from fastsac.envs.compilation_cache import use_compilation_cache
from fastsac.errors import RunError
from fastsac.runs.checkpoint_file import files_of
from fastsac.runs.directory import RESULT, is_running
from fastsac.runs.listing import read_metrics
from fastsac.sweep.spec import Flags, Spec
from fastsac.training.callbacks import Row
from fastsac.training.loop import resume, train

# A process whose driver was killed has let go of its run by then.
_PATIENCE_SECONDS = 60.0


def train_trial(trial: Flags, spec: Spec, output: str) -> None:
    """Trains a run, goes on with it, or finds it finished; tells Tune of each evaluation.

    Args:
        trial: Tune's configuration of it: the values of what is tried, and which run it is.
        spec: the sweep's.
        output: the sweep's directory, which all machines see.

    Raises:
        UserError: the run cannot be trained or gone on with.
    """
    from ray import tune

    run = spec.run_dir(Path(output), trial, tune.get_context().get_trial_id())
    task, seed, setting = spec.of_trial(trial)
    config = spec.config(task, seed, setting, run_dir=str(run))

    def report(row: Row) -> None:
        # Where it has done its steps, Tune hears of the return once the run is complete: it may
        # stop whom it has heard.
        if row["step"] < config.total_steps:
            tune.report(dict(row))

    run.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{run}.log").open("a") as log, contextlib.redirect_stderr(log):
        _wait_until_free(run)
        use_compilation_cache()
        if not (run / RESULT).exists():
            if files_of(run):
                resume(run, on_evaluation=report)
            else:
                shutil.rmtree(run, ignore_errors=True)  # killed before its first checkpoint
                train(config, on_evaluation=report)
    tune.report(last_row(run))


def last_row(run: Path) -> dict[str, float]:
    """Returns a run's last evaluation.

    Raises:
        RunError: it has none, or is damaged.
    """
    evaluations, _ = read_metrics(run)
    if not len(evaluations["step"]):
        raise RunError(f"{run} has no evaluation")
    return {name: float(values[-1]) for name, values in evaluations.items()}


def _wait_until_free(run: Path) -> None:
    ends = time.monotonic() + _PATIENCE_SECONDS
    while is_running(run) and time.monotonic() < ends:
        time.sleep(1)
