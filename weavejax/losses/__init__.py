"""Contrastive scores and losses. `SCORES` is the one dictionary that configs choose from.

A score says how well anchors [A,D] match clips [B,M,D], whose modalities are present or not [B,M]: an
array [A,B], higher is better; all vectors are unit vectors. To add one: write a pure function of the
three, add a line here with `pairwise(function)`. `Score` says how to make one cheap on large batches.
"""

from weavejax.losses.cosine import (
    CENTROID,
    FUSED_COSINE,
    MEAN_COSINE,
    MULTILINEAR,
    SUM_COSINE,
    WEIGHTED_CENTROID,
)
from weavejax.losses.hybrid import HYBRID
from weavejax.losses.score import Score
from weavejax.losses.singular import SINGULAR_VALUE
from weavejax.losses.triangle import TRIANGLE, TRIANGLE_COSINE
from weavejax.losses.volume import (
    BLENDED_VOLUME,
    LOG_VOLUME,
    NORMALISED_VOLUME,
    SHIFTED_VOLUME,
    VOLUME,
)

SCORES: dict[str, Score] = {
    "cosine": MEAN_COSINE,
    "sum_cosine": SUM_COSINE,
    "fused_cosine": FUSED_COSINE,
    "volume": VOLUME,
    "normalised_volume": NORMALISED_VOLUME,
    "log_volume": LOG_VOLUME,
    "shifted_volume": SHIFTED_VOLUME,
    "blended_volume": BLENDED_VOLUME,
    "triangle": TRIANGLE,
    "triangle_cosine": TRIANGLE_COSINE,
    "multilinear": MULTILINEAR,
    "singular_value": SINGULAR_VALUE,
    "centroid": CENTROID,
    "weighted_centroid": WEIGHTED_CENTROID,
    "hybrid": HYBRID,
}
