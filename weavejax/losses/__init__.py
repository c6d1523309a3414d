"""Contrastive scores and losses. `SCORES` is the one dictionary that configs choose from.

A score is a pure function `(anchor [A,D], clip [B,M,D], present [B,M]) -> [A,B]` on unit vectors;
higher means a better match. To add one: write the function, add its line here.
"""

from collections.abc import Callable

from jax import Array

from weavejax.losses.cosine import mean_cosine
from weavejax.losses.volume import shifted_volume, volume

Score = Callable[[Array, Array, Array], Array]

SCORES: dict[str, Score] = {
    "cosine": mean_cosine,
    "volume": lambda anchor, clip, present: -volume(anchor, clip, present),
    "shifted_volume": lambda anchor, clip, present: -shifted_volume(anchor, clip, present),
}
