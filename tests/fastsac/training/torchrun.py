"""Starts the real torchrun, and ends one of its processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path


class Torchrun:
    """A torchrun of some ranks on this machine, under a time limit; a context that leaves none.

    Args:
        ranks: how many.
        log: a file, for all that they print.
        arguments: a program and its arguments, or "-m" and a module's.
        flags: torchrun's own.
    """

    def __init__(self, ranks, log, *arguments, flags=()):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", *flags]
        command += ["--nproc-per-node", str(ranks), *map(str, arguments)]
        self.log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                command, stdout=file, stderr=file, env=os.environ | {"OMP_NUM_THREADS": "1"}
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pids = [*self.pids().values(), self.process.pid]
        if self.process.poll() is None:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            self.process.wait()

    def pids(self):
        """The ranks' process ids."""
        try:
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
            pids = [int(pid) for pid in children.read_text().split()]
        except OSError:
            return {}
        found = {}
        for pid in pids:
            names = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            found |= {int(x.removeprefix(b"RANK=")): pid for x in names if x.startswith(b"RANK=")}
        return found

    def wait_until(self, true, seconds=240):
        """Waits until a function is true, while the ranks run."""
        ends = time.monotonic() + seconds
        while not true():
            assert self.process.poll() is None, self.text
            assert time.monotonic() < ends, self.text
            time.sleep(0.02)

    def wait(self, seconds=240):
        """Returns the exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it hangs: {self.text}") from None

    @property
    def text(self):
        """All that was printed so far."""
        return self.log.read_text()
