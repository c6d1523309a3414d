"""Pairwise cosine to the anchor: the contrast of CLIP, ImageBind and LanguageBind."""

import jax.numpy as jnp
from jax import Array, lax


def mean_cosine(anchor_ad: Array, clip_bmd: Array, present_bm: Array) -> Array:
    """Mean over the clip's present modalities of the cosine to the anchor.

    Args:
      anchor_ad: unit vectors [A, D].
      clip_bmd: unit vectors [B, M, D].
      present_bm: which modalities each clip has, bool [B, M].

    Returns:
      [A, B] in [-1, 1]; 0 for a clip without any modality.
    """
    count_b = jnp.maximum(present_bm.sum(1), 1).astype(clip_bmd.dtype)
    # The mean of cosines is the cosine to the mean vector: one product instead of M.
    mean_bd = jnp.where(present_bm[:, :, None], clip_bmd, 0.0).sum(1) / count_b[:, None]
    return jnp.matmul(anchor_ad, mean_bd.T, precision=lax.Precision.HIGHEST)
