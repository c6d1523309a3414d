"""Distances between sets of features: Fréchet, its limit for infinitely many rows, and a kernel's.

tr(C₁C₂)^½ is the nuclear norm of X̃Ỹᵀ, the product of the centred features scaled by 1/√(n - 1): no
square root of a product of covariances, which in float32 is off by percents and in float64 by the rank.
A sample of the same distribution has a Fréchet distance that falls as 1/n and is of the size of the
covariance itself at 200 rows of 2048 features: values of different n are not comparable.
"""

from typing import Any, NamedTuple

import numpy as np

SIZES, SMALLEST = 25, 500  # of the fit towards infinitely many rows, fadtk's
KERNEL_SCALE = 100.0  # kadtk's
KERNEL_PAIRS = 4_000_000  # distances looked at for the median; beyond it rows are thinned out


class Gaussian(NamedTuple):
    """A normal distribution fitted to rows.

    Attributes:
      mean: [d].
      factor: [min(n, d), d] with covariance = factorᵀ factor (unbiased).
    """

    mean: Any
    factor: Any


def gaussian(rows: Any) -> Gaussian:
    """Mean and covariance factor of rows [n, d]; NumPy, or JAX inside jit, in their own type.

    Raises:
      ValueError: fewer than two rows, or not a matrix.
    """
    if rows.ndim != 2 or len(rows) < 2:
        raise ValueError(f"features must be [n, d] with n of 2 or more, not {rows.shape}")
    xp = rows.__array_namespace__()
    mean = rows.mean(axis=0)
    centred = (rows - mean[None]) / (len(rows) - 1) ** 0.5
    return Gaussian(mean, xp.linalg.qr(centred, mode="r") if len(rows) > rows.shape[1] else centred)


def gaussian_distance(one: Gaussian, other: Gaussian) -> Any:
    """Fréchet distance |μ₁ - μ₂|² + tr C₁ + tr C₂ - 2 tr (C₁C₂)^½ of two normal distributions."""
    xp = one.mean.__array_namespace__()
    cross = xp.linalg.svd(one.factor @ other.factor.T, compute_uv=False).sum()
    traces = xp.square(one.factor).sum() + xp.square(other.factor).sum()
    return xp.square(one.mean - other.mean).sum() + traces - 2 * cross


def frechet_distance(truth: np.ndarray, generated: np.ndarray) -> float:
    """Fréchet distance of two sets of features, in float64.

    Args:
      truth: [n, d].
      generated: [m, d].

    Raises:
      ValueError: fewer than two rows on a side, or different d.
    """
    truth, generated = _matched(truth, generated)
    return float(gaussian_distance(gaussian(truth), gaussian(generated)))


class Limit(NamedTuple):
    """A fit of the Fréchet distance a + b/n.

    Attributes:
      value: a, the distance without the bias of the number of rows.
      slope: b.
      fit: R² of the fit.
    """

    value: float
    slope: float
    fit: float


def frechet_infinity(
    truth: np.ndarray,
    generated: np.ndarray,
    *,
    seed: int = 0,
    sizes: int = SIZES,
    smallest: int = SMALLEST,
    replace: bool = True,
) -> Limit:
    """FAD∞: Fréchet distances to n of the generated rows, drawn at random, fitted against 1/n.

    The truth is used whole, and its own bias stays. Published numbers draw with replacement: their
    limit is the distance to the rows there are, not to the distribution they are of, and so keeps
    the bias of m, which drawing without replacement takes out (FID∞, Chong and Forsyth 2020).
    Source: fadtk, ``score_inf`` (Gui et al. 2023); rows are frames there, not clips.

    Args:
      truth: [n, d].
      generated: [m, d], m greater than `smallest`.
      seed: of the draws.
      sizes: numbers of rows, evenly spaced from `smallest` to m.
      smallest: number of rows.
      replace: with replacement, as published.

    Raises:
      ValueError: too few rows.
    """
    truth, generated = _matched(truth, generated)
    if len(generated) <= smallest:
        raise ValueError(f"FAD∞ needs more than {smallest} rows, has {len(generated)}")
    rng, fixed = np.random.default_rng(seed), gaussian(truth)
    counts = np.linspace(smallest, len(generated), sizes).astype(np.int64)
    drawn = (rng.choice(len(generated), count, replace=replace) for count in counts)
    values = np.array([gaussian_distance(fixed, gaussian(generated[rows])) for rows in drawn])
    slope, limit = np.polyfit(1.0 / counts, values, 1)
    rest = np.square(values - limit - slope / counts).sum()
    around = np.square(values - values.mean()).sum()
    return Limit(float(limit), float(slope), float(1 - rest / around) if around else 1.0)


def kernel_distance(
    truth: np.ndarray, generated: np.ndarray, bandwidth: float | None = None
) -> float:
    """KAD: 100 times the unbiased squared maximum mean discrepancy of a Gaussian kernel.

    No bias in n, so that it may be slightly negative by right. Source: kadtk, ``kad.py`` (Chung et al.
    2025).

    Args:
      truth: [n, d].
      generated: [m, d].
      bandwidth: σ of the kernel exp(-|x - y|² / 2σ²); None for the median distance within the truth.

    Raises:
      ValueError: fewer than two rows on a side, or different d.
    """
    truth, generated = _matched(truth, generated)
    if min(len(truth), len(generated)) < 2:
        raise ValueError("KAD needs two rows or more on both sides")
    width = median_distance(truth) if bandwidth is None else bandwidth
    gamma = 1.0 / (2.0 * width**2 + 1e-8)  # as published, so that equal rows do not divide by 0
    within = [_mean_kernel(rows, rows, gamma, own=True) for rows in (truth, generated)]
    return float(
        KERNEL_SCALE * (sum(within) - 2 * _mean_kernel(truth, generated, gamma, own=False))
    )


class KernelDraws:
    """KAD of many draws of the same rows: the kernel is computed once, the draws are weights.

    Args:
      truth: [n, d].
      generated: [m, d].
    """

    def __init__(self, truth: np.ndarray, generated: np.ndarray) -> None:
        truth, generated = _matched(truth, generated)
        gamma = 1.0 / (2.0 * median_distance(truth) ** 2 + 1e-8)
        rows = np.concatenate([truth, generated])
        self._truth = len(truth)
        self._kernel = np.empty((len(rows), len(rows)), np.float32)
        for start in range(0, len(rows), 1024):
            part = slice(start, start + 1024)
            self._kernel[part] = np.exp(-gamma * _square_distances(rows[part], rows))

    def distance(self, truth_times: np.ndarray, generated_times: np.ndarray) -> float:
        """`kernel_distance`, to single precision, of the rows each taken so many times.

        The bandwidth stays that of the whole truth.

        Args:
          truth_times: [n].
          generated_times: [m].
        """
        weights = np.zeros((2, len(self._kernel)), np.float32)
        weights[0, : self._truth], weights[1, self._truth :] = truth_times, generated_times
        sums = (weights @ self._kernel).astype(np.float64) @ weights.T
        n, m = weights.sum(1, dtype=np.float64)
        within = (sums[0, 0] - n) / (n * (n - 1)) + (sums[1, 1] - m) / (m * (m - 1))
        return float(KERNEL_SCALE * (within - 2 * sums[0, 1] / (n * m)))


def median_distance(rows: np.ndarray) -> float:
    """Median Euclidean distance of all pairs of rows [n, d] (of large sets, of evenly thinned ones)."""
    step = int(np.ceil(len(rows) / (2 * KERNEL_PAIRS) ** 0.5))
    rows = rows[::step]
    squares = _square_distances(rows, rows)[np.triu_indices(len(rows), 1)]
    # torch's median, the published one, is the lower of two in the middle.
    return float(np.sqrt(np.partition(squares, (len(squares) - 1) // 2)[(len(squares) - 1) // 2]))


def _mean_kernel(one: np.ndarray, other: np.ndarray, gamma: float, *, own: bool) -> float:
    """Mean of the kernel over pairs, block by block; `own` leaves out each row with itself."""
    total = 0.0
    for start in range(0, len(one), 1024):
        total += np.exp(-gamma * _square_distances(one[start : start + 1024], other)).sum()
    return (
        (total - len(one)) / (len(one) * (len(one) - 1)) if own else total / len(one) / len(other)
    )


def _square_distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    squares = np.square(one).sum(1)[:, None] + np.square(other).sum(1) - 2 * one @ other.T
    return np.maximum(squares, 0.0)


def _matched(truth: np.ndarray, generated: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    truth, generated = np.asarray(truth, np.float64), np.asarray(generated, np.float64)
    if truth.ndim != 2 or generated.ndim != 2 or truth.shape[1] != generated.shape[1]:
        raise ValueError(f"features are {truth.shape} and {generated.shape}, not [n, d] and [m, d]")
    return truth, generated
