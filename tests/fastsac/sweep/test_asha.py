"""ASHA by task, and its memory after a restart, by Tune's own rules."""

from types import SimpleNamespace

import pytest

from fastsac.sweep.spec import RUN_INDEX
from fastsac.sweep.spec_file import parsed_spec
from tests.fastsac.run_samples import write_run

pytestmark = pytest.mark.slow
pytest.importorskip("ray.tune")

SPEC = {
    "tasks": ["cartpole_balance", "cheetah_run"],
    "flags": {"total-steps": 9000, "eval-every": 1000, "tau": {"grid": [0.1, 0.2, 0.3]}},
    "asha": {"grace": 1000, "reduction": 2},
}


def scheduler(tmp_path):
    from fastsac.sweep.asha import AshaByTask

    return AshaByTask(parsed_spec(SPEC), tmp_path)


def trial(name, task):
    return SimpleNamespace(trial_id=name, config={"tau": 0.1, RUN_INDEX: task})


def hears(asha, one, step, value):
    return asha.on_trial_result(None, one, {"step": step, "eval_return": value})


def test_returns_of_one_task_stop_no_run_of_another(tmp_path):
    asha = scheduler(tmp_path)
    good, other, bad = trial("a", 0), trial("b", 1), trial("c", 0)
    for one in (good, other, bad):
        asha.on_trial_add(None, one)
    assert hears(asha, good, 1000, 500.0) == "CONTINUE"
    assert hears(asha, other, 1000, 5.0) == "CONTINUE"
    assert hears(asha, bad, 500, 0.0) == "CONTINUE"  # before the first rung
    assert hears(asha, bad, 1000, 499.0) == "STOP"
    asha.on_trial_complete(None, bad, {"step": 1000, "eval_return": 499.0})
    # The last evaluation is no rung of its own: who has come so far has finished.
    assert hears(asha, good, 2000, 1.0) == hears(asha, good, 9000, 1.0) == "CONTINUE"


def test_a_sweep_that_goes_on_knows_the_rungs(tmp_path):
    write_run(
        tmp_path / "runs" / "cartpole_balance-0-a", [(1000, 1, 500.0, 1), (2000, 2, 600.0, 1)]
    )
    asha = scheduler(tmp_path)
    for one in (before := trial("a", 0)), (new := trial("b", 0)):
        asha.on_trial_add(None, one)
    assert hears(asha, new, 1000, 499.0) == "STOP"
    # Heard once more, where it goes on from its checkpoint, it is not judged by itself.
    assert hears(asha, before, 1000, 1.0) == "CONTINUE"
