"""Sweeps: Ray Tune draws the settings, places the runs and remembers what is done."""

import contextlib
import dataclasses
import importlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import cuda

from fastsac.errors import ConfigError, RunError
from fastsac.runs.directory import LOCK, RunDirectory
from fastsac.sweep.spec import RUN_INDEX, RUNS, Spec
from fastsac.sweep.spec_file import read_spec
from fastsac.sweep.summary import Outcome, report
from fastsac.sweep.trial import train_trial

_SPEC = "sweep.json"
_STATE = ".tune"
# After a machine that was lost: a run goes on from its newest checkpoint.
_RETRIES = 2
_OBJECT_STORE_BYTES = 100_000_000  # of this machine's Ray; nothing large goes through it


def sweep(spec_file: Path, output: Path | None = None, address: str | None = None) -> None:
    """Trains all runs of a sweep, or goes on with them, and reports.

    Args:
        spec_file: YAML or Python.
        output: the sweep's directory; None is sweeps/ and the file's name. One with the same
            sweep in it is gone on with: what is finished is not trained again.
        address: of a running Ray cluster; None starts Ray on this machine.

    Raises:
        UserError: the specification is none, or cannot be run here; nothing was started.
        RunError: some runs failed; the others are reported.
    """
    spec = read_spec(spec_file)
    if address is None:
        _require_resources(spec)
    for package in ("ray.tune", "optuna")[: 2 if spec.search == "optuna" else 1]:
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as error:
            name = package.partition(".")[0]
            raise RunError(f"sweeps need {name}: pip install 'fastsac[sweep]'") from error
    path = (output or Path("sweeps") / spec_file.stem).absolute()
    each = f"{len(spec.tasks)} tasks x {len(spec.seeds)} seeds"
    total = spec.settings * len(spec.runs)
    with contextlib.closing(_hold(path, spec)):
        print(f"{total} runs: {spec.settings} settings x {each}, in {path}", flush=True)
        with _ray(spec, address):
            outcomes = _tune(spec, path)
        report(path, outcomes)
    if failed := sum(one.state == "failed" for one in outcomes):
        raise RunError(f"{failed} of {total} runs failed; the same command tries them again")
    if len(outcomes) < total or any(one.state == "unfinished" for one in outcomes):
        print("the same command goes on")
        raise KeyboardInterrupt  # which Tune keeps to itself


def _hold(path: Path, spec: Spec) -> RunDirectory:
    """Takes the sweep's directory, and writes what it is of into it."""
    content = json.loads(json.dumps(dataclasses.asdict(spec)))
    file = path / _SPEC
    try:
        if file.exists():
            if json.loads(file.read_text()) != content:
                raise ConfigError(f"{path} holds another sweep; choose another --output")
        elif path.is_dir() and set(os.listdir(path)) - {LOCK}:
            raise ConfigError(f"{path} holds other files; choose another --output")
        path.mkdir(parents=True, exist_ok=True)
        directory = RunDirectory(path)
        directory.write(_SPEC, content)
    except ValueError as error:
        raise RunError(f"{file} is damaged: {error}") from error
    except OSError as error:
        raise RunError(f"cannot write to --output {path}: {error.strerror}") from error
    return directory


def _require_resources(spec: Spec) -> None:
    """Refuses what Ray on this machine would wait for without an end."""
    for what, wanted, there in (
        ("cpu", spec.cpu, _cores()),
        ("gpu", spec.gpu, cuda.device_count()),
    ):
        if wanted > there:
            raise ConfigError(f"a run asks for {what}: {wanted}, and this machine has {there}")


def _cores() -> int:
    return len(os.sched_getaffinity(0))


@contextlib.contextmanager
def _ray(spec: Spec, address: str | None) -> Iterator[None]:
    """Has Ray: one of this machine, for this sweep alone, or a cluster's."""
    import ray

    # Ray leaves a run that asked for no GPU those that it sees.
    hidden = {} if spec.gpu else {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}}
    own: dict[str, Any] = {"include_dashboard": False, "num_cpus": _cores()}
    own |= {"object_store_memory": _OBJECT_STORE_BYTES}
    try:
        ray.init(
            address or "local",
            log_to_driver=False,
            logging_level="warning",
            runtime_env=hidden,
            **({} if address else own),
        )
    except Exception as error:  # Ray's own is a bare one, where its servers come too late
        ray.shutdown()
        where = f"answer at {address}" if address else "start on this machine"
        raise RunError(f"Ray does not {where}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _tune(spec: Spec, path: Path) -> list[Outcome]:
    from ray import tune

    parameters = {"spec": spec, "output": str(path)}
    trainable = tune.with_resources(
        tune.with_parameters(train_trial, **parameters), {"cpu": spec.cpu, "gpu": spec.gpu}
    )
    state = str(path / _STATE)
    if tune.Tuner.can_restore(state):
        tuner = tune.Tuner.restore(state, trainable, resume_errored=True)
    else:
        tuner = tune.Tuner(
            trainable,
            param_space=_space(spec),
            tune_config=_tune_config(spec, path),
            run_config=tune.RunConfig(
                name=_STATE,
                storage_path=str(path),
                failure_config=tune.FailureConfig(max_failures=_RETRIES),
                verbose=1,
            ),
        )
    return [
        Outcome(
            path / RUNS / Path(one.path).name,
            *spec.of_trial(one.config),
            None if one.error is None else str(one.error).strip().rpartition("\n")[2],
            bool((one.metrics or {}).get("done")),
        )
        for one in tuner.fit()
    ]


def _space(spec: Spec) -> dict[str, Any]:
    """Returns what Tune draws from."""
    from ray import tune

    space: dict[str, Any] = {}
    for name, one in spec.tried.items():
        if one.kind in ("grid", "choice"):
            make = tune.grid_search if one.kind == "grid" else tune.choice
            space[name] = make(list(one.values))
        else:
            space[name] = getattr(tune, one.kind)(*one.values)
    if spec.search == "random":
        space[RUN_INDEX] = tune.grid_search(list(range(len(spec.runs))))
    return space


def _tune_config(spec: Spec, path: Path) -> Any:
    from ray import tune
    from ray.tune.search import BasicVariantGenerator, Repeater

    from fastsac.sweep.asha import METRIC, AshaByTask

    samples = spec.samples
    if spec.search == "optuna":
        from ray.tune.search.optuna import OptunaSearch

        # Optuna hears of a setting's runs once, of their mean.
        search: Any = OptunaSearch(metric=METRIC, mode="max", seed=0)
        search, samples = Repeater(search, repeat=len(spec.runs)), samples * len(spec.runs)
    else:
        search = BasicVariantGenerator(constant_grid_search=True, random_state=0)

    def name(trial: Any) -> str:
        return spec.run_dir(path, trial.config, trial.trial_id).name

    return tune.TuneConfig(
        metric=METRIC,
        mode="max",
        search_alg=search,
        scheduler=AshaByTask(spec, path) if spec.asha else None,
        num_samples=samples,
        reuse_actors=False,  # a run that is stopped ends with its process
        trial_name_creator=name,
        trial_dirname_creator=name,
    )
