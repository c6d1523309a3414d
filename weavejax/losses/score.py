"""What a contrastive score is: a part computed once per clip, and a part per pair."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
from jax import Array

Clips = Any  # a pytree of arrays with a leading clip dimension
Learned = Mapping[str, Array]


@dataclass(frozen=True, eq=False)  # compared and hashed by identity: a static argument of jit
class Score:
    """How well anchors match clips; higher is better.

    Split in two so that a large batch can be scored in blocks: what `prepare` gives is all that has
    to travel between devices, and `compare` is called for one block of anchors and clips at a time.

    Attributes:
      prepare: (clip [B,M,D], present [B,M]) → a pytree with leading dimension B.
      compare: (anchor [A,D], prepared clips, learned) → [A,B].
      learned: scalars of the score itself that training may change, by name, with their first value.
      sees: of a clip its "modalities"; or "fused", one vector [B,1,D] made from all of them by a
        learned head; or "both", that vector and then the modalities [B,1+M,D].
    """

    prepare: Callable[[Array, Array], Clips]
    compare: Callable[[Array, Clips, Learned], Array]
    learned: Mapping[str, float] = field(default_factory=dict)
    sees: str = "modalities"

    def seen(self, fused: Array, clip: Array, present: Array) -> tuple[Array, Array]:
        """Vectors and their mask as `prepare` takes them, of a score that does see `fused` [B,D]."""
        joint, any_b1 = fused[:, None], present.any(1, keepdims=True)
        if self.sees == "fused":
            return joint, any_b1
        return jnp.concatenate([joint, clip], 1), jnp.concatenate([any_b1, present], 1)

    def __call__(
        self, anchor: Array, clip: Array, present: Array, learned: Learned | None = None
    ) -> Array:
        """Scores [A, B] of unit vectors: anchor [A,D], clip [B,M,D], present bool [B,M].

        An absent modality's vector is not read. `learned` defaults to the first values.
        """
        if learned is None:
            learned = {name: jnp.float32(value) for name, value in self.learned.items()}
        return self.compare(anchor, self.prepare(clip, present), learned)


def pairwise(function: Callable[[Array, Array, Array], Array]) -> Score:
    """A score from one pure function (anchor [A,D], clip [B,M,D], present [B,M]) → [A,B]."""
    return Score(
        prepare=lambda clip, present: (clip, present),
        compare=lambda anchor, clips, learned: function(anchor, *clips),
    )
