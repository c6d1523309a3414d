"""Number conditioner of Stable Audio: a number, as seconds from the start, to one token.

Source: stable-audio-tools' ``NumberConditioner`` (its embedder from audio-diffusion-pytorch) and
diffusers' ``StableAudioNumberConditioner``: the same numbers under other names.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from weavejax.models.torch_names import (
    Arrays,
    Shapes,
    Source,
    Table,
    convert,
    dense,
    invert,
    shapes_of,
)
from weavejax.ops.transformer import Rule, fan_in

# Prefix of a conditioner's keys in each layout.
PREFIXES = {
    "stable-audio-tools": "embedder.embedding.",
    "diffusers": "time_positional_embedding.",
}


@dataclass(frozen=True)
class NumberConfig:
    """Sizes and range of a `NumberConditioner`.

    Attributes:
        width: of the token.
        low: smallest number; smaller ones count as this.
        high: largest number; larger ones count as this.
        features: half as many frequencies, whose sines and cosines the token is made of.
        dtype: compute type of the projection; the angles are in float32.
    """

    width: int
    low: float
    high: float
    features: int = 256
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"no numbers from {self.low} to {self.high}")


# Stable Audio Open's of ``seconds_start`` and ``seconds_total``.
SECONDS = NumberConfig(width=768, low=0.0, high=512.0)


def rules(config: NumberConfig) -> tuple[Rule, ...]:
    """Sharding table, first match wins; specs are written from the right."""
    del config
    # The kernel's 257 rows are not divisible by any mesh.
    return ((r"^dense/kernel$", ("data",)), (r"^(frequencies|dense/bias)$", ()))


class NumberConditioner(nn.Module):
    """Numbers to tokens, one by one."""

    config: NumberConfig

    @nn.compact
    def __call__(self, numbers: jax.Array) -> jax.Array:
        """``[...]`` → ``[..., width]``; a token says how far its number is between the two ends."""
        c = self.config
        shape = (c.features // 2,)
        frequencies = self.param("frequencies", nn.initializers.normal(1.0), shape)
        numbers = jnp.clip(numbers.astype(jnp.float32), c.low, c.high)
        share = ((numbers - c.low) / (c.high - c.low))[..., None]
        row = frequencies.astype(jnp.float32).reshape((1,) * (share.ndim - 1) + shape)
        angles = 2 * jnp.pi * share * row
        features = jnp.concatenate([share, jnp.sin(angles), jnp.cos(angles)], axis=-1)
        dtype = jnp.dtype(c.dtype)
        return nn.Dense(c.width, dtype=dtype, kernel_init=fan_in, name="dense")(
            features.astype(dtype)
        )


def from_torch(state: Mapping[str, np.ndarray], config: NumberConfig, layout: str) -> Any:
    """Parameters from one published conditioner's state dict, prefix stripped.

    Raises:
        UserError: naming every unused, missing or mis-shaped key.
    """
    return convert(
        state,
        table(config, layout),
        shapes=shapes(config),
        model="NumberConditioner",
        scan=False,
    )


def to_torch(params: Mapping[str, Any], config: NumberConfig, layout: str) -> dict[str, np.ndarray]:
    """The inverse of `from_torch`."""
    return invert(params, table(config, layout))


def shapes(config: NumberConfig) -> Shapes:
    """Shape of every leaf."""
    init = NumberConditioner(config).init
    return shapes_of(init, jax.ShapeDtypeStruct((1,), jnp.float32))


def sizes(state: Arrays, layout: str) -> NumberConfig:
    """The sizes that a published state dict has, with Stable Audio Open's range.

    Raises:
        KeyError: an array that tells them is missing.
    """
    prefix = PREFIXES[layout]
    return NumberConfig(
        width=state[f"{prefix}1.weight"].shape[0],
        low=SECONDS.low,
        high=SECONDS.high,
        features=2 * state[f"{prefix}0.weights"].shape[0],
    )


def table(config: NumberConfig, layout: str) -> Table:
    """Where each leaf comes from."""
    del config
    prefix = PREFIXES[layout]
    return {"frequencies": Source(f"{prefix}0.weights"), **dense("dense", f"{prefix}1")}


def flops(config: NumberConfig) -> float:
    """Of the forward pass of one number; multiply-adds counted twice."""
    return 2.0 * (config.features + 1) * config.width
