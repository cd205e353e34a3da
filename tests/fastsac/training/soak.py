"""Hours of one run that is killed, interrupted and left without a disk again and again.

    python -m tests.fastsac.training.soak DIR --seconds 7200

DIR should lie on a small file system of its own, which the soak fills up now and then (as root:
mount -t tmpfs -o size=40m tmpfs DIR). A line of JSON a life of the process, and a last one; exit
code 1 if anything was lost or left over.
"""

import argparse
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from fastsac.runs import checkpoint_file

FLAGS = "--preset cpu --num-envs 16 --updates-per-step 2 --batch-size 64 --hidden-sizes 64 64"
FLAGS += " --replay-capacity 20000 --learning-starts 1000 --eval-every 20000 --eval-episodes 1"
FLAGS += " --checkpoint-every 5000 --log-seconds 2 --total-steps 100000000 --final-eval-episodes 1"
SETTLED = 45_000  # steps of a life: the replay is full, and an evaluation has been
MARK = "FASTSAC_SOAK"
LARGEST = 2**30  # bytes of a file system that may be filled
LEAST = 30  # seconds of a life
GRACE = 90  # seconds for an end with a checkpoint


def measured(pid):
    """Resident MB, threads, open files and children of a process, or None when it is gone."""
    try:
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        )
        return {
            "mb": round(int(status["VmRSS"].split()[0]) / 1024, 1),
            "threads": int(status["Threads"]),
            "files": len(os.listdir(f"/proc/{pid}/fd")),
            "children": sum(
                len(Path(f"/proc/{pid}/task/{task}/children").read_text().split())
                for task in os.listdir(f"/proc/{pid}/task")
            ),
        }
    except (OSError, KeyError):
        return None


def steps_of(run):
    """The steps of the newest checkpoint that loads, and of the rows of metrics.csv in order."""
    newest = checkpoint_file.load(run)["counters"]["steps"] if checkpoint_file.files_of(run) else 0
    metrics = run / "metrics.csv"
    return newest, steps_of_rows(metrics) if metrics.exists() else []


def fill(directory, seconds):
    """Leaves the file system without room for a while."""
    filler = directory / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 20))
    except OSError:
        time.sleep(seconds)
    finally:
        filler.unlink(missing_ok=True)


def left_over():
    """Processes that descend from the run's, by a variable of their environment."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={os.getpid()}\0".encode() in (place / "environ").read_bytes():
                found.append(int(place.name))
        except OSError:
            continue
    return found


def live(run, number, seconds, end, drawn):
    """One life of the process; returns what became of it."""
    command = [sys.executable, "-m", "fastsac", "train"]
    if number == 0:
        command += ["cheetah_run", *FLAGS.split(), "--run-dir", str(run)]
    else:
        command += ["--resume", str(run)]
    before = steps_of(run)[0] if number else 0
    log = run.parent.parent / f"{run.parent.name}-{number}.log"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    environment[MARK] = str(os.getpid())
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    started, samples, filled = time.monotonic(), [], 0
    while time.monotonic() - started < seconds and process.poll() is None:
        time.sleep(2)
        if last_row(run) - before > SETTLED and (now := measured(process.pid)):
            samples.append(now)
        if drawn.random() < 0.01:
            fill(run.parent, drawn.uniform(2, 15))
            filled += 1
    died = process.poll()
    if died is None:
        process.send_signal(end)
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            died = "did not end"
    time.sleep(1)
    problems = [] if died is None else [f"ended by itself: {died}, {log.read_text()[-300:]}"]
    newest, rows = steps_of(run)
    if newest < before:
        problems.append(f"the checkpoint went back from {before} to {newest}")
    if end != signal.SIGKILL and rows and not filled and newest < rows[-1]:
        problems.append(f"a checkpoint of {newest} at an end after {rows[-1]}")
    if rows != sorted(set(rows)):
        problems.append("rows of metrics.csv stand twice")
    if processes := left_over():
        problems.append(f"processes are left over: {processes}")
    return {
        "life": number,
        "seconds": round(time.monotonic() - started),
        "end": signal.Signals(end).name,
        "filled": filled,
        "steps": newest,
        "growth": growth(samples),
        "problems": problems,
    }


def last_row(run):
    """The step of the last whole row, while rows are being written."""
    try:
        return (steps_of_rows(run / "metrics.csv") or [0])[-1]
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return 0


def steps_of_rows(path):
    """The steps of the rows that are no evaluation's."""
    with path.open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row["steps_per_second"]]


def growth(samples):
    """The last third of a life's samples against its first: the medians of each."""
    if len(samples) < 30:
        return None
    third = len(samples) // 3

    def median(part, key):
        return sorted(sample[key] for sample in part)[len(part) // 2]

    return {
        key: [median(samples[:third], key), median(samples[-third:], key)] for key in samples[0]
    }


def main():
    """Runs the soak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seconds", type=float, default=7200)
    parser.add_argument("--seed", type=int, default=0)
    parsed = parser.parse_args()
    if shutil.disk_usage(parsed.directory).total > LARGEST:
        parser.error(f"{parsed.directory} lies on a file system of more than a gigabyte")
    drawn, run = random.Random(parsed.seed), parsed.directory.resolve() / "run"
    until, number, problems = time.monotonic() + parsed.seconds, 0, []
    while (left := until - time.monotonic()) > LEAST:
        # Every fourth life is a long one, whose memory is looked at.
        longest = 900 if number % 4 == 3 else 90
        seconds = min(drawn.uniform(LEAST, longest) if longest < 900 else longest, left)
        end = drawn.choice([signal.SIGTERM, signal.SIGKILL, signal.SIGKILL])
        found = live(run, number, seconds, end, drawn)
        print(json.dumps(found), flush=True)
        problems += found["problems"]
        for key, (first, last) in (found["growth"] or {}).items():
            if last > 1.05 * first + (0 if key == "mb" else 1):
                problems.append(f"{key} grew from {first} to {last}")
        number += 1
    print(json.dumps({"lives": number, "steps": steps_of(run)[0], "problems": problems}))
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
