r"""The area of the triangle that anchor and clip span: TRIANGLE (Grassucci et al., NeurIPS 2025).

A = ½·sqrt(‖u‖²‖w‖² − (u·w)²) with u = t − x, w = t − y for text t and two modalities x, y. As half of
base times height it needs, per pair, only two products with t:

  A = ½·‖y − x‖·dist(t, line through x and y),   dist² = ‖t − x‖² − ((t − x)·e)²,  e = (y − x)/‖y − x‖.

The published code takes half of the squared double area, without the root; here the formula holds.
More than two modalities: the mean over their pairs. A clip that has only one gets the area of the
triangle whose third corner stands at unit height above the other two, ½·‖t − x‖; the paper says
nothing of it, that choice is ours.
"""

import itertools

import jax.numpy as jnp
from jax import Array, lax

from weavejax.losses.score import Learned, Score

HIGHEST = lax.Precision.HIGHEST
Clips = tuple[Array, Array, Array, Array, Array]


def _prepare(clip_bmd: Array, present_bm: Array) -> Clips:
    """Per clip: vectors, share of each alone, and edge, offset and weight of every pair."""
    clip_bmd = jnp.where(present_bm[:, :, None], clip_bmd, 0.0)
    pairs = list(itertools.combinations(range(clip_bmd.shape[1]), 2))
    count_b = present_bm.sum(1)
    alone_bm = (present_bm & (count_b == 1)[:, None]).astype(clip_bmd.dtype)
    if not pairs:
        empty = jnp.zeros((len(clip_bmd), 0), clip_bmd.dtype)
        return clip_bmd, alone_bm, jnp.zeros((*empty.shape, clip_bmd.shape[2])), empty, empty
    eps = jnp.finfo(clip_bmd.dtype).eps
    both_bp = jnp.stack([present_bm[:, m] & present_bm[:, n] for m, n in pairs], 1)
    side_bpd = jnp.stack([clip_bmd[:, n] - clip_bmd[:, m] for m, n in pairs], 1)
    length2_bp = jnp.square(side_bpd).sum(-1)
    sound_bp = both_bp & (length2_bp > 4 * eps)
    length_bp = jnp.where(sound_bp, jnp.sqrt(jnp.where(sound_bp, length2_bp, 1.0)), 0.0)
    edge_bpd = jnp.where(
        sound_bp[..., None],
        side_bpd / jnp.where(sound_bp, length_bp, 1.0)[..., None],
        0.0,
    )
    starts_bpd = jnp.stack([clip_bmd[:, m] for m, _ in pairs], 1)
    offset_bp = (starts_bpd * edge_bpd).sum(-1)
    pairs_b = jnp.maximum(both_bp.sum(1), 1).astype(clip_bmd.dtype)
    return clip_bmd, alone_bm, edge_bpd, offset_bp, 0.5 * length_bp / pairs_b[:, None]


def _area(anchor_ad: Array, clips: Clips) -> Array:
    clip_bmd, alone_bm, edge_bpd, offset_bp, weight_bp = clips
    modalities = clip_bmd.shape[1]
    chord2 = [_chord_squared(anchor_ad, clip_bmd[:, m]) for m in range(modalities)]
    area_ab = sum(
        (0.5 * alone_bm[:, m][None, :] * _root(chord2[m]) for m in range(modalities)),
        jnp.zeros_like(chord2[0]),
    )
    for p, (m, _) in enumerate(itertools.combinations(range(modalities), 2)):
        along_ab = _product(anchor_ad, edge_bpd[:, p]) - offset_bp[:, p][None, :]
        area_ab = area_ab + weight_bp[:, p][None, :] * _root(chord2[m] - jnp.square(along_ab))
    return area_ab


def _chord_squared(anchor_ad: Array, vector_bd: Array) -> Array:
    """‖t − x‖² [A, B]."""
    norms_ab = jnp.square(anchor_ad).sum(1)[:, None] + jnp.square(vector_bd).sum(1)[None, :]
    return norms_ab - 2.0 * _product(anchor_ad, vector_bd)


def _root(squared_ab: Array) -> Array:
    """Square root, 0 with derivative 0 at rounding level."""
    sound_ab = squared_ab > 8 * jnp.finfo(squared_ab.dtype).eps
    return jnp.where(sound_ab, jnp.sqrt(jnp.where(sound_ab, squared_ab, 1.0)), 0.0)


def _product(x_ad: Array, y_bd: Array) -> Array:
    return jnp.matmul(x_ad, y_bd.T, precision=HIGHEST)


def _triangle(anchor_ad: Array, clips: Clips, learned: Learned) -> Array:
    del learned
    return -_area(anchor_ad, clips)


def _triangle_cosine(anchor_ad: Array, clips: Clips, learned: Learned) -> Array:
    clip_bmd = clips[0]
    present_b = jnp.maximum((jnp.square(clip_bmd).sum(2) > 0).sum(1), 1).astype(clip_bmd.dtype)
    mean_bd = clip_bmd.sum(1) / present_b[:, None]
    return learned["alpha"] * _product(anchor_ad, mean_bd) - _area(anchor_ad, clips)


TRIANGLE = Score(_prepare, _triangle)
"""−A. In [-3√3/4, 0]: 0 when the three vectors lie on a line."""

TRIANGLE_COSINE = Score(_prepare, _triangle_cosine, {"alpha": 1.0})
"""−A + α·(mean cosine of the anchor to the clip): the cosine term of the paper's inference."""
