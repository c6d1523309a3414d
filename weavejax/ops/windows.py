"""What Swin transformers are made of: attention in shifted windows, merging, cubic stretching.

Source: Liu et al., Swin (arXiv 2103.14030); code as in transformers' ``modeling_clap.py``.
"""

from functools import lru_cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from weavejax.ops.transformer import LayerNorm, MultiHeadAttention, trunc_normal

CUBIC = -0.75  # PyTorch's bicubic kernel


class WindowAttention(nn.Module):
    """Attention within square windows of the grid, with a learned bias by relative position.

    Attributes:
        heads: attention heads.
        window: side of a window, in tokens; a divisor of the grid's side.
        shift: by how many tokens the windows lie down and to the right.
        dtype: compute type.
        backend: see `weavejax.ops.attention`.
    """

    heads: int
    window: int
    shift: int
    dtype: jnp.dtype
    backend: str = "xla"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[N, G · G, width]`` → the same."""
        size, width = len(x), x.shape[-1]
        side, window = round(x.shape[1] ** 0.5), self.window
        relative = (2 * window - 1) ** 2
        bias = self.param("relative_bias", trunc_normal, (relative, self.heads))
        bias = bias[relative_index(window)].transpose(2, 0, 1)[None]
        x = x.reshape(size, side, side, width)
        x = jnp.roll(x, (-self.shift, -self.shift), axis=(1, 2))
        x = rearrange(x, "n (h p) (w q) d -> (n h w) (p q) d", p=window, q=window)
        mask = None
        if self.shift:
            mask = jnp.tile(window_mask(side, window, self.shift), (size, 1, 1, 1))
        attend = MultiHeadAttention(
            width, self.heads, self.dtype, backend=self.backend, name="attention"
        )
        x = attend(x, bias=lambda _: bias, mask=mask)
        grid = {"h": side // window, "w": side // window, "p": window}
        x = rearrange(x, "(n h w) (p q) d -> n (h p) (w q) d", **grid)
        x = jnp.roll(x, (self.shift, self.shift), axis=(1, 2))
        return x.reshape(size, side * side, width)


class MergeNeighbours(nn.Module):
    """Four neighbouring tokens to one of twice the width."""

    dtype: jnp.dtype
    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[N, G · G, width]`` → ``[N, G/2 · G/2, 2 · width]``."""
        side = round(x.shape[1] ** 0.5)
        x = rearrange(x, "n (h p w q) d -> n (h w) (q p d)", h=side // 2, p=2, q=2)
        x = LayerNorm(self.epsilon, self.dtype, name="norm")(x)
        width = x.shape[-1] // 2
        return nn.Dense(
            width, use_bias=False, dtype=self.dtype, kernel_init=trunc_normal, name="reduce"
        )(x)


@lru_cache(maxsize=8)
def relative_index(window: int) -> np.ndarray:
    """Which row of the bias belongs to each pair of a window's places: int ``[W², W²]``."""
    rows, columns = (axis.ravel() for axis in np.mgrid[:window, :window])
    down = rows[:, None] - rows[None] + window - 1
    across = columns[:, None] - columns[None] + window - 1
    return down * (2 * window - 1) + across


@lru_cache(maxsize=8)
def window_mask(side: int, window: int, shift: int) -> np.ndarray:
    """Who may see whom in each shifted window: bool ``[windows, 1, W², W²]``.

    Rolling brings opposite edges of the grid into one window; they must not see each other.
    """
    place = np.arange(side)
    region = (place >= side - window).astype(int) + (place >= side - shift)
    grid = rearrange(
        3 * region[:, None] + region[None], "(h p) (w q) -> (h w) (p q)", p=window, q=window
    )
    return (grid[:, :, None] == grid[:, None, :])[:, None]


@lru_cache(maxsize=8)
def cubic_matrix(source: int, target: int) -> np.ndarray:
    """Cubic interpolation that keeps both ends: float32 ``[target, source]``.

    As torch's ``interpolate(mode="bicubic", align_corners=True)`` along one axis: places beyond an
    end repeat it.
    """
    place = np.arange(target) * ((source - 1) / (target - 1))
    first = np.floor(place).astype(int)
    matrix = np.zeros((target, source))
    for offset in range(-1, 3):
        distance = np.abs(place - (first + offset))
        near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
        far = ((CUBIC * distance - 5 * CUBIC) * distance + 8 * CUBIC) * distance - 4 * CUBIC
        weight = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
        np.add.at(matrix, (np.arange(target), np.clip(first + offset, 0, source - 1)), weight)
    return matrix.astype(np.float32)
