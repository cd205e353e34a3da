r"""What ranks lose by waiting for the slowest of them at every update, on paper.

    python -m fastsac.bench.stragglers

Each of N ranks needs a time T for an update, drawn anew each time: 1 + cv z with z standard normal,
k times that with probability p. The all_reduce ends when the slowest comes, so an update takes the
largest of N such times, whose mean is the integral of 1 - F(x)^N from 0 on, F being T's
distribution; lost is 1 - E[T] / E[largest]. No cluster has been measured.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

RANKS = (1, 2, 4, 8, 16, 32)
_UPDATES = 200_000  # drawn of each
_POINTS = 20_000  # of the integral


@dataclasses.dataclass(frozen=True)
class Noise:
    """How a rank's times of an update differ.

    Attributes:
        cv: standard deviation over mean, of a normal distribution cut off at 0.
        chance: of an update that takes ``longer`` times as long: a pause of the host's.
        longer: how many times.
    """

    cv: float
    chance: float = 0.0
    longer: float = 1.0

    @property
    def words(self) -> str:
        """The noise, for a table."""
        if not self.chance:
            return f"{self.cv:.0%}"
        return f"{self.cv:.0%}, and 1 of {1 / self.chance:,.0f} takes {self.longer:g} times as long"

    @property
    def scale(self) -> float:
        """What the mean of 1 is divided by for the pauses."""
        return 1 + self.chance * (self.longer - 1)


CASES = (Noise(0.02), Noise(0.1), Noise(0.3), Noise(0.02, 1e-3, 10), Noise(0.02, 1e-2, 10))


def simulated(noise: Noise, ranks: int) -> float:
    """Returns the share of the time that N ranks lose, by draws of their times."""
    random = np.random.default_rng(0)
    times = np.maximum(1 + noise.cv * random.standard_normal((_UPDATES, ranks)), 0)
    times *= np.where(random.random((_UPDATES, ranks)) < noise.chance, noise.longer, 1.0)
    return float(1 - times.mean() / times.max(axis=1).mean())


def expected(noise: Noise, ranks: int) -> float:
    """Returns the same by the formula."""
    x = np.linspace(0, noise.longer * (1 + 8 * noise.cv), _POINTS)
    below = (1 - noise.chance) * _normal((x - 1) / noise.cv)
    below += noise.chance * _normal((x / noise.longer - 1) / noise.cv)
    return float(1 - noise.scale / np.trapezoid(1 - below**ranks, x))


def _normal(z: np.ndarray) -> np.ndarray:
    return np.array([0.5 * math.erfc(-one / math.sqrt(2)) for one in z])


def table(lost: Callable[[Noise, int], float] = simulated) -> str:
    """Returns the table of docs/scaling.md."""
    text = f"| noise of an update's time | {' | '.join(f'{n} ranks' for n in RANKS[1:])} |\n"
    text += f"|---|{'---|' * len(RANKS[1:])}\n"
    for noise in CASES:
        text += f"| {noise.words} | {' | '.join(f'{lost(noise, n):.0%}' for n in RANKS[1:])} |\n"
    return text


if __name__ == "__main__":
    print(table(), end="")
