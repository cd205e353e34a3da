"""A trace of some vector steps, and how much of the physics it shows beside the updates."""

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

NAME = "trace.json"
# Of learning before the trace: compilation, a CUDA graph's capture and caches lie in them.
_WARM_UP_STEPS, _TRACED_STEPS = 20, 20

Interval = tuple[float, float]


class Profiler:
    """Traces vector steps once learning has settled.

    Args:
        directory: where trace.json goes; chrome://tracing and ui.perfetto.dev show it.
    """

    def __init__(self, directory: Path):
        self._path = directory / NAME
        self._steps = 0
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        config = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)
        self._profile = profile(activities=activities, experimental_config=config)

    def step(self) -> str | None:
        """Counts a vector step with updates; returns a sentence when the trace is written."""
        self._steps += 1
        if self._steps == _WARM_UP_STEPS:
            self._profile.start()
        if self._steps != _WARM_UP_STEPS + _TRACED_STEPS:
            return None
        self._profile.stop()
        try:
            self._profile.export_chrome_trace(str(self._path))
            events = json.loads(self._path.read_text())["traceEvents"]
        except (OSError, ValueError) as error:  # a full disk costs the trace, not the run
            return f"warning: could not write {self._path}: {error}"
        return f"{_summary(events)}; trace in {self._path}"

    def close(self) -> str:
        """Stops a trace that has not come to its end; returns the sentence that says so."""
        if self._steps >= _WARM_UP_STEPS:
            self._profile.stop()
        needed = _WARM_UP_STEPS + _TRACED_STEPS
        return f"no trace: --profile needs {needed} vector steps with updates, not {self._steps}"


def _summary(events: list[dict]) -> str:
    physics, updates = (_intervals(events, name) for name in ("physics", "updates"))
    milliseconds = f"{_total(updates) / 1e3:.1f} ms"
    if not physics and any(
        e.get("cat") == "kernel" for e in events
    ):  # the host did no more than launch them
        return (
            f"traced {_TRACED_STEPS} vector steps: {milliseconds} to enqueue the updates; what "
            "they and the physics take stands on the GPU's streams in the trace"
        )
    sentence = f"traced {_TRACED_STEPS} vector steps: updates {milliseconds}"
    if not physics:
        return sentence
    shorter = min(_total(physics), _total(updates))
    share = _total(overlaps(physics, updates)) / shorter if shorter else 0.0
    return (
        f"{sentence}, physics {_total(physics) / 1e3:.1f} ms, "
        f"{share:.0%} of the shorter beside the other"
    )


def _intervals(events: list[dict], name: str) -> list[Interval]:
    """Returns when the spans of a name ran, microseconds."""
    # On a GPU the same name stands for what it launched, too, as gpu_user_annotation.
    spans = [e for e in events if e.get("name") == name and e.get("cat") == "user_annotation"]
    return sorted((e["ts"], e["ts"] + e["dur"]) for e in spans)


def _total(intervals: Iterable[Interval]) -> float:
    return sum(end - start for start, end in intervals)


def overlaps(first: Iterable[Interval], second: Iterable[Interval]) -> list[Interval]:
    """Returns where intervals of the one list lie within intervals of the other.

    The intervals of a list do not overlap each other.
    """
    pairs = ((a, b) for a in first for b in second)
    common = ((max(a[0], b[0]), min(a[1], b[1])) for a, b in pairs)
    return [(start, end) for start, end in common if start < end]
