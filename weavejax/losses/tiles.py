"""Running statistics of a matrix of logits that is seen one block at a time.

Both directions of a contrastive loss need, of each row and of each column: its log-sum-exp, the sum of
its logits (label smoothing), its own logit, its best rival, and one rival drawn at random. All of them
can be merged in any order, so the matrix itself is never held.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.random import threefry_2x32


class Stats(NamedTuple):
    """Of every query [Q], over the candidates seen so far.

    Attributes:
      top: largest logit; −inf when none was seen.
      mass: Σ exp(logit − top).
      total: Σ logit (or Σ of the pairs' losses, see `tile_stats`).
      own: the logit of the query's own candidate.
      rival: largest logit of another candidate; −inf when there is none.
      noisy: largest logit + Gumbel noise of another candidate.
      drawn: index of that candidate, int32: a draw from the softmax over the others.
    """

    top: Array
    mass: Array
    total: Array
    own: Array
    rival: Array
    noisy: Array
    drawn: Array


def no_stats(size: int, index: Array) -> Stats:
    """Before any candidate; `drawn` is the query's own index [Q]."""
    low, zero = jnp.full((size,), -jnp.inf), jnp.zeros((size,))
    return Stats(low, zero, zero, zero, low, low, index)


def tile_stats(
    logits_qc: Array,
    usable_qc: Array,
    own_qc: Array,
    index_c: Array,
    *,
    noise_qc: Array | None,
    weigh_qc: Array | None = None,
) -> Stats:
    """Statistics of one block.

    Args:
      logits_qc: float32 [Q, C].
      usable_qc: bool, whether query and candidate both take part.
      own_qc: bool, whether the candidate is the query's own.
      index_c: global index of the candidates, int32 [C].
      noise_qc: standard Gumbel noise; None draws nothing.
      weigh_qc: what `total` sums instead of the logits.
    """
    logits_qc = jnp.where(usable_qc, logits_qc, -jnp.inf)
    top = logits_qc.max(1)
    mass = jnp.exp(logits_qc - _finite(top)[:, None]).sum(1)
    summed = logits_qc if weigh_qc is None else weigh_qc
    total = jnp.where(usable_qc, summed, 0.0).sum(1)
    own = jnp.where(usable_qc & own_qc, logits_qc, 0.0).sum(1)
    others_qc = jnp.where(own_qc, -jnp.inf, logits_qc)
    rival = others_qc.max(1)
    if noise_qc is None:
        drawn = jnp.zeros(len(top), jnp.int32)
        return Stats(top, mass, total, own, rival, jnp.full_like(top, -jnp.inf), drawn)
    noisy_qc = others_qc + noise_qc
    return Stats(top, mass, total, own, rival, noisy_qc.max(1), index_c[noisy_qc.argmax(1)])


def merge(one: Stats, other: Stats) -> Stats:
    """Statistics over the candidates of both."""
    top = jnp.maximum(one.top, other.top)
    shift = _finite(top)
    return Stats(
        top=top,
        mass=one.mass * jnp.exp(one.top - shift) + other.mass * jnp.exp(other.top - shift),
        total=one.total + other.total,
        own=one.own + other.own,
        rival=jnp.maximum(one.rival, other.rival),
        noisy=jnp.maximum(one.noisy, other.noisy),
        drawn=jnp.where(other.noisy > one.noisy, other.drawn, one.drawn),
    )


def log_mass(stats: Stats) -> Array:
    """Log-sum-exp [Q] of the logits; finite also where no candidate was usable."""
    tiny = jnp.finfo(stats.mass.dtype).tiny
    return _finite(stats.top) + jnp.log(jnp.maximum(stats.mass, tiny))


def gumbel(key_data: Array, index_q: Array, index_c: Array) -> tuple[Array, Array]:
    """Two independent draws of Gumbel noise for every pair [Q, C].

    A pure function of the key and the two global indices, so that the noise of a pair does not depend
    on blocks, devices or hosts.

    Args:
      key_data: uint32 [2], of a threefry key.
      index_q, index_c: int32 [Q] and [C].
    """
    shape = (len(index_q), len(index_c))
    high = jnp.broadcast_to(index_q.astype(jnp.uint32)[:, None], shape)
    low = jnp.broadcast_to(index_c.astype(jnp.uint32)[None, :], shape)
    bits = threefry_2x32(key_data, jnp.stack([high, low]).reshape(-1)).reshape(2, *shape)
    # 23 random bits as the mantissa of a float in [1, 2), centred: never 0 and never 1.
    mantissa = lax.shift_right_logical(bits, jnp.uint32(9)) | jnp.uint32(0x3F800000)
    uniform = lax.bitcast_convert_type(mantissa, jnp.float32) - (1.0 - 2.0**-24)
    noise = -jnp.log(-jnp.log(uniform))
    return noise[0], noise[1]


def draw_rivals(stats: Stats, usable_b: Array, floor: float, key: Array) -> Array:
    """One other candidate per query, with weights softmax + floor over the usable others.

    The mixture is drawn in two steps, so that one pass over the logits is enough: first whether from
    the softmax (`Stats.drawn`) or evenly, then which.

    Args:
      stats: over all candidates, queries and candidates numbered alike [B].
      usable_b: which of them take part.
      floor: added to every probability (published: 1e-4).
      key: for the even draws.

    Returns:
      int32 [B]; the query's own number where there is no other.
    """
    size = len(usable_b)
    order_b = jnp.cumsum(usable_b.astype(jnp.int32))
    count = order_b[-1]
    number_b = jnp.arange(size, dtype=jnp.int32)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(number_b)
    coin_b, place_b = jax.vmap(lambda k: jax.random.uniform(k, (2,)))(keys).T
    sharp_b = jnp.clip(1.0 - jnp.exp(stats.own - log_mass(stats)), 0.0, 1.0)
    even = floor * jnp.maximum(count - 1, 0).astype(jnp.float32)
    # The n-th of the others: skip the query itself where it comes before.
    nth_b = jnp.floor(place_b * (count - 1).astype(jnp.float32)).astype(jnp.int32)
    nth_b = jnp.clip(nth_b, 0, jnp.maximum(count - 2, 0))
    nth_b = nth_b + (nth_b >= order_b - 1).astype(jnp.int32)
    even_b = jnp.searchsorted(order_b, nth_b + 1).astype(jnp.int32)
    rival_b = jnp.where(coin_b * (sharp_b + even) < even, even_b, stats.drawn)
    return jnp.where(usable_b & (count > 1), rival_b, number_b)


def _finite(top: Array) -> Array:
    return jnp.maximum(top, jnp.finfo(top.dtype).min)
