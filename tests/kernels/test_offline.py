"""What ptxas says of the kernels, compiled without a GPU by offline.py."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
KERNELS = Path(__file__).resolve().parents[2] / "kernels"
ARCHITECTURES = (80, 90)
LAUNCHED = ("_forward", "_backward", "_square_sums", "_count")
ENTRIES = sorted(
    f"{file.stem}.{node.name}"
    for file in KERNELS.glob("*.py")
    for node in ast.parse(file.read_text()).body
    if isinstance(node, ast.FunctionDef) and node.name in LAUNCHED
)
# The first says which plain minima and maxima a kernel has, which return what is not a NaN; the
# second denies a kernel registers; the third counts what the launcher says that 16 divides.
PLANTED = """
import json, re, sys
import torch, triton
from triton.backends.compiler import GPUTarget
from fastsac.kernels.polyak import fused
import offline

found = [source for call in offline.calls() for source in offline.sources(call)]
for name, source in found:
    ptx = triton.compile(source, GPUTarget("cuda", 90, 32)).asm["ptx"]
    print(json.dumps({"kernel": name, "plain": re.findall(r"(min|max)\\.f32", ptx)}))
report = offline.resources(dict(found)["categorical_td_loss._forward"], 90, maxnreg=24)
print(json.dumps({"kernel": "starved", **report}))
x = torch.empty(4100)
for name, x in ("none", x[:4096]), ("size", x), ("at", x[1:4097]):
    ((_, source),) = offline.sources(lambda: fused(x, torch.empty(len(x)), 0.5))
    print(json.dumps({"kernel": f"odd {name}", "divisible": sum(map(bool, source.attrs.values()))}))
"""


def rows(*arguments):
    """The JSON lines of a Python that compiles kernels instead of interpreting them."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    # Where PYTHONSAFEPATH is set (make test-gpu), the folder is not looked into.
    environment["PYTHONPATH"] = f"{Path(__file__).parent}:{environment.get('PYTHONPATH', '')}"
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=Path(__file__).parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def compiled():
    return rows("offline.py", *map(str, ARCHITECTURES))


@pytest.fixture(scope="module")
def planted():
    return rows("-c", PLANTED)


def test_there_are_kernels():
    assert len(ENTRIES) >= 10 and {"replay_gather._forward", "adam_polyak._count"} <= set(ENTRIES)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("entry", ENTRIES)
def test_each_compiles_and_keeps_its_values_in_registers(entry, architecture, compiled):
    found = [r for r in compiled if (r["kernel"], r["sm"]) == (entry, architecture)]
    assert found, f"offline.py calls no {entry}"
    for row in found:
        assert row["registers"] > 0 and row["spill_stores"] == row["spill_loads"] == 0, row


def test_a_kernel_that_lacks_registers_is_seen_to_spill(planted):
    (starved,) = (row for row in planted if row["kernel"] == "starved")
    assert starved["registers"] <= 24
    assert starved["spill_stores"] > 0 and starved["spill_loads"] > 0


def test_a_launch_is_compiled_with_the_alignment_that_it_has(planted):
    divisible = {r["kernel"]: r["divisible"] for r in planted if r["kernel"].startswith("odd")}
    # Of target, source, tau and size; a tensor's address counts, and the size of all of them.
    assert divisible == {"odd none": 4, "odd size": 3, "odd at": 3}


@pytest.mark.parametrize("entry", ENTRIES)
def test_no_clamp_swallows_a_nan(entry, planted):
    # The interpreter's do not, so that tests without a GPU see nothing. A softmax's maximum may:
    # the exponentials have the NaN again.
    allowed = {"max"} if entry == "categorical_td_loss._forward" else set()
    versions = [set(row["plain"]) for row in planted if row["kernel"] == entry]
    assert versions and all(plain <= allowed for plain in versions)
