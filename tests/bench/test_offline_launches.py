"""Launches are read from XLA's thunks and HLO, and added up by loop."""

import dataclasses
import json

import pytest

from fastsac.bench.offline.launches import Launches, read, total, waits
from fastsac.bench.offline.row import Step, block_of, summary

# A step as XLA writes it: 5 substeps, in each a solver whose rounds the data decide with 8 rounds
# of a line search in each, and at the end rounds of resets.
HLO = """\
HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[4,3]{1,0})->(f32[4,3]{1,0})}

%fused (p: f32[4]) -> f32[4] {
  ROOT %a = f32[4]{0} add(%p, %p)
}

%search_cond (c: (s32[])) -> pred[] {
  ROOT %lt.1 = pred[] fusion(%c), kind=kLoop, calls=%fused
}

%search_body (b: (s32[])) -> (s32[]) {
  ROOT %t = (s32[]) tuple(%b)
}

%solver_cond (c: (s32[])) -> pred[] {
  ROOT %lt.2 = pred[] fusion(%c), kind=kLoop, calls=%fused
}

%solver_body (b: (s32[])) -> (s32[]) {
  %while.3 = (s32[], f32[4]{0}) while(%tuple), condition=%search_cond, body=%search_body, \
backend_config={"known_trip_count":{"n":"8"},"known_init_step":{"init":"0","step":"1"}}
  ROOT %t = (s32[]) tuple(%b)
}

%substep_cond (c: (s32[])) -> pred[] {
  ROOT %lt.3 = pred[] fusion(%c), kind=kLoop, calls=%fused
}

%substep_body (b: (s32[])) -> (s32[]) {
  %while.2 = (s32[], f32[4]{0}) while(%tuple), condition=%solver_cond, body=%solver_body
  ROOT %t = (s32[]) tuple(%b)
}

%reset_cond (c: (s32[])) -> pred[] {
  ROOT %lt.4 = pred[] fusion(%c), kind=kLoop, calls=%fused
}

%reset_body (b: (s32[])) -> (s32[]) {
  ROOT %t = (s32[]) tuple(%b)
}

ENTRY %main.9 (p: f32[4,3]) -> (f32[4,3]) {
  %while.1 = (s32[], /*index=1*/f32[4]{0}) while(%tuple), condition=%substep_cond, \
body=%substep_body, metadata={op_name="jit(step)/while"}, \
backend_config={"known_trip_count":{"n":"5"}}
  %while.4 = (s32[], f32[4]{0}) while(%tuple), condition=%reset_cond, body=%reset_body
  ROOT %t = (f32[4,3]{1,0}) tuple(%p)
}
"""
THUNKS = """\
000: kKernel\t(device_mem, slices)
001: kCopy  \t(device_mem)
002: kWhile \t  
condition:
    003: kKernel\t(a)
  body:
    004: kKernel     \t(a)
    005: kCustomCall \t(b)
    006: kWhile      \t      
condition:
        007: kKernel\t(a)
      body:
        008: kKernel          \t(a)
        009: kKernel          \t(a)
        010: kTriangularSolve \t(a)
        011: kWhile           \t          
condition:
            012: kKernel\t(a)
          body:
            013: kKernel \t(a)
            014: kKernel \t(a)
            015: kMemzero\t(a)

        016: kKernel          \t(a)

    017: kKernel     \t(a)

018: kKernel\t(a)
019: kWhile \t  
condition:
    020: kKernel\t(a)
  body:
    021: kKernel\t(a)
    022: kKernel\t(a)
    023: kKernel\t(a)

"""


def test_a_step_is_read_with_its_loops():
    block = read(THUNKS, HLO)
    assert block.own == Launches(kernels=2, library=0, copies=1)
    substeps, resets = block.loops
    assert (substeps.trips, resets.trips) == (5, None)
    assert substeps.body.own == Launches(kernels=2, library=1)
    (solver,) = substeps.body.loops
    assert solver.trips is None and solver.body.own == Launches(kernels=3, library=1)
    (search,) = solver.body.loops
    assert search.trips == 8 and search.body.own == Launches(kernels=2, copies=1)


def test_totals_by_hand():
    block = read(THUNKS, HLO)
    rounds = {1: 1, 2: 3}  # of resets, which are at the entry, and of the solver within substeps
    # A round of the solver: 3 + 8 x 2 kernels, 1 call, 8 fills; its condition runs 4 times.
    # A substep: 2 + 4 + 3 x 19 = 63 kernels, 1 + 3 = 4 calls, 24 fills. Resets: 2 + 3 kernels.
    found = total(block, lambda path: rounds[len(path)])
    assert found == Launches(kernels=2 + 5 * 63 + 5, library=5 * 4, copies=1 + 5 * 24)
    # The host waits 4 times in each substep and twice for the resets; known trips need none.
    assert waits(block, lambda path: rounds[len(path)]) == 5 * 4 + 2


def test_a_control_step_in_parts():
    step = Step(read(THUNKS, HLO), substeps=5, line_search=50, resets=True)
    assert step.parts() == {
        "entry": [2, 0, 1],
        "substep": [2, 1, 0],
        "solver_round": [4, 1, 0],
        "line_search_round": [2, 0, 1],
        "reset_round": [4, 0, 0],
    }
    assert step.line_search_rounds() == [8]
    assert step.total(3) == Launches(322, 20, 121) and step.waits(3) == 22


def test_without_a_loop_of_substeps_the_entry_holds_the_only_one():
    lines = THUNKS.splitlines(keepends=True)
    solver = "".join(line[4:] if line.startswith("    ") else line for line in lines[8:25])
    resets = "".join(lines[27:])
    hlo = HLO.replace("condition=%substep_cond", "condition=%solver_cond")
    hlo = hlo.replace("body=%substep_body", "body=%solver_body")
    hlo = hlo.replace(', backend_config={"known_trip_count":{"n":"5"}}', "")
    step = Step(read(solver + resets, hlo), substeps=1, line_search=50, resets=True)
    assert len(step.solvers) == 1 and step.reset is not None
    assert step.parts()["substep"] == [0, 0, 0]
    assert step.parts()["solver_round"] == [4, 1, 0]
    # 4 conditions, 3 rounds of 3 + 16 kernels; 1 between the loops; 2 conditions, 3 of a reset.
    assert step.total(3) == Launches(4 + 3 * 19 + 1 + 5, 3, 3 * 8)


def test_a_line_search_that_the_data_decide_counts_with_its_most_rounds():
    open_ended = HLO.replace('{"known_trip_count":{"n":"8"},', "{")
    step = Step(read(THUNKS, open_ended), substeps=5, line_search=50, resets=True)
    assert step.line_search_rounds() == [50]
    # Each of its rounds now needs the host, and its condition runs once more than its body.
    assert step.waits(3) == 5 * (4 + 3 * 51) + 2
    assert step.total(3).kernels == 2 + 5 * (2 + 4 + 3 * (3 + 51 + 50 * 2)) + 5


def test_launches_survive_json():
    block = read(THUNKS, HLO)
    assert block_of(json.loads(json.dumps(dataclasses.asdict(block)))) == block


def test_a_sequence_that_is_not_of_the_module_is_refused():
    without = HLO.replace("body=%solver_body\n", "body=%search_body\n")
    with pytest.raises(ValueError, match="more while thunks"):
        read(THUNKS, without)
    with pytest.raises(ValueError, match="fewer while thunks"):
        read("000: kKernel\t(a)\n", HLO)
    with pytest.raises(ValueError, match="'condition:'"):
        read("000: kWhile\t\n", HLO)
    with pytest.raises(ValueError, match="unknown kind kConditional"):
        read("000: kConditional\t(a)\n", HLO)
    with pytest.raises(ValueError, match="without an entry"):
        read(THUNKS, "")


def test_an_empty_condition_is_none():
    """A condition that is a copy of a flag has no thunks; XLA then ends no line."""
    thunks = THUNKS.replace(
        "\ncondition:\n    020: kKernel\t(a)\n  body:", "\ncondition:\n    No thunks.  body:"
    )
    assert read(thunks, HLO).loops[1].condition.own == Launches()


# As XLA of jax 0.10.2 wrote it for pendulum_swingup.
SEQUENTIAL = """\
062: kSequential    [prev=059 (1) | next=063 (1)]   060: kCopy             [source      | next=061 (1)] kCopy
  061: kTriangularSolve  [prev=060 (1) | sink        ] (no details)

063: kCustomKernel  [prev=062 (1) | sink        ] loop_add_fusion_4 grid: [1, 1, 1] threads: [64, 1, 1]
"""  # noqa: E501


def test_a_sequential_thunk_has_its_first_one_on_its_line():
    without = HLO[: HLO.index("  %while.1")] + "}\n"
    assert read(SEQUENTIAL, without).own == Launches(kernels=1, library=1, copies=1)


def test_a_graph_is_one_launch_with_its_loops():
    """The resets in a CUDA graph: no launches of the host's, and no waits."""
    start = THUNKS.index("018: kKernel")
    inside = "".join("    " + x if x[:1].isdigit() else x for x in THUNKS[start:].splitlines(True))
    block = read(THUNKS[:start] + "000: kCommandBuffer\t\n" + inside, HLO)
    assert block.own == Launches(kernels=1, copies=1, graphs=1)
    assert [loop.trips for loop in block.loops] == [5]


def row(**programs):
    rounds = {"most": 3, "mean": 2.2, "how": "by hand"}
    return {"engine": "mjx", "rounds": rounds, "ls_iterations": 50, "programs": programs}


def test_a_row_sums_up_its_programs():
    launches = dataclasses.asdict(read(THUNKS, HLO))
    found = {"substeps": 5, "launches": launches, "of_host": launches}
    summed = summary(row(step=found, physics=found))
    assert summed["launches"]["total"] == 322 + 20 + 121
    assert summed["launches"]["library_calls"] == 20 and summed["launches"]["host_waits"] == 22
    # One solver round fewer in each of 5 substeps: 19 + 1 kernels, 1 call, 8 fills.
    assert summed["launches"]["total_with_mean_rounds"] == 463 - 5 * 29
    # In bare physics nothing is a reset: the last loop counts as a solver's, with 3 rounds for 1.
    assert summed["physics"]["total"] == 463 + 2 * 4
    assert summed["ratio"] == round(463 / 471, 3)


def test_a_row_without_a_count_has_no_sum():
    assert "launches" not in summary(row(step={"reason": "not done after 3 s"}))
    assert summary(row(step={"reason": "x"}) | {"rounds": {"reason": "x"}})["programs"]
