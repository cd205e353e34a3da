"""docs/scaling.md's sweeps, on Ray: killed and gone on with; drawn by Optuna."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastsac.runs.checkpoint_file import files_of
from fastsac.runs.directory import is_running
from fastsac.runs.listing import describe, read_metrics

ROOT = Path(__file__).parents[3]
SWEEP, SEARCH = re.findall(
    r"```yaml\n(.*?)```", (ROOT / "docs" / "scaling.md").read_text(), re.DOTALL
)
MARK = "FASTSAC_TEST_SWEEP"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


@pytest.fixture
def ray():
    pytest.importorskip("ray.tune")
    return pytest.importorskip("optuna")


class Sweep:
    """`fastsac sweep` on two cores, in a process of its own that may be killed with its Ray."""

    def __init__(self, folder, text):
        self.folder, self.out = folder, folder / "sweeps" / "sweep"
        (folder / "sweep.yaml").write_text(text)
        own = {MARK: str(folder), "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
        own |= {"RAY_worker_niceness": "0"}  # as any other test beside busy programs
        command = [sys.executable, "-m", "fastsac", "sweep", "sweep.yaml"]
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env={**os.environ, **own}, stdout=log, stderr=log
            )

    @property
    def runs(self):
        return sorted(path for path in (self.out / "runs").glob("*") if path.is_dir())

    def text(self):
        return (self.folder / "log").read_text()

    def kill(self):
        """SIGKILLs the driver and whatever it and its Ray have started."""
        mark = f"{MARK}={self.folder}".encode()
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (path / "environ").read_bytes().split(b"\0"):
                    os.kill(int(path.name), signal.SIGKILL)
            except OSError:
                continue
        self.process.wait()

    def wait(self):
        try:
            return self.process.wait(1200)
        finally:
            self.kill()


def rows(text):
    cells = [line.strip("| ").split(" | ") for line in text.splitlines() if "| cartpole_b" in line]
    return [(row[1], int(row[2]), int(row[3])) for row in cells]


def test_eight_runs_killed_half_way_go_on(ray, tmp_path):
    first = Sweep(tmp_path, SWEEP)
    try:
        ends = time.monotonic() + 1200
        while time.monotonic() < ends and first.process.poll() is None:
            finished = [run for run in first.runs if (run / "result.json").exists()]
            live = [run for run in first.runs if is_running(run) and len(files_of(run)) > 1]
            if len(first.runs) >= 4 and finished and live:
                break
            time.sleep(0.2)
        else:
            pytest.fail(first.text()[-3000:])
    finally:
        first.kill()
    live = [run for run in live if not (run / "result.json").exists()]
    before = {run: (run / "result.json").stat().st_mtime_ns for run in finished}
    assert len(first.runs) < 8, "it was killed too late to show anything"

    second = Sweep(tmp_path, SWEEP)
    assert second.wait() == 0, second.text()[-3000:]
    assert before == {run: (run / "result.json").stat().st_mtime_ns for run in finished}
    for run in live:
        (step,) = re.findall(r"going on at step ([\d,]+) of", Path(f"{run}.log").read_text())
        assert int(step.replace(",", "")) >= 500
    table = rows((second.out / "README.md").read_text())
    assert len(second.runs) == 8 and [row[1] for row in table] == [2] * 4
    states = [describe(run)["state"] for run in second.runs]
    print(states, table)
    assert sum(row[2] for row in table) == states.count("finished") >= 1
    assert states.count("stopped") == 8 - states.count("finished") >= 1
    for run in second.runs:
        last = read_metrics(run)[0]["step"][-1]
        assert (last == 4000) == (run / "result.json").exists() and last >= 1000
    best = re.search(r"best policy of cartpole_balance: (\S+) \(", second.text()).group(1)
    assert Path(best).is_file() and (second.out / "cartpole_balance.png").is_file()

    (tmp_path / "sweep.yaml").write_text(SWEEP.replace("seeds: 2", "seeds: 3"))
    done = subprocess.run(
        second.process.args, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2 and "holds another sweep; choose another --output" in done.stderr


def test_optuna(ray, tmp_path):
    sweep = Sweep(tmp_path, SEARCH)
    assert sweep.wait() == 0, sweep.text()[-3000:]
    table = rows((sweep.out / "README.md").read_text())
    assert [row[1:] for row in table] == [(2, 2)] * 3
    configs = [json.loads((run / "config.json").read_text()) for run in sweep.runs]
    drawn = {}
    for config in configs:
        sac = config["sac"]
        drawn.setdefault((sac["learning_rate"], sac["layer_norm"]), []).append(config["seed"])
    assert len(drawn) == 3 and all(sorted(seeds) == [0, 1] for seeds in drawn.values())
    assert all(1e-4 <= rate <= 1e-2 for rate, _ in drawn)
