"""Resizing of pictures: bilinear without antialiasing, as GRAM's loaders do, or bicubic as CLIP's."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

COEFFICIENT_BITS = 22  # Pillow's weights are whole multiples of 2^-22
CUBIC, REACH = -0.5, 2.0  # its bicubic kernel, and how far it reaches


def bilinear(
    image: np.ndarray, size: tuple[int, int], window: tuple[int, int, int, int] | None = None
) -> np.ndarray:
    """Resizes a picture: half-pixel centres, no antialiasing, edges repeated.

    The values of `torch.nn.functional.interpolate(..., mode="bilinear", align_corners=False)`,
    rounded to the nearest integer.

    Args:
      image: uint8 [H, W, C].
      size: height and width of the result.
      window: (top, left, height, width) of the part of the result to compute; default all of it.

    Returns:
      uint8 [h, w, C]. The same pixels, untouched, when the size already matches.
    """
    top, left, height, width = window or (0, 0, *size)
    if image.shape[:2] == tuple(size):
        return np.ascontiguousarray(image[top : top + height, left : left + width])
    upper, lower, row_weight = _neighbours(image.shape[0], size[0], top, height)
    before, after, column_weight = _neighbours(image.shape[1], size[1], left, width)
    # Rows first, still in bytes: only height × W pixels are read of a large picture.
    above, below = image.take(upper, axis=0), image.take(lower, axis=0)
    rows = row_weight[:, None, None]
    first = _mix(above.take(before, axis=1), below.take(before, axis=1), rows)
    second = _mix(above.take(after, axis=1), below.take(after, axis=1), rows)
    mixed = _mix(first, second, column_weight[None, :, None])
    return (mixed + np.float32(0.5)).astype(np.uint8)


def _neighbours(
    source: int, target: int, start: int, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two source positions each output position lies between, and the second one's weight."""
    position = (np.arange(start, start + count) + 0.5) * (source / target) - 0.5
    position = np.maximum(position, 0.0)
    first = np.minimum(position.astype(np.int64), source - 1)
    second = np.minimum(first + 1, source - 1)
    return first, second, (position - first).astype(np.float32)


def _mix(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> np.ndarray:
    start = first.astype(np.float32)
    return start + (second.astype(np.float32) - start) * weight


def bicubic(
    image: np.ndarray, size: tuple[int, int], window: tuple[int, int, int, int] | None = None
) -> np.ndarray:
    """Resizes a picture as Pillow's BICUBIC does, to the bit: antialiased, columns before rows.

    As the preprocessing of CLIP and SigLIP. (Pillow 13 takes rows first for some shapes, which
    rounds otherwise between the passes.) The same arguments as `bilinear`.
    """
    top, left, height, width = window or (0, 0, *size)
    columns = _reduce(image, 1, size[1], left, width)
    return _reduce(columns, 0, size[0], top, height)


def _reduce(image: np.ndarray, axis: int, target: int, start: int, count: int) -> np.ndarray:
    """One pass along rows (0) or columns (1), rounded to bytes as Pillow does between them."""
    if image.shape[axis] == target:
        return np.ascontiguousarray(image.take(range(start, start + count), axis))
    places, weights = _taps(image.shape[axis], target)
    shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
    total = np.array(1 << (COEFFICIENT_BITS - 1), np.int32)
    for place, weight in zip(places, weights, strict=True):
        chosen = image.take(place[start : start + count], axis).astype(np.int32)
        total = total + chosen * weight[start : start + count].reshape(shape)
    return np.asarray(np.clip(total >> COEFFICIENT_BITS, 0, 255), np.uint8)


@lru_cache(maxsize=32)
def _taps(source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each output position looks, and its weights there: two int32 [taps, target].

    Positions beyond an edge have no weight; the rest is made to sum to one.
    """
    scale = source / target
    stretch = max(scale, 1.0)
    centre = (np.arange(target) + 0.5) * scale
    first = np.maximum((centre - REACH * stretch + 0.5).astype(int), 0)
    last = np.minimum((centre + REACH * stretch + 0.5).astype(int), source)
    places = first + np.arange((last - first).max())[:, None]
    x = np.abs((places - centre + 0.5) / stretch)
    near = ((CUBIC + 2.0) * x - (CUBIC + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * CUBIC
    weights = np.where(x < 1, near, np.where(x < REACH, far, 0.0)) * (places < last)
    whole = weights / weights.sum(0) * (1 << COEFFICIENT_BITS)
    rounded = np.trunc(whole + np.copysign(0.5, whole)).astype(np.int32)
    return np.minimum(places, source - 1), rounded


# By the names that an example's spec gives them.
FILTERS: dict[str, Callable[..., np.ndarray]] = {"bilinear": bilinear, "bicubic": bicubic}


def centre_window(shape: tuple[float, float], side: int) -> tuple[tuple[int, int], tuple[int, ...]]:
    """Shorter side to `side`, then the central square.

    Args:
      shape: height and width of the displayed picture (any unit).
      side: side of the square in pixels.

    Returns:
      The size to resize to, and the window (top, left, height, width) in it.
    """
    height, width = shape
    shorter = min(height, width)
    size = (max(side, int(side * height / shorter)), max(side, int(side * width / shorter)))
    return size, (round((size[0] - side) / 2), round((size[1] - side) / 2), side, side)
