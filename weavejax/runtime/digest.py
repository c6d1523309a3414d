"""What tells parameters from others, whatever devices they lie on and however they are split."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from weavejax.runtime import tree

# Odd numbers with no pattern in their bits (the golden ratio; MurmurHash3's two).
SPREAD, FIRST, SECOND = np.uint32(0x9E3779B1), np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35)
BITS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def digests(params: Mapping[str, Any], parts: Sequence[str] = ()) -> dict[str, str]:
    """First name → a digest of all parameters below it; for telling, not for security.

    Sums of integers, which come out the same in any order: nothing is gathered, and all processes of a
    job get the same. Each of them must call.

    Args:
      params: on the devices; no element wider than 32 bits.
      parts: first names; default all.
    """
    found = {}
    for part in parts or params:
        rows = {
            path: [str(leaf.dtype), list(leaf.shape), *np.asarray(_sums(leaf)).tolist()]
            for path, leaf in tree.flatten(params[part]).items()
        }
        text = json.dumps(rows, sort_keys=True)
        found[part] = hashlib.sha256(text.encode()).hexdigest()[:32]
    return found


@jax.jit
def _sums(leaf: jax.Array) -> jax.Array:
    """Two sums, uint32 [2], of every element's bits mixed with its place; all wrap."""
    bits = jax.lax.bitcast_convert_type(leaf, BITS[leaf.dtype.itemsize]).astype(jnp.uint32)
    place = jnp.zeros(leaf.shape, jnp.uint32)
    for axis, size in enumerate(leaf.shape):
        here = jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
        place = place * np.uint32(size) + here
    mixed = (bits ^ (place * SPREAD)) * FIRST
    mixed = (mixed ^ (mixed >> np.uint32(13))) * SECOND
    mixed = mixed ^ (mixed >> np.uint32(16))
    other = (mixed + place) * SPREAD
    other = other ^ (other >> np.uint32(15))
    return jnp.stack([mixed.sum(dtype=jnp.uint32), other.sum(dtype=jnp.uint32)])
