"""Batch normalisation whose running statistics are parameters that follow the batches.

Functional training has no place for layers that change themselves. Here the running mean and
variance are leaves like any other, and the backward pass gives as their "gradient" how far they lie
from the batch's: the train step subtracts it as it is (`follows`), whatever the optimiser does to
the others. Every contract stays as it is, and a step that the guard refuses leaves them alone.
"""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

MEAN, VARIANCE = "running_mean", "running_var"


def follows(path: str) -> bool:
    """Whether a parameter is a running statistic: moved by its gradient alone, never optimised."""
    return path.rpartition("/")[2] in (MEAN, VARIANCE)


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _tracked(
    y: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    batch_mean: jax.Array,
    batch_variance: jax.Array,
    momentum: float,
) -> jax.Array:
    del mean, variance, batch_mean, batch_variance, momentum
    return y


def _forward(
    y: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    batch_mean: jax.Array,
    batch_variance: jax.Array,
    momentum: float,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return y, (momentum * (mean - batch_mean), momentum * (variance - batch_variance))


def _backward(
    momentum: float, steps: tuple[jax.Array, jax.Array], grad: jax.Array
) -> tuple[jax.Array, ...]:
    del momentum
    zero = jnp.zeros_like(steps[0])
    return grad, *steps, zero, zero


_tracked.defvjp(_forward, _backward)


class BatchNorm(nn.Module):
    """PyTorch's BatchNorm over all axes but the last; statistics in float32, output in ``dtype``.

    The batch is the global one: under `jit` on a mesh its mean is over all devices.

    Attributes:
        dtype: compute type.
        deterministic: True normalises by the running statistics, False by the batch's.
        epsilon: added to the variance.
        momentum: share of the batch's statistics that enters the running ones.
    """

    dtype: jnp.dtype
    deterministic: bool
    epsilon: float = 1e-5
    momentum: float = 0.1

    @nn.compact
    def __call__(self, x: jax.Array, known: jax.Array | None = None) -> jax.Array:
        """``[..., C]`` → ``[..., C]``; of the first axis only rows that are ``known`` count.

        Args:
            x: to be normalised.
            known: bool ``[len(x)]``; None for all of them. Without any the running statistics stay.
        """
        width = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, width).astype(jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, width).astype(jnp.float32)
        mean = self.param(MEAN, nn.initializers.zeros, width).astype(jnp.float32)
        variance = self.param(VARIANCE, nn.initializers.ones, width).astype(jnp.float32)
        row = (1,) * (x.ndim - 1) + width
        x = x.astype(jnp.float32)
        if self.deterministic:
            y = (x - mean.reshape(row)) * jax.lax.rsqrt(variance.reshape(row) + self.epsilon)
            return (y * scale.reshape(row) + bias.reshape(row)).astype(self.dtype)
        axes = tuple(range(x.ndim - 1))
        if known is None:
            count = jnp.float32(x.size // x.shape[-1])
            batch_mean = x.mean(axes)
            centred = x - batch_mean.reshape(row)
            spread = jnp.square(centred).mean(axes)
        else:
            weight = known.reshape((-1,) + (1,) * (x.ndim - 1)).astype(jnp.float32)
            count = weight.sum() * math.prod(x.shape[1:-1])
            batch_mean = (weight * x).sum(axes) / jnp.maximum(count, 1.0)
            centred = x - batch_mean.reshape(row)
            spread = (weight * jnp.square(centred)).sum(axes) / jnp.maximum(count, 1.0)
        y = centred * jax.lax.rsqrt(spread.reshape(row) + self.epsilon)
        y = (y * scale.reshape(row) + bias.reshape(row)).astype(self.dtype)
        unbiased = spread * (count / jnp.maximum(count - 1.0, 1.0))
        batch_mean = jnp.where(count > 0, batch_mean, mean)
        unbiased = jnp.where(count > 0, unbiased, variance)
        return _tracked(y, mean, variance, batch_mean, unbiased, self.momentum)
