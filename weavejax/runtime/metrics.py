"""Metrics as (sum, weight) pairs: they merge exactly over steps, shards and hosts."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array

Metric = tuple[Array, Array]


def per_step(value: Array) -> Metric:
    """A quantity that counts once a step, such as the learning rate."""
    return jnp.asarray(value, jnp.float32), jnp.ones((), jnp.float32)


def merge(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> dict[str, Any]:
    """Adds sums and weights."""
    if old is None:
        return dict(new)
    return {name: (old[name][0] + s, old[name][1] + w) for name, (s, w) in new.items()}


def values(metrics: Mapping[str, Any]) -> dict[str, float]:
    """sum / weight; NaN where nothing was counted."""
    return {n: float(s) / float(w) if float(w) else float("nan") for n, (s, w) in metrics.items()}
