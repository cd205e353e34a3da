"""What a control step of Warp's would launch on a GPU, counted without one."""

import pytest

pytest.importorskip("warp")
from fastsac.bench.offline import warp_program  # noqa: E402
from fastsac.bench.offline.row import Step, block_of  # noqa: E402


def counted(task, program):
    case = {"task": task, "num_envs": 2, "solver": "faithful", "arch": "sm_90"}
    return warp_program.main(case | {"program": program}, None)


@pytest.fixture(autouse=True)
def not_compiled(monkeypatch):
    monkeypatch.setattr(warp_program, "_compilation", lambda *_: {})


def test_a_step_is_bare_physics_and_what_refreshes_it():
    """humanoid: five physics steps, each with a solver; nothing of it is launched here."""
    ours, bare = (counted("humanoid_walk", program) for program in ("step", "physics"))
    step, physics = (Step(block_of(of["launches"]), 5, 20, False) for of in (ours, bare))
    assert len(step.solvers) == len(physics.solvers) == 5
    a_round = step.total(3).kernels - step.total(2).kernels
    assert a_round == 5 * step.solvers[0].body.own.kernels > 0
    assert a_round == physics.total(3).kernels - physics.total(2).kernels
    # The trace of an H200 had 730 kernels without the solver's rounds (bench/results/h200.md).
    assert abs(step.total(0).kernels - 730) < 30
    assert 1 < step.total(5).total / physics.total(5).total < 1.15
    host = block_of(ours["of_host"])
    assert host.own.graphs == 1 and not host.loops and host.own.total < 20
    assert block_of(bare["of_host"]).own.total == 1


def test_rk4_solves_four_times():
    found = block_of(counted("cartpole_swingup", "physics")["launches"])
    assert len(found.loops) == 4
