"""How the ranks of a run know of each other's death, though a dead one says nothing."""

import contextlib
import os
import signal
import sys
import threading
import time

import torch.distributed as dist

_SECONDS = 1.0  # between a rank's beats
# Without one: far longer than a rank holds Python's lock, and within a minute.
_SILENT_SECONDS = 45.0
_DONE = "done"


class Heartbeat:
    """A thread that counts in the store of all ranks, and looks whether the others still do.

    Where one has been silent for 45 s, this process says its name and exits, whatever it waits for:
    a collective that was captured in a CUDA graph waits for a dead rank for ever. Where the store
    is gone, so is torchrun, and the process ends as by SIGTERM, with a checkpoint.

    Args:
        store: of all ranks of this run.
        of_thread: a client of its own of the same store, which one thread at a time may use.
        rank: this process's.
        size: how many there are.
    """

    def __init__(self, store: dist.Store, of_thread: dist.Store, rank: int, size: int):
        self._store, self._of_thread = store, of_thread
        self._rank, self._others = rank, [other for other in range(size) if other != rank]
        self._closing = threading.Event()
        self._of_thread.set(f"beat/{rank}", "0")
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def lost(self) -> str:
        """Waits for some beats and returns a sentence about the ranks without one, or ""."""
        before = {other: self._beat(other, self._store) for other in self._others}
        time.sleep(3 * _SECONDS)
        return self._sentence(
            [o for o in self._others if self._beat(o, self._store) == before[o]], self._store
        )

    def leave(self, words: str = _DONE) -> None:
        """Says of what this rank ends, for the others, should they miss it."""
        with contextlib.suppress(RuntimeError):  # no store any more
            self._store.set(f"words/{self._rank}", words)

    def close(self) -> None:
        """Ends the thread."""
        self._closing.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        heard = {other: (b"", time.monotonic()) for other in self._others}
        count = 0
        try:
            while not self._closing.wait(_SECONDS):
                count += 1
                self._of_thread.set(f"beat/{self._rank}", str(count))
                if count % 5:  # N ranks make N^2 look-ups
                    continue
                now = time.monotonic()
                for other in self._others:
                    beat = self._beat(other, self._of_thread)
                    if beat != heard[other][0]:
                        heard[other] = beat, now
                silent = [o for o in self._others if now - heard[o][1] > _SILENT_SECONDS]
                if sentence := self._sentence(silent, self._of_thread):
                    print(f"fastsac: {sentence}", file=sys.stderr, flush=True)
                    os._exit(4)  # RankError's; what would close the run waits for the dead rank too
        except RuntimeError:  # no store any more
            if not self._closing.is_set():
                os.kill(os.getpid(), signal.SIGTERM)

    def _beat(self, rank: int, store: dist.Store) -> bytes:
        key = f"beat/{rank}"
        return store.get(key) if store.check([key]) else b""

    def _sentence(self, silent: list[int], store: dist.Store) -> str:
        """Names the silent ranks and their last words; those that are done are none."""
        parts, unknown = [], "silent: killed, stopped, or its machine lost"
        for rank in silent:
            key = f"words/{rank}"
            words = store.get(key).decode() if store.check([key]) else unknown
            if words != _DONE:
                parts.append(f"rank {rank} has ended ({words})")
        return "; ".join(parts)
