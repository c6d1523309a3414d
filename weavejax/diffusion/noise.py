"""Noise as a pure function of a clip's key, the step and, where wanted, the place in the clip.

A noise source is a function of a step's number: 0 gives what sampling starts from, n what step n adds.
Every clip has its own key, so a clip sounds the same in whatever batch it is made.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import Array

Noise = Callable[[int | Array], Array]


def clip_noise(keys: Array, shape: Sequence[int]) -> Noise:
    """Normal noise of clips of one shape.

    Args:
      keys: [B].
      shape: of one clip.

    Returns:
      number → float32 [B, *shape].
    """

    def one(key: Array, number: int | Array) -> Array:
        return jax.random.normal(jax.random.fold_in(key, number), tuple(shape))

    return lambda number: jax.vmap(one, (0, None))(keys, number)


def placed_noise(keys: Array, length: int, shape: Sequence[int], *, first: int = 0) -> Noise:
    """Normal noise that belongs to places: what a place gets does not depend on the clip's length.

    A longer version of a clip, or a part of it, begins from the same noise where the two overlap.

    Args:
      keys: [B].
      length: places in a row.
      shape: of one place, such as (channels,).
      first: number of the first place.

    Returns:
      number → float32 [B, length, *shape].
    """
    places = first + jnp.arange(length, dtype=jnp.int32)

    def one(key: Array, number: int | Array, place: Array) -> Array:
        key = jax.random.fold_in(jax.random.fold_in(key, number), place)
        return jax.random.normal(key, tuple(shape))

    over_places = jax.vmap(one, (None, None, 0))
    over_clips = jax.vmap(over_places, (0, None, None))
    return lambda number: over_clips(keys, number, places)


def given_noise(noise: Array) -> Noise:
    """Arrays [steps + 1, B, ...] as a noise source, such as those that another library drew."""
    return lambda number: noise[number]
