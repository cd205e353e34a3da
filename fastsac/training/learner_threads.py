"""How many threads a CPU's updates take: as many as are fastest now.

Threads of one matrix product wait for each other, so a core that another program has stops them
all: beside busy programs on two cores two threads did 41 to 88 updates a second where one did 104
to 128. What an update computes does not depend on their number at the sizes of the CPU's presets
(test_learner_threads.py); of larger batches and wider networks its last bits may.
"""

import contextlib
import os
import statistics
import time
from collections.abc import Iterator

import torch

_PERIOD = 5.0  # seconds from one trial of other numbers to the next
_CYCLES = 3  # of blocks that are timed of each
_SLOW = 3.0  # times the present number's time, after which one block of a number is enough
_MOST_SHARE = 0.03  # of the time, for trials; another number may be much slower


class LearnerThreads:
    """Times blocks of updates and sets torch's number of threads for those to come.

    A trial times some blocks with the present number, with half of it and with twice as many; it
    goes on from the fastest until that is the present one. Nothing is tried where OMP_NUM_THREADS
    says how many.

    Args:
        device: the learner's.
        cycle: so many blocks are alike; one of them alone may lack the actor's updates.

    Attributes:
        count: threads of the updates now.
    """

    def __init__(self, device: torch.device, cycle: int = 1):
        self._blocks, self._untimed = _CYCLES * cycle, 2 * cycle  # the first may compile
        self.count = self._most = torch.get_num_threads()
        chosen = "OMP_NUM_THREADS" in os.environ or device.type != "cpu"
        self._adapts = self._most > 1 and not chosen
        self._trial: dict[int, list[float]] = {}  # seconds of blocks, by their threads
        self._cost = self._next = 0.0

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Times a block of updates, as long as any other, that is done within."""
        if not self._adapts:
            yield
            return
        if self._untimed:
            self._untimed -= 1
            yield
            return
        start = time.monotonic()
        if not self._trial and start >= self._next:
            others = {max(1, self.count // 2), min(self._most, 2 * self.count)} - {self.count}
            self._trial, self._cost = {n: [] for n in (self.count, *sorted(others))}, 0.0
        tried = next((n for n in self._trial if not self._is_tried(n)), None)
        if tried is not None:
            torch.set_num_threads(tried)
        yield
        if tried is None:
            return
        seconds = time.monotonic() - start
        self._trial[tried].append(seconds)
        self._cost += seconds
        if all(map(self._is_tried, self._trial)):
            self._choose()

    def close(self) -> None:
        """Gives torch back the number that it had."""
        torch.set_num_threads(self._most)

    def _is_tried(self, number: int) -> bool:
        times, present = self._trial[number], self._trial[self.count]
        is_slow = bool(times) and number != self.count and min(times) > _SLOW * max(present)
        return is_slow or len(times) == self._blocks

    def _choose(self) -> None:
        means = {n: statistics.fmean(times) for n, times in self._trial.items()}
        fastest = min(means, key=means.__getitem__)
        if fastest == self.count:
            blocks = sum(map(len, self._trial.values()))
            lost = max(0.0, self._cost - blocks * means[fastest])
            self._next = time.monotonic() + max(_PERIOD, lost / _MOST_SHARE)
        self.count, self._trial = fastest, {}
        torch.set_num_threads(self.count)
