"""The loss to the slowest of N ranks: draws against the formula, and both against the page."""

from pathlib import Path

import numpy as np
import pytest

from fastsac.bench.stragglers import CASES, RANKS, Noise, expected, simulated, table

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"


@pytest.mark.parametrize("noise", CASES)
def test_draws_and_formula_agree(noise):
    for ranks in RANKS:
        assert simulated(noise, ranks) == pytest.approx(expected(noise, ranks), abs=0.01)


def test_the_formula_by_hand():
    # The mean of the larger of two standard normals is 1 / sqrt(pi), of the largest of three 1.5
    # times that.
    for ranks, mean in ((2, np.pi**-0.5), (3, 1.5 * np.pi**-0.5)):
        assert expected(Noise(0.1), ranks) == pytest.approx(1 - 1 / (1 + 0.1 * mean), abs=1e-4)
    assert expected(Noise(0.1), 1) == pytest.approx(0, abs=1e-4)
    # Without other noise two ranks wait where either pauses: (1 + 9 (1 - 0.99^2)) / (1 + 0.09).
    assert expected(Noise(1e-3, 0.01, 10), 2) == pytest.approx(1 - 1.09 / 1.1791, abs=2e-3)


def test_the_page_has_the_table():
    assert table() in PAGE.read_text()
