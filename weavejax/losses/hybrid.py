"""A score of early and late fusion together, ours."""

from typing import Any

from jax import Array

from weavejax.losses.cosine import MEAN_COSINE
from weavejax.losses.score import Learned, Score
from weavejax.losses.volume import SHIFTED_VOLUME


def _prepare(clip_bmd: Array, present_bm: Array) -> tuple[Any, Any]:
    joint = SHIFTED_VOLUME.prepare(clip_bmd[:, :1], present_bm[:, :1])
    return joint, MEAN_COSINE.prepare(clip_bmd[:, 1:], present_bm[:, 1:])


def _compare(anchor_ad: Array, clips: tuple[Any, Any], learned: Learned) -> Array:
    joint, each = clips
    shifted_ab = SHIFTED_VOLUME.compare(anchor_ad, joint, learned)
    return shifted_ab + MEAN_COSINE.compare(anchor_ad, each, learned)


HYBRID = Score(_prepare, _compare, sees="both")
"""−sqrt((1 − c)(3 − c)) + (1/M) Σ_m a·x_m, c = a·f(x_1, …, x_M): VAST's fused vector by the
hyperbolic area that it spans with the anchor (`SHIFTED_VOLUME` of two vectors), and each modality by
its cosine. In [−√8 − 1, 1]."""
