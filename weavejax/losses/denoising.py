"""The denoising loss: the v-objective, and which conditions an example goes without."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from weavejax.diffusion.schedules import TIMES, add_noise, beside, velocity


class Noised(NamedTuple):
    """What a network is asked, and the answer.

    Attributes:
      x: α z + σ ε, float32 [B, ...].
      time: float32 [B].
      target: v = α ε − σ z, float32 [B, ...].
    """

    x: Array
    time: Array
    target: Array


def noised(
    key: Array, clean: Array, times: Callable[[Array, int], Array] = TIMES["logit_normal"]
) -> Noised:
    """Examples at random times on the cosine path.

    Args:
      key: of the batch.
      clean: latents z [B, ...].
      times: (key, B) → t [B], of `TIMES`.
    """
    time_key, noise_key = jax.random.split(key)
    clean = clean.astype(jnp.float32)
    time = times(time_key, len(clean))
    noise = jax.random.normal(noise_key, clean.shape)
    return Noised(add_noise(clean, noise, time), time, velocity(clean, noise, time))


def denoising_loss(
    predicted: Array,
    target: Array,
    *,
    weight: Array | None = None,
    mask: Array | None = None,
) -> tuple[Array, Array]:
    """Mean squared error of v, an example at a time (Salimans and Ho, arXiv 2202.00512).

    Args:
      predicted: v of the network [B, ...], in any float type.
      target: [B, ...], see `Noised`.
      weight: of each example [B], ≥ 0; 1 by default, 0 for one that is not there.
      mask: bool [B, T], places of a clip [B, T, ...] that count; all by default. An example without
        any has weight 0.

    Returns:
      The sum of the weighted errors and of the weights: (sum [], weight []).
    """
    axes = tuple(range(1, target.ndim))
    weight = jnp.ones(len(target)) if weight is None else weight.astype(jnp.float32)
    counts = jnp.ones(target.shape[:2], bool) if mask is None else mask
    weight = jnp.where(counts.any(1), weight, 0.0)
    counts = jnp.broadcast_to(beside(counts & (weight > 0)[:, None], target), target.shape)
    # Chosen before it is squared: what does not count need not be finite, nor its gradient.
    difference = predicted.astype(jnp.float32) - target.astype(jnp.float32)
    square = jnp.square(jnp.where(counts, difference, 0.0))
    error = square.sum(axes) / jnp.maximum(counts.sum(axes), 1).astype(jnp.float32)
    return (weight * error).sum(), weight.sum()


def draw_kept(key: Array, size: int, drop: Mapping[str, float]) -> dict[str, Array]:
    """Which conditions each example keeps, drawn independently for every dial: bool [size] by name.

    Guidance by dial needs the network to know every prefix of its dials; independent draws show it
    every subset.

    Args:
      key: of the batch.
      size: examples.
      drop: probability of going without, by condition.
    """
    names = sorted(drop)  # a dial's draws do not depend on the order of a mapping
    keys = jax.random.split(key, max(len(names), 1))
    return {
        name: jax.random.uniform(keys[n], (size,)) >= drop[name] for n, name in enumerate(names)
    }


def keep_or_drop(condition: Any, nothing: Any, keep: Array) -> Any:
    """The condition of examples that keep it, `nothing` for the others.

    Args:
      condition: tree of arrays [B, ...].
      nothing: tree of arrays that broadcast to them, such as zeros or a learned embedding.
      keep: bool [B].
    """

    def choose(given: Array, empty: Array) -> Array:
        empty = jnp.broadcast_to(jnp.asarray(empty).astype(given.dtype), given.shape)
        return jnp.where(beside(keep, given), given, empty)

    return jax.tree.map(choose, condition, nothing)
