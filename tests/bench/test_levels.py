"""The levels' cases: that they do the work that their rows say, and the GPU's as far as a CPU can.

A GPU's case lists are built here as on a GPU, and every case that a CPU can run is run.
"""

import inspect
import json
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path

import pytest
import torch

from fastsac.bench import command, envs, harness, kernels, page, peers, stepping, train
from fastsac.bench.harness import run
from fastsac.training.presets import preset_config

ROOT = Path(__file__).resolve().parents[2]
TINY = {"learning_starts": 8, "batch_size": 8, "replay_capacity": 500, "checkpoint_replay": False}


@pytest.fixture
def quick_steps(monkeypatch):
    """Fewer steps to settle and to time."""
    monkeypatch.setattr(stepping, "SETTLE_STEPS", 4)
    monkeypatch.setattr(envs, "SETTLE_STEPS", 4)
    monkeypatch.setattr(stepping, "_MEASURED_STEPS", 2)
    monkeypatch.setattr(stepping, "_SECONDS_PER_REPETITION", 0.01)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def test_the_bare_physics_is_timed_beside_our_steps(quick_steps):
    cases = list(
        envs._group(
            "walker_run",
            "native",
            4,
            {
                "ours": partial(envs.open_ours, "walker_run", "native"),
                "physics": partial(envs._open_native_physics, "walker_run"),
            },
        )
    )
    ours, physics = run(cases, 3)
    assert ours["num_envs"] == 4 and ours["unit"] == "env steps/s" and ours["ratio"] == 1
    assert physics["median"] > 0.5 * ours["median"] > 0


def test_the_bare_physics_moves_where_our_engine_does():
    """The same start, controls and substeps: after a control step the same positions."""
    seen = []

    def keep(step, actions, num_envs, close, wait=None):
        seen.extend([step, actions])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envs, "stepped", keep)
        patch.setattr(envs, "SETTLE_STEPS", 3)
        envs._open_native_physics("manipulator_bring_ball", 2)
        step, controls = seen
        engine = envs.NativeEngine(envs.load_suite(envs.find("manipulator_bring_ball")), 2)
        engine.reset(0, envs.np.zeros(2, envs.np.int64))
        actions = envs.random_actions(2, engine.suite.action_dim)
        for i in (0, 1, 2, 0):
            engine.send(actions[i], overlap=False)
            engine.recv()
        step(controls[0])
    batch = inspect.getclosurevars(step).nonlocals["batch"]
    torch.testing.assert_close(
        torch.from_numpy(batch.bind("qpos").copy()), engine.get_state()["qpos"], rtol=0, atol=1e-9
    )
    engine.close()


@pytest.mark.timeout(280)
def test_the_bare_physics_of_mjx(quick_steps):
    """What a GPU runs, on the CPU with few worlds."""
    opened = {"physics": partial(envs._open_mjx_physics, "pendulum_swingup")}
    (physics,) = run(list(envs._group("pendulum_swingup", "mjx", 4, opened)), 2)
    assert physics["median"] > 0 and physics["compile_s"] > 0.5


@pytest.mark.slow
def test_the_bare_physics_of_warp(quick_steps):
    pytest.importorskip("warp")
    cases = [
        case for case in envs._warp("pendulum_swingup", 4) if case.labels["variant"] == "physics"
    ]
    (physics,) = run(cases, 2)
    assert physics["median"] > 0 and physics["engine"] == "warp"


def test_the_whole_loop_learns_and_its_parts_are_its_work():
    config = preset_config("cartpole_balance", "cpu", num_envs=4, updates_per_step=3, **TINY)
    with train._started(config) as loop:
        steps, updates = loop.state.steps, loop.state.updates
        weights = loop.state.agent.state_dict()["actor"].clone()
        assert loop.advance(5) == 20
        assert loop.state.steps == steps + 20 and loop.state.updates == updates + 15
        train._learn(loop)
        assert loop.state.steps == steps + 20 and loop.state.updates == updates + 18
        assert not torch.equal(loop.state.agent.state_dict()["actor"], weights)
        added = loop.state.replay.state_dict()["added"]
        for _ in range(5):
            train._transfer(loop)
        assert loop.state.replay.state_dict()["added"] == added + 20
        directory = loop.path
    assert not directory.exists()


def test_the_loop_is_that_of_training_and_leaves_its_directory_clean():
    config = preset_config("cartpole_balance", "seed", **TINY)
    with train._open_loop(config) as work:
        count = work()
        assert count >= 1 and work() == count


def cases_of(level, quick):
    return command._LEVELS[level](quick)


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("level", ["learner", "kernels", "train", "envs"])
def test_every_case_on_a_gpu_names_what_exists(level, quick, as_on_a_gpu):
    """Functions, and what they take; pytest -m gpu opens them."""
    cases = cases_of(level, quick)
    assert cases
    for case in cases:
        function, args, kwargs = case.open.func, case.open.args, case.open.keywords
        if function is peers.opened:
            adapter, name, *args = args
            source = (ROOT / "bench" / "peers" / f"{adapter}.py").read_text()
            assert f"def {name}(" in source
            assert adapter in peers._EXTRAS
            module = pytest.importorskip(f"fastsac.bench.peers.{adapter}")
            function = getattr(module, name)
        inspect.signature(function).bind(*args, **kwargs)


@pytest.mark.gpu
@pytest.mark.timeout(600)
@pytest.mark.parametrize("level", ["learner", "kernels", "train", "envs"])
def test_a_group_of_each_level_on_a_gpu(level):
    cases = cases_of(level, quick=True)
    rows = list(run([case for case in cases if case.group == cases[0].group], 2))
    ours = [row for row in rows if row["variant"] == "ours"]
    assert ours and all(row["median"] > 0 and row["device_memory_mb"] >= 0 for row in ours)
    assert all(row["gpu"] for row in rows)


def test_the_gpus_cases(as_on_a_gpu):
    for quick in (True, False):
        levels = {level: cases_of(level, quick) for level in command._LEVELS}
        assert {c.labels["engine"] for c in levels["envs"]} == {"warp", "mjx"}
        worlds = {c.labels["num_envs"] for c in levels["envs"] if c.labels["variant"] == "ours"}
        assert worlds >= ({4096, 16384} if quick else {64, 256, 1024, 4096, 8192, 16384})
        variants = {c.labels["variant"] for c in levels["envs"]}
        assert variants == {"ours", "physics", "playground", "playground-warp"}
        assert {"ours+graph", "copy"} <= {c.labels["variant"] for c in levels["kernels"]}
        assert {"tf32", "bf16"} <= {c.labels.get("precision") for c in levels["learner"]}
        names = {c.labels["variant"] for c in levels["train"]}
        assert {"ours", "env", "learner", "transfer", "brax", "brax-warp"} <= names


def test_norm_relus_passes_are_two_programs():
    """What a compiler would keep from one to the other an update has to read again."""
    operation = kernels._norm_relu(4)
    assert torch._dynamo.explain(operation.pair[0])(*operation.arguments()).graph_count == 2


@pytest.mark.parametrize("gpu", [False, True])
def test_every_peer_has_a_note_and_a_pinned_extra(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for level in ("learner", "train", "envs"):
        for case in cases_of(level, quick=False):
            if getattr(case.open, "func", None) is peers.opened:
                assert case.labels["variant"] in peers.NOTES
                wanted = extras[peers._EXTRAS[case.open.args[0]]]
                assert any("==" in one for one in wanted), wanted
    assert set(peers._EXTRAS.values()) <= set(extras)


@pytest.mark.slow
def test_the_adapters_are_timed_or_say_what_they_lack():
    rows = {row["variant"]: row for row in run(cases_of("adapters", quick=True), 1)}
    assert len(rows) == 7 and all(rows[k]["median"] > 0 for k in ("ours", "numpy", "gymnasium"))
    for row in rows.values():
        assert "median" in row or "fastsac[clients]" in row["unavailable"]


def test_every_group_has_one_baseline_and_its_cases_stand_together():
    for level in command._LEVELS:
        cases = cases_of(level, quick=False)
        groups = [case.group for case in cases]
        changes = sum(a != b for a, b in zip(groups, groups[1:], strict=False)) + 1
        assert changes == len(set(groups)), level
        for group in set(groups):
            assert sum(case.baseline for case in cases if case.group == group) == 1, (level, group)


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_the_gpus_command_runs(tmp_path):
    """`make bench-gpu` as it is, on what is here and one kernel."""
    path = tmp_path / "gpu.jsonl"
    command_line = [
        "make",
        "-s",
        "bench-gpu",
        f"GPU_PYTHON={sys.executable}",
        f"JSON={path}",
        "ARGS=kernels --quick --only eager",
    ]
    done = subprocess.run(command_line, cwd=ROOT, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 3 and {row["variant"] for row in rows} == {"eager"}


def test_rows_of_the_results_have_what_the_page_reads():
    for path in sorted(harness.RESULTS.glob("*.jsonl")):
        if path.name in page.OTHERS:
            continue
        for line in path.read_text().splitlines():
            row = json.loads(line)
            assert {"level", "unit", "group", "run", "commit", "date", "cores", "gpu"} <= row.keys()
            assert "unavailable" in row or len(row["samples"]) >= 3
            assert not row["commit"].endswith("+"), "measured on changed files"
