"""Classifier-free guidance, and a scale of its own for every dial.

Dials are taken one after the other, from no condition c_0 = ∅ to all of them, c_K. With v_k what the
network says under c_k, the guided output is

    v = v_0 + Σ_k s_k (v_k − v_{k−1}),

the nested form of InstructPix2Pix (Brooks et al., arXiv 2211.09800, eq. 3) for any number of dials:
s_k says how strongly dial k is followed given those before it. The sum telescopes, so equal scales
are exactly the published guidance v_0 + s (v_K − v_0) (Ho and Salimans, arXiv 2207.12598), whatever
lies between; a sum of independent differences v_0 + Σ s_k (v_{k} − v_0) (Liu et al., arXiv
2206.01714) would not be. It is evaluated as Σ_k (s_k − s_{k+1}) v_k with s_0 = 1 and s_{K+1} = 0.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from weavejax.diffusion.schedules import beside

Network = Callable[[Array, Array, Any], Array]


def conditioned(network: Network, condition: Any) -> Callable[[Array, Array], Array]:
    """A denoiser without guidance: (x [B, ...], t [B]) → v, of network(x, t, condition)."""
    return lambda x, time: network(x, time, condition)


def classifier_free(
    network: Network, condition: Any, nothing: Any, scale: Any, **options: Any
) -> Callable[[Array, Array], Array]:
    """The published guidance: u + s (c − u). See `per_dial`, of which it is the case of one dial.

    Args:
      network: (x [N, ...], t [N], condition) → v [N, ...].
      condition: tree of arrays [B, ...].
      nothing: tree of the same shapes: the condition that training put in its place. Stable Audio
        has no learned one: its cross-attention tokens are zeroed, and its global token and the
        ControlNet's input stay.
      scale: s, a number or one a clip [B]; 1 is no guidance.
      options: of `per_dial`.
    """
    scales = jnp.asarray(scale, jnp.float32)[..., None]
    return per_dial(network, (nothing, condition), scales, **options)


def per_dial(
    network: Network,
    conditions: Sequence[Any],
    scales: Any,
    *,
    rescale: float | Array = 0.0,
    rescale_over: Sequence[int] | None = None,
    between: tuple[float, float] | None = None,
) -> Callable[[Array, Array], Array]:
    """A denoiser with a scale for each of K dials; K + 1 evaluations in one call of the network.

    Args:
      network: (x [N, ...], t [N], condition) → v [N, ...].
      conditions: K + 1 trees of arrays [B, ...] of the same shapes, from nothing to all: for the
        dials when and what, say, (∅, ∅), (when, ∅), (when, what).
      scales: s_1 … s_K, [K], or for each clip [B, K]. Traced: other scales compile nothing new.
      rescale: φ in [0, 1]: how far the output's spread is drawn back to that of the fully
        conditioned one (Lin et al., arXiv 2305.08891, eq. 15 and 16). A literal 0 leaves it out.
      rescale_over: axes of the spread; all but the first by default, as published. Stable Audio's
        code takes the channels of each latent, (-1,).
      between: (lowest, highest) time at which to guide; outside, all scales are 1 (Kynkäänniemi et
        al., arXiv 2404.07724).

    Returns:
      (x [B, ...], t [B]) → v [B, ...].
    """
    branches = len(conditions)
    scales = jnp.asarray(scales, jnp.float32)
    if branches < 2 or scales.ndim not in (1, 2) or scales.shape[-1] != branches - 1:
        raise ValueError(f"{branches} conditions and scales of shape {scales.shape}")
    # Beside each other in a new axis, so that a clip's branches stay on its device.
    stacked = jax.tree.map(_side_by_side, *conditions)

    def denoise(x: Array, time: Array) -> Array:
        v = network(jnp.repeat(x, branches, axis=0), jnp.repeat(time, branches, axis=0), stacked)
        v = v.reshape(len(x), branches, *v.shape[1:]).astype(x.dtype)
        weight = branch_weights(_active(scales, time, between)).astype(x.dtype)
        guided = (beside(weight, v) * v).sum(1)
        if isinstance(rescale, int | float) and rescale == 0:
            return guided
        return _rescaled(guided, v[:, -1], rescale, rescale_over)

    return denoise


def branch_weights(scales: Array) -> Array:
    """Weights of v_0 … v_K, float [B, K + 1], of scales s_1 … s_K [B, K]; they sum to 1."""
    one = jnp.ones_like(scales[:, :1])
    ladder = jnp.concatenate([one, scales, 0 * one], 1)
    return ladder[:, :-1] - ladder[:, 1:]


def _active(scales: Array, time: Array, between: tuple[float, float] | None) -> Array:
    per_clip = jnp.broadcast_to(scales, (len(time), scales.shape[-1]))
    if between is None:
        return per_clip
    inside = (time >= between[0]) & (time <= between[1])
    return jnp.where(inside[:, None], per_clip, 1.0)


def _rescaled(guided: Array, full: Array, phi: Any, over: Sequence[int] | None) -> Array:
    axes = tuple(range(1, guided.ndim)) if over is None else tuple(over)
    spread, wanted = (x.std(axes, keepdims=True) for x in (guided, full))
    # A spread of zero has nothing to be drawn to.
    factor = jnp.where(spread > 0, wanted / jnp.where(spread > 0, spread, 1.0), 1.0)
    return guided * (1 + jnp.asarray(phi, guided.dtype) * (factor - 1))


def _side_by_side(*leaves: Array) -> Array:
    return jnp.stack(leaves, 1).reshape(-1, *leaves[0].shape[1:])
