"""Colour augmentation on the device, as torchvision's ``ColorJitter`` does it.

Every clip of a batch has its own strengths, the same for all its frames; the four changes come in an
order that is drawn once a batch, so that one branch is computed and not all of them.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

LUMA = (0.2989, 0.587, 0.114)


def jitter(video: jax.Array, key: jax.Array, strength: Sequence[float]) -> jax.Array:
    """Random brightness, contrast, saturation and hue.

    Args:
        video: ``[B, T, H, W, 3]``, values in [0, 1].
        key: of the draw.
        strength: of brightness, contrast and saturation: factors from 1 - s to 1 + s; of hue: turns
            from -s to s. What has 0 is left out.

    Returns:
        Same shape and type, values in [0, 1].
    """
    order_key, *keys = jax.random.split(key, 5)
    low_high = [(max(0.0, 1 - s), 1 + s) for s in strength[:3]] + [(-strength[3], strength[3])]
    drawn = [
        jax.random.uniform(k, (len(video), 1, 1, 1, 1), video.dtype, low, high)
        for k, (low, high) in zip(keys, low_high, strict=True)
    ]
    changes: list[Callable[[jax.Array], jax.Array]] = [
        lambda x: _towards(x, jnp.zeros((), x.dtype), drawn[0]),
        lambda x: _towards(x, _grey(x).mean((2, 3, 4), keepdims=True), drawn[1]),
        lambda x: _towards(x, _grey(x), drawn[2]),
        lambda x: turn_hue(x, drawn[3]),
    ]
    changes = [change for change, s in zip(changes, strength, strict=True) if s]
    order = jax.random.permutation(order_key, len(changes))
    for place in range(len(changes)):
        video = jax.lax.switch(order[place], changes, video)
    return video


def _towards(x: jax.Array, other: jax.Array, factor: jax.Array) -> jax.Array:
    return jnp.clip(factor * x + (1 - factor) * other, 0.0, 1.0)


def _grey(x: jax.Array) -> jax.Array:
    luma = jnp.asarray(LUMA, x.dtype).reshape((1,) * (x.ndim - 1) + (3,))
    return (x * luma).sum(-1, keepdims=True)


def turn_hue(x: jax.Array, turns: jax.Array) -> jax.Array:
    """Adds to the hue of HSV; value and saturation stay.

    Args:
        x: ``[..., 3]``, values in [0, 1].
        turns: of the colour circle; broadcasts to ``[..., 1]``.
    """
    value = x.max(-1, keepdims=True)
    chroma = value - x.min(-1, keepdims=True)
    red, green, blue = (x[..., n : n + 1] for n in range(3))
    safe = jnp.where(chroma > 0, chroma, 1.0)
    sixths = jnp.where(
        value == red,
        (green - blue) / safe,
        jnp.where(value == green, 2.0 + (blue - red) / safe, 4.0 + (red - green) / safe),
    )
    sixths = sixths + 6.0 * turns
    # Of hue h, red is value − chroma · clip(min(k, 4 − k), 0, 1) with k = (5 + h) mod 6; green and
    # blue the same from 3 and 1.
    phases = jnp.remainder(
        jnp.asarray([5.0, 3.0, 1.0], x.dtype).reshape((1,) * (x.ndim - 1) + (3,)) + sixths, 6.0
    )
    return value - chroma * jnp.clip(jnp.minimum(phases, 4.0 - phases), 0.0, 1.0)
