"""Rotary position embedding (Su et al., RoFormer, arXiv 2104.09864) of a part of each head."""

import jax
import jax.numpy as jnp
import numpy as np


def inverse_frequencies(dims: int, base: float = 10_000.0) -> np.ndarray:
    """Angle per position of each pair of dimensions, float32 ``[dims / 2]``, as PyTorch rounds it."""
    exponents = np.arange(0, dims, 2, dtype=np.float32) / np.float32(dims)
    return np.float32(1.0) / np.float32(base) ** exponents


def rotary_table(length: int, dims: int, base: float = 10_000.0) -> np.ndarray:
    """Cosines and sines of positions 0, 1, ...: float32 ``[2, length, dims / 2]``.

    Made on the host, so that every backend rotates by the same angles.
    """
    angles = np.outer(np.arange(length, dtype=np.float32), inverse_frequencies(dims, base))
    return np.stack([np.cos(angles), np.sin(angles)])


def rotate(x: jax.Array, table: jax.Array | np.ndarray) -> jax.Array:
    """Turn the first dimensions of every head by its position's angles; the others stay.

    Dimension i of the first half of those that turn makes a pair with dimension i of the second
    half. In float32, back in the type of ``x``.

    Args:
        x: queries or keys ``[N, L, H, D]``.
        table: from `rotary_table`, for L positions and at most D dimensions.
    """
    half = table.shape[-1]
    if x.shape[1] != table.shape[1] or x.shape[-1] < 2 * half:
        raise ValueError(f"a rotary table {table.shape} does not fit heads {x.shape}")
    cosine, sine = (jnp.asarray(part)[None, :, None] for part in table)
    first, second = (x[..., :half].astype(jnp.float32), x[..., half : 2 * half].astype(jnp.float32))
    turned = jnp.concatenate(
        [first * cosine - second * sine, second * cosine + first * sine], axis=-1
    )
    return jnp.concatenate([turned.astype(x.dtype), x[..., 2 * half :]], axis=-1)
