"""--profile: the overlap that it computes, and the trace of a real run."""

import json

import pytest

import fastsac
from fastsac.training import profiling
from fastsac.training.presets import preset_config
from fastsac.training.profiling import overlaps


def test_overlaps_by_hand():
    assert overlaps([(0, 10), (20, 30)], [(5, 22), (28, 40)]) == [(5, 10), (20, 22), (28, 30)]
    assert overlaps([(0, 1)], [(1, 2)]) == [] == overlaps([], [(0, 1)])


def test_spans_are_the_hosts_own():
    span = {"name": "updates", "ts": 0, "dur": 9, "cat": "user_annotation"}
    events = [span, {**span, "cat": "gpu_user_annotation", "dur": 99}, {"name": "updates"}]
    assert profiling._intervals(events, "updates") == [(0, 9)]


def test_a_gpus_updates_are_only_enqueued_by_the_host():
    span = {"name": "updates", "ts": 0, "dur": 9000, "cat": "user_annotation"}
    kernel = {"name": "_forward", "ts": 5, "dur": 99, "cat": "kernel"}
    assert profiling._summary([span]) == "traced 20 vector steps: updates 9.0 ms"
    said = profiling._summary([span, kernel])
    assert "9.0 ms to enqueue the updates" in said and "updates 9.0 ms" not in said


@pytest.mark.parametrize("steps", [0, 5, 30])
def test_a_run_too_short_for_a_trace_says_so(steps, tmp_path):
    profiler = profiling.Profiler(tmp_path)
    assert [profiler.step() for _ in range(steps)] == [None] * steps
    assert (
        profiler.close() == f"no trace: --profile needs 40 vector steps with updates, not {steps}"
    )
    assert not list(tmp_path.iterdir())


def test_a_runs_trace_shows_physics_beside_updates(tmp_path, capsys):
    config = preset_config(
        "cheetah_run",
        run_dir=str(tmp_path / "run"),
        profile=True,
        num_envs=64,
        updates_per_step=1,
        total_steps=64 * 50,
        learning_starts=64,
        eval_every=10**6,
        final_eval_episodes=1,
        sac=fastsac.SACConfig(hidden_sizes=(256, 256)),
    )
    fastsac.train(config)
    said = capsys.readouterr().err
    assert "traced 20 vector steps: updates " in said and "physics " in said
    events = json.loads((tmp_path / "run" / "trace.json").read_text())["traceEvents"]
    spans = {name: [e for e in events if e.get("name") == name] for name in ("physics", "updates")}
    assert all(len(found) == 20 for found in spans.values())
    threads = [{e["tid"] for e in found} for found in spans.values()]
    assert len(threads[0] | threads[1]) == 2  # each on a thread of its own
    one = lambda name: sorted((e["ts"], e["ts"] + e["dur"]) for e in spans[name])  # noqa: E731
    assert overlaps(one("physics"), one("updates"))
