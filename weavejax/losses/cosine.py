"""Scores that compare the anchor with one vector of the clip: cosines, centroids, products."""

import jax
import jax.numpy as jnp
from jax import Array, lax

from weavejax.losses.score import Learned, Score

HIGHEST = lax.Precision.HIGHEST
SHARPNESS = 0.1  # temperature of the query's weights, as published by SCALAR


def _dots(anchor_ad: Array, vector_bd: Array, learned: Learned) -> Array:
    del learned
    return jnp.matmul(anchor_ad, vector_bd.T, precision=HIGHEST)


def _sum(clip_bmd: Array, present_bm: Array) -> Array:
    return jnp.where(present_bm[:, :, None], clip_bmd, 0.0).sum(1)


def _mean(clip_bmd: Array, present_bm: Array) -> Array:
    # The mean of cosines is the cosine to the mean vector: one product instead of M.
    count_b = jnp.maximum(present_bm.sum(1), 1).astype(clip_bmd.dtype)
    return _sum(clip_bmd, present_bm) / count_b[:, None]


def _centre(clip_bmd: Array, present_bm: Array) -> Array:
    total_bd = _sum(clip_bmd, present_bm)
    norm2_b = jnp.square(total_bd).sum(1, keepdims=True)
    sound_b = norm2_b > 4 * jnp.finfo(clip_bmd.dtype).eps  # opposed vectors have no centre
    return jnp.where(sound_b, total_bd * lax.rsqrt(jnp.where(sound_b, norm2_b, 1.0)), 0.0)


def _product(clip_bmd: Array, present_bm: Array) -> Array:
    return jnp.where(present_bm[:, :, None], clip_bmd, 1.0).prod(1)


def _weighted_prepare(clip_bmd: Array, present_bm: Array) -> tuple[Array, Array, Array]:
    clip_bmd = jnp.where(present_bm[:, :, None], clip_bmd, 0.0)
    gram_bmn = jnp.einsum("bmd,bnd->bmn", clip_bmd, clip_bmd, precision=HIGHEST)
    return clip_bmd, present_bm, gram_bmn


def _weighted(anchor_ad: Array, clips: tuple[Array, Array, Array], learned: Learned) -> Array:
    del learned
    clip_bmd, present_bm, gram_bmn = clips
    dots_abm = jnp.einsum("ad,bmd->abm", anchor_ad, clip_bmd, precision=HIGHEST)
    # A clip without any modality would be a softmax over nothing; its dots are 0 in any case.
    seen_bm = present_bm | ~present_bm.any(1, keepdims=True)
    weight_abm = jax.nn.softmax(jnp.where(seen_bm[None], dots_abm / SHARPNESS, -jnp.inf), axis=-1)
    norm2_ab = jnp.einsum("abm,abn,bmn->ab", weight_abm, weight_abm, gram_bmn, precision=HIGHEST)
    sound_ab = norm2_ab > 4 * jnp.finfo(norm2_ab.dtype).eps
    inverse_ab = jnp.where(sound_ab, lax.rsqrt(jnp.where(sound_ab, norm2_ab, 1.0)), 0.0)
    return (weight_abm * dots_abm).sum(-1) * inverse_ab


MEAN_COSINE = Score(_mean, _dots)
"""(1/M) Σ_m a·x_m over the clip's present modalities: ImageBind (arXiv 2305.05665), LanguageBind
(arXiv 2310.01852). In [-1, 1]; 0 for a clip without any modality."""

SUM_COSINE = Score(_sum, _dots)
"""Σ_m a·x_m: as the mean, but a clip with more modalities weighs more."""

FUSED_COSINE = Score(_sum, _dots, sees="fused")
"""a·f(x_1, …, x_M), f a learned linear map of the concatenated features: VAST (arXiv 2305.18500)."""

CENTROID = Score(_centre, _dots)
"""a·c/‖c‖, c = Σ_m x_m: the cosine to the spherical mean with equal weights."""

WEIGHTED_CENTROID = Score(_weighted_prepare, _weighted)
"""Σ_m w_m a·x_m / sqrt(Σ_mn w_m w_n x_m·x_n), w = softmax_m(a·x_m / 0.1): the cosine to a spherical
mean in which the query chooses the weights (SCALAR, Mehrish, Nag, Vascon, 2026)."""

MULTILINEAR = Score(_product, _dots)
"""Σ_d a[d] Π_m x_m[d], the multilinear inner product of Symile (Saporta et al., NeurIPS 2024). Here
the modalities of a clip stay together as one block; Symile also shuffles them among the negatives."""
