"""The learner on fake CUDA tensors: fake_cuda.py's report.

What only a GPU can show stays open: capture and replay, generators within a graph, the order of
streams, what the kernels compute there, and time.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fastsac.learner.fake_faults import FAULTS

pytest.importorskip("triton")
ROOT = Path(__file__).resolve().parents[3]
CASES = ("seed", "fast", "fast, bf16", "other")


@pytest.fixture(scope="module")
def report():
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = f"{environment.get('PYTHONPATH', '')}:{ROOT}"
    done = subprocess.run(
        [sys.executable, "-m", "tests.fastsac.learner.fake_cuda"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_these_are_the_cases(report):
    assert tuple(report["cases"]) == CASES


@pytest.mark.parametrize("name", CASES)
def test_nothing_waits_lies_on_the_cpu_or_is_of_another_dtype(name, report):
    assert report["cases"][name]["complaints"] == []


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_noticed(name, report):
    _, sentence = FAULTS[name]
    complaints = report["faults"][name]
    assert [x for x in complaints if re.search(sentence, x)], complaints


@pytest.mark.parametrize("name", CASES)
def test_what_comes_out_is_float32_on_the_gpu(name, report):
    made = report["cases"][name]["made"]
    batch, worlds = (1024, 4096) if "fast" in name else (256, 64 if name == "other" else 1)
    of_batch = ("reward", "terminated", "weight", "steps")
    shapes = {"obs": [batch, 67], "next_obs": [batch, 67], "mode": [worlds, 21]}
    shapes |= {"action": [batch, 21]} | dict.fromkeys(of_batch, [batch])
    metrics = {"critic_loss", "q", "skipped_updates", "actor_loss", "entropy", "alpha"}
    metrics |= {"alpha_loss"} if name != "other" else set()
    assert made.keys() == shapes.keys() | metrics | {"policy_action", "skipped", "mean"}
    assert made.pop("policy_action") == ["float32", "cuda:0", worlds, 21]
    for what, (dtype, device, *shape) in made.items():
        assert (dtype, device, shape) == ("float32", "cuda:0", shapes.get(what, [])), what


def test_products_are_of_the_precision_that_was_asked_for(report):
    precisions = {name: case["matmuls"] for name, case in report["cases"].items()}
    assert precisions == {
        "seed": [["float32", "highest"]],
        "fast": [["float32", "high"]],  # TF32
        "fast, bf16": [["bfloat16", "highest"]],
        "other": [["float32", "highest"]],
    }


# Of torch's operations, a few of which are two launches; a change that needs fewer lowers these.
INSIDE = {
    # One update with actor, temperature and losses.
    "seed": {"torch": {"act": 6, "learn": 83}, "triton": {"act": 1, "learn": 27}},
    # Four updates, every second with the actor, the last two with losses.
    "fast": {"torch": {"act": 12, "learn": 226}, "triton": {"act": 1, "learn": 86}},
    "fast, bf16": {"torch": {"act": 14, "learn": 292}, "triton": {"act": 1, "learn": 86}},
    # Six, every third with the actor, the last three with losses.
    "other": {"torch": {"act": 8, "learn": 284}, "triton": {"act": 1, "learn": 110}},
}
# A vector step's; acting copies observations in and actions out.
OUTSIDE = {"act": 2, "n_step": 3, "add": 9, "episodes": 14}
OUTSIDE_FAST = OUTSIDE | {"observe": 31, "n_step": 27}


@pytest.mark.parametrize("name", CASES)
def test_launches_inside_the_graphs(name, report):
    case, parts = report["cases"][name], ("act", "learn")
    counts = {kind: {p: case[f"{kind} inside"][p] for p in parts} for kind in ("torch", "triton")}
    assert counts == INSIDE[name]


@pytest.mark.parametrize("name", CASES)
def test_launches_outside_the_graphs(name, report):
    case, beside = report["cases"][name], {"sample", "update", "mode", "log"}
    for kind, want in (("torch", OUTSIDE_FAST if "fast" in name else OUTSIDE), ("triton", {})):
        counts = case[f"{kind} outside"]
        assert {part: n for part, n in counts.items() if part not in beside} == want


def test_the_references_wait_for_nothing_either(report):
    """What takes the place of kernels that failed; a batch is then a view of the replay's rows."""
    found = report["references"]
    others = [x for x in found["complaints"] if not re.search(r"^[a-z_]+ has strides \(159,", x)]
    assert others == [] and found["triton inside"] == found["triton outside"] == {}
    assert found["torch inside"]["learn"] == 626  # four updates, where it was 226 and 86 kernels


def test_every_launch_compiles_for_an_h100_as_it_was_launched(report):
    kernels = report["kernels"]
    assert {row["kernel"] for row in kernels} == {
        "adam_polyak._count",
        "adam_polyak._forward",
        "adam_polyak._square_sums",
        "categorical_td_loss._backward",
        "categorical_td_loss._forward",
        "norm_relu._backward",
        "norm_relu._forward",
        "replay_gather._forward",
        "soft_td_target._forward",
        "tanh_gaussian._backward",
        "tanh_gaussian._forward",
    }
    assert len(kernels) > 12 and all(row["bytes"] > 1000 for row in kernels)


def test_the_optimizers_of_networks_load_16_bytes_at_a_time(report):
    rows = [row for row in report["kernels"] if row["kernel"] == "adam_polyak._forward"]
    rows = [row for row in rows if row["sizes"]["size"] > 1]  # the temperature is one number
    assert len(rows) == 2  # with a target and without: all sizes are multiples of 16 alike
    for row in rows:
        scalars = 4 + row["sizes"]["HAS_TARGET"]  # three counts, the learning rate, tau
        assert row["loads"] - row["wide_loads"] == scalars, row
