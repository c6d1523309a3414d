"""Bilinear resizing of pictures without antialiasing, as the published loaders do to tensors."""

import numpy as np


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
