"""Weights & Biases: the real package offline, and what happens where it cannot be used."""

import csv
import json
import os
import struct
import subprocess
import sys

import pytest

from fastsac.errors import ConfigError
from fastsac.runs import metrics, wandb_run

wandb = pytest.importorskip("wandb")
FLAGS = ["--total-steps", "120", "--learning-starts", "60", "--batch-size", "8", "--num-envs", "2"]
FLAGS += ["--hidden-sizes", "8", "8", "--final-eval-episodes", "1", "--wandb"]


def start(home, *arguments, **environment):
    """Runs python in a home without a login."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_") and k != "NETRC"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=kept | {"HOME": str(home)} | environment,
        capture_output=True,
        text=True,
        timeout=200,
    )


def records(file):
    """Returns what wandb wrote for its server: protocol buffers in LevelDB's log format."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, found, part = file.read_bytes(), [], b""
    at = 7  # behind wandb's own header
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:  # the rest of a block is padding
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            found.append(Record())
            found[-1].ParseFromString(part)
            part = b""
    return found


def test_an_offline_run_has_the_config_and_every_row(tmp_path):
    run = tmp_path / "run"
    train = ["-m", "fastsac", "train", "cartpole_balance", "--run-dir", run, *FLAGS]
    done = start(tmp_path, *train, WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    [file] = run.glob("wandb/offline-run-*/*.wandb")
    identity = (run / "wandb" / "run-id").read_text()
    assert identity in file.name
    written = records(file)
    [begun] = [r.run for r in written if r.WhichOneof("record_type") == "run"]
    assert begun.project == "fastsac" and begun.display_name == "run"
    config = {item.key: json.loads(item.value_json) for item in begun.config.update}
    assert config["task"] == "cartpole_balance" and config["sac"]["hidden_sizes"] == [8, 8]
    history = [
        {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in r.history.item}
        for r in written
        if r.WhichOneof("record_type") == "history"
    ]
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert [h["step"] for h in history] == [int(r["step"]) for r in rows]
    for logged, row in zip(history, rows, strict=True):
        for name, value in row.items():
            assert not value or logged[name] == pytest.approx(float(value)), name
    assert not list(tmp_path.glob("wandb")), "wandb's files belong into the run's directory"


def test_no_login_is_one_sentence_before_anything_is_made(tmp_path):
    run = tmp_path / "run"
    done = start(tmp_path, "-m", "fastsac", "train", "cartpole_balance", "--run-dir", run, *FLAGS)
    assert done.returncode == 2
    sentence = "fastsac: --wandb needs `wandb login` first, or WANDB_MODE=offline"
    assert done.stderr.strip() == sentence
    assert not run.exists()


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"pip install 'fastsac\[wandb\]'"):
        wandb_run.require_wandb()


@pytest.mark.parametrize("fails_at", ["start", "log", "finish"])
def test_a_later_failure_costs_one_warning(tmp_path, monkeypatch, capsys, fails_at):
    class Fails:
        def log(self, row):
            if fails_at == "log":
                raise BrokenPipeError("the service died")

        def finish(self):
            raise BrokenPipeError("the service died")

    def begin(directory, config):
        if fails_at == "start":
            raise BrokenPipeError("the service died")
        return Fails()

    monkeypatch.setattr(metrics, "start_wandb", begin)
    writer = metrics.MetricsWriter(tmp_path, total_steps=10, started=0.0, wandb_config={})
    for step in range(3):
        writer.write({"step": step})
    writer.close()
    warnings = capsys.readouterr().err.splitlines()
    gone = "warning: Weights & Biases gets no more of this run: the service died"
    assert [line for line in warnings if line] == [gone]
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 4
