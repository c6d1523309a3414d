"""Long clips: windows that overlap, evaluated as one batch and blended at every step.

The state is that of the whole clip, so windows share their noise where they overlap and agree on what
lies there at every level (MultiDiffusion, Bar-Tal et al., arXiv 2302.08113): a network that knows
clips of one length becomes a denoiser of clips of any length. The clean estimate is linear in v at a
given state, so blending v is blending the estimates.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import jax.numpy as jnp
import numpy as np
from jax import Array

from weavejax.errors import UserError


@dataclass(frozen=True)
class Windows:
    """Where the windows of a clip lie.

    Attributes:
      length: of the clip, T.
      width: of every window, W ≤ T.
      starts: of the windows, ascending; the first is 0, the last ends with the clip.
    """

    length: int
    width: int
    starts: tuple[int, ...]

    @cached_property
    def places(self) -> np.ndarray:
        """Places of the clip in each window, int [N, W]."""
        return np.asarray(self.starts)[:, None] + np.arange(self.width)

    @cached_property
    def weights(self) -> np.ndarray:
        """Share of each window in each of its places, float64 [N, W]; shares in a place sum to 1.

        Linear ramps over the overlap with each neighbour; where three windows meet, by proportion.
        """
        raw = np.ones((len(self.starts), self.width))
        inner = np.arange(self.width) + 0.5
        for n in range(1, len(self.starts)):
            overlap = self.starts[n - 1] + self.width - self.starts[n]
            if overlap > 0:
                raw[n] = np.minimum(raw[n], inner / overlap)
                raw[n - 1] = np.minimum(raw[n - 1], inner[::-1] / overlap)
        total = np.zeros(self.length)
        np.add.at(total, self.places, raw)
        return raw / total[self.places]

    @cached_property
    def sources(self) -> tuple[np.ndarray, np.ndarray]:
        """For each place: where in the flattened windows it lies, int [T, M], and shares [T, M].

        M is the largest number of windows over a place; unused entries have share 0.
        """
        places = self.places.ravel()
        order = np.argsort(places, kind="stable")
        first = np.searchsorted(places[order], np.arange(self.length))
        rank = np.arange(len(places)) - first[places[order]]
        index = np.zeros((self.length, rank.max() + 1), np.int32)
        share = np.zeros(index.shape)
        index[places[order], rank] = order
        share[places[order], rank] = self.weights.ravel()[order]
        return index, share

    @property
    def seams(self) -> tuple[float, ...]:
        """Middles of the overlaps, in places: where a seam would be heard."""
        return tuple(
            (earlier + self.width + later) / 2
            for earlier, later in zip(self.starts, self.starts[1:], strict=False)
        )


def plan_windows(length: int, width: int, overlap: int) -> Windows:
    """Windows over a clip of any length; the last one ends with the clip and may overlap more.

    Args:
      length: T ≥ 1.
      width: of a window; a clip no longer than it is a single window of its own length.
      overlap: of neighbours, in [0, width).
    """
    if length < 1 or width < 1 or not 0 <= overlap < width:
        raise UserError(
            f"windows of {width} with an overlap of {overlap} over a clip of {length}: lengths are "
            "at least 1 and the overlap is shorter than a window"
        )
    width = min(width, length)
    hop = max(width - overlap, 1)
    number = -(-(length - width) // hop) + 1
    return Windows(length, width, tuple(min(n * hop, length - width) for n in range(number)))


def cut(x: Array, windows: Windows) -> Array:
    """[B, T, ...] → windows [B · N, W, ...], those of a clip beside each other."""
    if x.shape[1] != windows.length:
        raise ValueError(f"windows over {windows.length} places, an array of {x.shape[1]}")
    return x[:, windows.places].reshape(-1, windows.width, *x.shape[2:])


def blend(x: Array, windows: Windows) -> Array:
    """Windows [B · N, W, ...] → [B, T, ...], crossfaded where they overlap."""
    flat = x.reshape(-1, len(windows.starts) * windows.width, *x.shape[2:])
    index, share = windows.sources
    # Gathered, not scattered: the order of the sum is fixed, so is the result on every device.
    total = None
    for n in range(index.shape[1]):
        weight = jnp.asarray(share[:, n], x.dtype).reshape(1, -1, *(1,) * (x.ndim - 2))
        term = weight * flat[:, index[:, n]]
        total = term if total is None else total + term
    assert total is not None
    return total


def windowed(
    denoiser: Callable[[Array, Array], Array], windows: Windows
) -> Callable[[Array, Array], Array]:
    """A denoiser of whole clips [B, T, ...] of one of windows [B · N, W, ...].

    Args:
      denoiser: (x [B · N, W, ...], t [B · N]) → v; its conditions are those of the windows, in the
        order of `cut`: curves over time cut as the latents are, the rest repeated N times.
      windows: over clips of that length.
    """

    def denoise(x: Array, time: Array) -> Array:
        per_window = jnp.repeat(time, len(windows.starts))
        return blend(denoiser(cut(x, windows), per_window).astype(x.dtype), windows)

    return denoise
