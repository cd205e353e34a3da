"""Statistics over a few runs, as in Agarwal et al. 2021 (arXiv 2108.13264)."""

from collections.abc import Callable, Sequence

import numpy as np

Curve = dict[str, np.ndarray]  # columns of metrics.csv, a value an evaluation


class Summary:
    """Runs (R) of one kind, at the steps (P) that they have in common.

    By column, x has the IQM of what it was at these steps. So with the seconds: a slow moment of
    the machine shifts a curve over them and cuts nothing off it.
    """

    def __init__(self, curves: Sequence[Curve]):
        grid = common_grid([curve["step"] for curve in curves])
        columns = {
            column: np.stack([np.interp(grid, c["step"], c[column]) for c in curves])
            for column in curves[0]
        }
        self.x = {column: interquartile_mean(values) for column, values in columns.items()}
        self.returns = columns["eval_return"]  # (R, P)
        self.final = np.array([curve["eval_return"][-1] for curve in curves])  # (R,)
        self.mean = self.x["eval_return"]  # (P,)


def interquartile_mean(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Returns the mean without the lowest and the highest quarter, each rounded down."""
    count = values.shape[axis]
    middle = range(count // 4, count - count // 4)
    return np.take(np.sort(values, axis), middle, axis).mean(axis)


def bootstrap_interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the 95% percentile interval of the IQM over runs (R, ...); None for fewer than 2."""
    count = len(values)
    if count < 2:
        return None
    drawn = np.random.default_rng(0).integers(count, size=(2000, count))
    low, high = np.quantile(interquartile_mean(values[drawn], axis=1), [0.025, 0.975], axis=0)
    return low, high


def interquartile_mean_of_tasks(scores: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the IQM () of all tasks' scores (..., N), tasks with more runs weighing more.

    Args:
        scores: of each task (..., N), N its number of runs; what is before N is drawn alike.
    """
    return interquartile_mean(np.concatenate(list(scores), axis=-1), axis=-1)


def probability_of_improvement(
    ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]
) -> np.ndarray:
    """Returns how likely one of our runs is above one of theirs, the mean () over tasks.

    Equal scores count half (Mann and Whitney's U, as in the paper's section 4.3).

    Args:
        ours: of each task (..., N).
        theirs: of each task (..., M).
    """
    pairs = ((x[..., :, None], y[..., None, :]) for x, y in zip(ours, theirs, strict=True))
    above = [((x > y) + (x == y) / 2).mean(axis=(-2, -1)) for x, y in pairs]
    return np.mean(above, axis=0)


def stratified_interval(
    statistic: Callable[..., np.ndarray], *groups: Sequence[np.ndarray]
) -> tuple[float, float] | None:
    """Returns the 95% percentile interval of a statistic over runs drawn anew within each task.

    Args:
        statistic: takes as many groups, its tasks' scores (2000, N), and returns (2000,).
        *groups: of each task the scores (N,).

    Returns:
        None where no task has a second run: nothing says how runs differ.
    """
    if max(len(scores) for group in groups for scores in group) < 2:
        return None
    random = np.random.default_rng(0)
    drawn = [
        [scores[random.integers(len(scores), size=(2000, len(scores)))] for scores in group]
        for group in groups
    ]
    low, high = np.quantile(statistic(*drawn), [0.025, 0.975])
    return float(low), float(high)


def common_grid(steps: Sequence[np.ndarray]) -> np.ndarray:
    """Returns all runs' steps from the latest start to the earliest end, ascending."""
    first, last = max(s[0] for s in steps), min(s[-1] for s in steps)
    every = np.unique(np.concatenate(steps))
    inside = every[(every >= first) & (every <= last)]
    return inside if len(inside) else np.array([last])  # runs that a time limit ended apart


def time_to_return(x: np.ndarray, returns: np.ndarray, target: float) -> float | None:
    """Returns the x at which a curve (P,) first reaches the target, linear between its points."""
    reached = np.flatnonzero(returns >= target)
    if not len(reached):
        return None
    around = slice(max(reached[0] - 1, 0), reached[0] + 1)
    return float(np.interp(target, returns[around], x[around]))
