"""Means over seeds with their intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


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
    half = stats.t.ppf((1 + level) / 2, count - 1) * array.std(ddof=1) / np.sqrt(count)
    return Interval(float(array.mean()), float(half), count)
