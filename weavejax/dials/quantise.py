"""Levels as classes: the μ-law quantisers of the envelope networks, and their smoothed targets.

Two of them, which are not each other's inverse. Video-Foley's has 64 edges between 0.01 and 1 at
μ = 63; what lies below is silence, its class 0. Fol·AI's published decoding reads the same 64 integers
at μ = 127 as the upper half of 128 levels over [-1, 1], so that nothing above 0.926 can be said and
class 0 alone is silence.

`quantise` works on NumPy arrays, in data workers, and on JAX arrays, inside jit, and imports neither
for it; the tables of the others are NumPy arrays that a device can index.
"""

from functools import lru_cache
from typing import Any

import numpy as np

MU, CLASSES, FLOOR = 63, 64, 0.01  # Video-Foley's
FOL_AI_MU = 127
REACH, SIGMA = 2, 1.0  # of the smoothed targets


@lru_cache(maxsize=8)
def mu_law_edges(mu: int = MU, classes: int = CLASSES, floor: float = FLOOR) -> np.ndarray:
    """Lower edges of the classes 1, 2, … and the end of the last: float64 ``[classes]``, read-only.

    Evenly spaced from ``floor`` to 1 after F(x) = ln(1 + μx) / ln(1 + μ). Source: Video-Foley,
    ``data_utils.py``.
    """
    lowest = np.log1p(mu * floor) / np.log1p(mu)
    edges = np.expm1(np.linspace(lowest, 1.0, classes) * np.log1p(mu)) / mu
    edges[[0, -1]] = floor, 1.0  # exact, whatever the rounding of the logarithms
    edges.setflags(write=False)
    return edges


def quantise(levels: Any, mu: int = MU, classes: int = CLASSES, floor: float = FLOOR) -> Any:
    """Class of each level: 0 for silence, k for levels from edge k - 1 up to and without edge k.

    Args:
        levels: RMS, floating point, any shape, NumPy or JAX; what smoothing made negative is silence.
        mu: see `mu_law_edges`, also for the other two.
        classes: number of classes; levels of 1 and more are of the last, where the published code
            leaves the range.
        floor: level below which there is silence.

    Returns:
        int32, same shape.
    """
    xp = levels.__array_namespace__()
    edges = mu_law_edges(mu, classes, floor)
    # The smallest values of the levels' own type that are not below the edges: so a type of fewer
    # digits decides as the exact edges do.
    rounded = edges.astype(levels.dtype)
    up = np.nextafter(rounded, np.array(np.inf, levels.dtype))
    edges = np.where(rounded.astype(np.float64) < edges, up, rounded)
    found = xp.searchsorted(xp.asarray(edges), levels, side="right")
    return xp.minimum(found, classes - 1).astype(np.int32)


def dequantise(
    codes: np.ndarray, mu: int = MU, classes: int = CLASSES, floor: float = FLOOR
) -> np.ndarray:
    """Level of each class, as published: 0 for silence, else the upper edge of the class.

    Args:
        codes: integers in [0, classes), any shape.
        mu: see `mu_law_edges`.
        classes: see `quantise`.
        floor: see `quantise`.

    Returns:
        float32, same shape.

    Raises:
        ValueError: a code lies outside.
    """
    _check(codes, classes)
    return class_levels(mu, classes, floor)[codes]


def class_levels(mu: int = MU, classes: int = CLASSES, floor: float = FLOOR) -> np.ndarray:
    """What `dequantise` gives for each class: float32 ``[classes]``."""
    levels = mu_law_edges(mu, classes, floor).copy()
    levels[0] = 0.0
    return levels.astype(np.float32)


def expand_fol_ai(codes: np.ndarray) -> np.ndarray:
    """Level of each class as Fol·AI decodes it: (128^(q/64) - 1) / 127.

    Source: ``librosa.mu_expand(q, mu=127, quantize=True)`` in Stable-V2A's inference notebook.

    Args:
        codes: integers in [0, 64), any shape.

    Returns:
        float32, same shape, in [0, 0.926].

    Raises:
        ValueError: a code lies outside.
    """
    _check(codes, CLASSES)
    share = np.asarray(codes, np.float64) * (2 / (1 + FOL_AI_MU))
    return (np.expm1(share * np.log1p(FOL_AI_MU)) / FOL_AI_MU).astype(np.float32)


def smoothed_targets(
    codes: np.ndarray, classes: int = CLASSES, reach: int = REACH, sigma: float = SIGMA
) -> np.ndarray:
    """Weights of the classes around the true one, for a cross-entropy that forgives neighbours.

    1 for the class itself, exp(-2^d / (2 · 2^σ)) at a distance d up to ``reach``; not normalised.
    Silence (class 0) is not smoothed and lends no weight to its neighbours, nor they to it. Source:
    Video-Foley, ``criterion.py``.

    Args:
        codes: integers in [0, classes), any shape.
        classes: number of classes.
        reach: classes to each side that get a weight.
        sigma: σ of the weights.

    Returns:
        float32 ``[..., classes]``.

    Raises:
        ValueError: a code lies outside.
    """
    _check(codes, classes)
    return target_table(classes, reach, sigma)[codes]


def target_table(classes: int = CLASSES, reach: int = REACH, sigma: float = SIGMA) -> np.ndarray:
    """What `smoothed_targets` gives for each class: float32 ``[classes, classes]``."""
    distance = np.abs(np.arange(classes)[:, None] - np.arange(classes))
    table = np.where(distance <= reach, np.exp(-(2.0**distance) / (2 * 2.0**sigma)), 0.0)
    table[0], table[:, 0] = 0.0, 0.0
    np.fill_diagonal(table, 1.0)
    return table.astype(np.float32)


def _check(codes: np.ndarray, classes: int) -> None:
    codes = np.asarray(codes)
    if codes.dtype.kind not in "iu" or (
        codes.size and not 0 <= codes.min() <= codes.max() < classes
    ):
        raise ValueError(f"codes must be integers in [0, {classes})")
