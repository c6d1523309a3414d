"""Means over seeds, and numbers over clips, with their intervals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000


@dataclass(frozen=True)
class Interval:
    """A mean with its interval.

    Attributes:
      mean: of the values.
      half: half the width of the interval; NaN from a single value.
      count: of values.
    """

    mean: float
    half: float
    count: int

    def overlaps(self, other: "Interval") -> bool:
        """Whether the two intervals share a value; unknown ones count as shared."""
        return not abs(self.mean - other.mean) > self.half + other.half


def student_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Mean of independent normal values and its interval by Student's t with n − 1 degrees.

    Args:
      values: [n], one a seed, n ≥ 1.
      level: share of such intervals that hold the true mean.
    """
    array = np.asarray(values, np.float64)
    count = len(array)
    if count < 2:
        return Interval(float(array.mean()), float("nan"), count)
    import scipy.special  # costs every start a quarter of a second, and few need it

    half = scipy.special.stdtrit(count - 1, (1 + level) / 2) * array.std(ddof=1) / np.sqrt(count)
    return Interval(float(array.mean()), float(half), count)


def bootstrap_mean(
    values: Sequence[float] | np.ndarray, level: float = 0.95
) -> tuple[float, float]:
    """Interval of a mean when its values are drawn again, seed 0, 1,000 times.

    Args:
      values: [n], one a clip, n ≥ 1.
      level: share of such intervals that hold the mean of all clips there could be.
    """
    array, rng = np.asarray(values, np.float64), np.random.default_rng(0)
    drawn = [array[rng.integers(len(array), size=len(array))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_spread(
    statistic: Callable[[np.ndarray], float],
    count: int,
    value: float,
    resamples: int,
    level: float = 0.95,
) -> tuple[float, float]:
    """Interval of a statistic of a set when its members are drawn again, seed 0.

    A set with repetitions has a greater Fréchet or kernel distance to any other than the set itself:
    the bias of the size comes in a second time. So the draws give the width only, and lie around the
    value measured.

    Args:
      statistic: of the members with the numbers it is given, int [count].
      count: of members.
      value: the statistic of all, once each.
      resamples: draws.
      level: share of the draws within.
    """
    rng = np.random.default_rng(0)
    drawn = np.array([statistic(rng.integers(count, size=count)) for _ in range(resamples)])
    low, high = np.quantile(drawn - drawn.mean(), [(1 - level) / 2, (1 + level) / 2])
    return float(value + low), float(value + high)
