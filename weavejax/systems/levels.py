"""Levels that training hears a clip at: louder and quieter than it is, one drawn at every step."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from weavejax.errors import UserError


def level_factors(levels: Sequence[float], name: str) -> tuple[float, ...]:
    """Of decibels, factors of the sound.

    Args:
      levels: dB; the first is 0, sound as it is.
      name: of the config's entry.

    Raises:
      UserError: the first is another, or there is none.
    """
    if not levels or levels[0]:
        raise UserError(f"{name} must begin with 0.0: sound as it is")
    return tuple(10 ** (level / 20) for level in levels)


def draw_levels(key: Array, levels: int, count: int) -> Array:
    """Which of `levels` each of `count` clips is heard at, int32 [count]."""
    return jax.random.randint(jax.random.fold_in(key, 1), (count,), 0, levels, jnp.int32)


def at_level(sound: Array, factors: Sequence[float], chosen: Array) -> Array:
    """Sound [B, S, C] times the factor that is chosen for each clip."""
    return sound * jnp.asarray(factors, sound.dtype)[chosen][:, None, None]
