"""A run of each older checkpoint format, as that version left it, is read and gone on with."""

import csv
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import fastsac
from fastsac.errors import CheckpointError
from fastsac.runs import checkpoint_file
from fastsac.runs.metrics import COLUMNS
from fastsac.training.loop import TrainingRun

RUNS = Path(__file__).parents[1] / "runs"
FORMATS = range(checkpoint_file.OLDEST, checkpoint_file.FORMAT)
OBS = np.array([0.5, -0.5, 1.0], np.float32)
# What the version that wrote it did there.
ACTIONS = {4: 0.48081374168395996}


@pytest.fixture(params=FORMATS)
def old(request, tmp_path):
    """A copy of that format's run of pendulum_swingup, and its format."""
    shutil.copytree(RUNS / f"format{request.param}", tmp_path / "run")
    return tmp_path / "run", request.param


def header(file):
    return file.read_bytes()[:60].split()[2]


def test_its_policy_acts_as_it_did(old, close):
    run, number = old
    for path in (run, run / "best.pt"):
        assert fastsac.load_policy(path)(OBS).shape == (1,)
    close(torch.tensor(fastsac.load_policy(run)(OBS)), [ACTIONS[number]], "float32")


def test_it_goes_on_and_is_then_of_this_format(old):
    run, number = old
    (file,) = (run / "checkpoints").iterdir()
    assert int(header(file)) == number
    before = list(csv.DictReader((run / "metrics.csv").open()))[0]
    result = fastsac.resume(run, total_steps=80)
    assert result.steps == 80 and result.updates == 60
    assert int(header(max((run / "checkpoints").iterdir()))) == checkpoint_file.FORMAT
    assert not [*run.glob("*.damaged")], "what an older version wrote is no damage"
    first, *rest = csv.DictReader((run / "metrics.csv").open())
    assert tuple(first) == COLUMNS and rest[-1]["step"] == "80"
    assert {name: first[name] for name in before} == before
    assert len(checkpoint_file.load(run)["replay_files"]) == 1


def test_it_is_killed_before_its_first_checkpoint_and_goes_on_again(old, monkeypatch):
    run, _ = old
    before = (run / "metrics.csv").read_text()

    def killed(self):
        raise ArithmeticError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "learn", killed)
        for _ in range(2):
            with pytest.raises(ArithmeticError):
                fastsac.resume(run, total_steps=80)
    fastsac.resume(run, total_steps=80)
    assert not [*run.glob("*.damaged")]
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    first = next(csv.DictReader(io.StringIO(before)))
    assert {name: rows[0][name] for name in first} == first
    steps = [int(row["step"]) for row in rows]
    assert steps == sorted(steps) and steps[-1] == 80
    fastsac.resume(run, total_steps=100)
    again = list(csv.DictReader((run / "metrics.csv").open()))
    assert again[: len(rows)] == rows and again[-1]["step"] == "100"


@pytest.mark.parametrize("number", [checkpoint_file.OLDEST - 1, checkpoint_file.FORMAT + 1])
def test_other_formats_are_refused_with_those_that_are_read(number, tmp_path):
    state = {key: 1 for key in ("task", "obs_dim", "action_dim", "config", "agent", "counters")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint_file, "FORMAT", number)
        checkpoint_file.save(tmp_path / "a.pt", state)
    with pytest.raises(CheckpointError, match=f"format {number}, this version reads 4 to 5"):
        checkpoint_file.load(tmp_path / "a.pt")
