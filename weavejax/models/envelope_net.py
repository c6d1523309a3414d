"""Frame features to an envelope in classes: the network of Video-Foley.

Source: Lee et al., "Video-Foley", arXiv 2408.11915, and its published code; the envelope stage of
FOL-AI follows it (arXiv 2412.15023). Convolutions over time with batch norm, a bidirectional LSTM, one
matrix that turns the frames into envelope steps, and one that gives each step its class logits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from weavejax.models.torch_names import (
    CONV_1D,
    TRANSPOSED,
    Shapes,
    Source,
    Table,
    batch_norm,
    convert,
    dense,
    invert,
    shapes_of,
)
from weavejax.ops.batch_norm import BatchNorm
from weavejax.ops.transformer import Rule, fan_in

WAYS = (("forward", ""), ("backward", "_reverse"))


@dataclass(frozen=True)
class EnvelopeNetConfig:
    """Sizes of an `EnvelopeNet`.

    Attributes:
        features: width of the frame features.
        frames: of a clip.
        steps: of its envelope.
        classes: of each step.
        width: of the convolutions.
        convolutions: how many.
        kernel: frames that each sees.
        hidden: width of the LSTM in each direction.
        layers: of it.
        dropout: after each convolution.
        onset: whether a second head says of every frame if a sound begins.
        rectify: a ReLU on the logits, as published.
        aligned: the matrices across time begin as linear interpolation, each step between the frames
            around it, not at random as published: the network need not learn first that what is seen
            sounds at the same time.
        dtype: compute type; parameters are float32.
    """

    features: int = 2048
    frames: int = 300
    steps: int = 1250
    classes: int = 64
    width: int = 2048
    convolutions: int = 3
    kernel: int = 5
    hidden: int = 512
    layers: int = 2
    dropout: float = 0.5
    onset: bool = False
    rectify: bool = True
    aligned: bool = False
    dtype: str = "float32"


VIDEO_FOLEY = EnvelopeNetConfig()


def rules(config: EnvelopeNetConfig) -> tuple[Rule, ...]:
    """Sharding table: the wide matrices by their outputs, everything else copied."""
    del config
    return ((r"(conv_\d+|lstm_\d+_\w+/(input|hidden))/kernel$", ("data",)), (r"", ()))


class _Lstm(nn.Module):
    """PyTorch's LSTM in one direction, with its two biases."""

    hidden: int
    dtype: jnp.dtype
    reverse: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[B, T, ·]`` → ``[B, T, hidden]``."""
        gates = nn.Dense(4 * self.hidden, dtype=self.dtype, kernel_init=fan_in, name="input")(x)
        recurrent = _Recurrent(4 * self.hidden, name="hidden")(self.hidden)
        kernel, bias = (leaf.astype(self.dtype) for leaf in recurrent)

        def step(
            carry: tuple[jax.Array, jax.Array], given: jax.Array
        ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
            state, cell = carry
            enter, forget, update, leave = jnp.split(
                given + state @ kernel + bias[None], 4, axis=-1
            )
            cell = nn.sigmoid(forget) * cell + nn.sigmoid(enter) * jnp.tanh(update)
            state = nn.sigmoid(leave) * jnp.tanh(cell)
            return (state, cell), state

        zero = jnp.zeros((x.shape[0], self.hidden), self.dtype)
        _, states = jax.lax.scan(step, (zero, zero), gates.swapaxes(0, 1), reverse=self.reverse)
        return states.swapaxes(0, 1)


class _Recurrent(nn.Module):
    """The matrix from state to gates, applied by the caller once a step."""

    width: int

    @nn.compact
    def __call__(self, hidden: int) -> tuple[jax.Array, jax.Array]:
        kernel = self.param("kernel", nn.initializers.orthogonal(), (hidden, self.width))
        return kernel, self.param("bias", nn.initializers.zeros, (self.width,))


def _interpolation(key: jax.Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> jax.Array:
    """``[frames, steps]``: the value at the middle of each step from those at the frames' middles."""
    del key
    frames, steps = shape
    place = np.clip((np.arange(steps) + 0.5) * frames / steps - 0.5, 0, frames - 1)
    distance = np.abs(place[None] - np.arange(frames)[:, None])
    return jnp.asarray(np.maximum(0.0, 1.0 - distance), dtype)


class EnvelopeNet(nn.Module):
    """Frame features to class logits of an envelope, and to onset logits where wanted."""

    config: EnvelopeNetConfig

    @nn.compact
    def __call__(
        self, features: jax.Array, *, deterministic: bool, known: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """``[B, frames, features]`` → ``envelope`` float32 ``[B, steps, classes]``.

        With ``config.onset`` also ``onset`` float32 ``[B, frames]``. ``deterministic`` False needs a
        "dropout" key and normalises by the statistics of the batch's clips that are ``known``, bool
        ``[B]`` (None: of all).
        """
        c = self.config
        dtype = jnp.dtype(c.dtype)
        if features.shape[1:] != (c.frames, c.features):
            raise ValueError(
                f"this network takes features [B, {c.frames}, {c.features}], got {features.shape}"
            )
        x = features.astype(dtype)
        for number in range(c.convolutions):
            half = (c.kernel - 1) // 2
            conv = nn.Conv(
                c.width,
                (c.kernel,),
                padding=((half, half),),
                dtype=dtype,
                kernel_init=fan_in,
                name=f"conv_{number}",
            )
            normed = BatchNorm(dtype, deterministic, name=f"norm_{number}")(conv(x), known)
            x = nn.relu(normed)
            x = nn.Dropout(c.dropout, deterministic=deterministic)(x)
        for layer in range(c.layers):
            both = [
                _Lstm(c.hidden, dtype, way == "backward", name=f"lstm_{layer}_{way}")(x)
                for way, _ in WAYS
            ]
            x = jnp.concatenate(both, axis=-1)
        found = {"envelope": self._head(x, "envelope", c.steps, c.classes)}
        if c.rectify:
            found["envelope"] = nn.relu(found["envelope"])
        if c.onset:
            found["onset"] = self._head(x, "onset", c.frames, 1)[..., 0]
        return found

    def _head(self, x: jax.Array, name: str, steps: int, width: int) -> jax.Array:
        """Across time, then across channels; float32 ``[B, steps, width]``."""
        dtype = jnp.dtype(self.config.dtype)
        across = _interpolation if self.config.aligned else fan_in
        time = nn.Dense(steps, dtype=dtype, kernel_init=across, name=f"{name}_time")
        channels = nn.Dense(width, dtype=dtype, kernel_init=fan_in, name=f"{name}_channels")
        return channels(time(x.swapaxes(1, 2)).swapaxes(1, 2)).astype(jnp.float32)


def flops(config: EnvelopeNetConfig) -> float:
    """Forward FLOPs of one clip."""
    c = config
    total = c.frames * c.kernel * c.width * (c.features + (c.convolutions - 1) * c.width)
    fed = c.width
    for _ in range(c.layers):
        total += c.frames * 2 * 4 * c.hidden * (fed + c.hidden)
        fed = 2 * c.hidden
    total += fed * c.frames * c.steps + c.steps * fed * c.classes
    if c.onset:
        total += fed * c.frames**2 + c.frames * fed
    return 2.0 * total


def from_torch(state: Mapping[str, np.ndarray], config: EnvelopeNetConfig) -> dict[str, Any]:
    """Parameters from the published state dict, prefix ``encoder.`` off.

    Raises:
        UserError: naming every unused, missing or mis-shaped key.
    """
    return convert(state, table(config), shapes=shapes(config), model="EnvelopeNet", scan=False)


def to_torch(params: Mapping[str, Any], config: EnvelopeNetConfig) -> dict[str, np.ndarray]:
    """The inverse of `from_torch`, without PyTorch's counters of batches."""
    return invert(params, table(config))


def shapes(config: EnvelopeNetConfig) -> Shapes:
    """Shape of every leaf."""
    features = jax.ShapeDtypeStruct((1, config.frames, config.features), jnp.float32)
    return shapes_of(lambda key, x: EnvelopeNet(config).init(key, x, deterministic=True), features)


def table(config: EnvelopeNetConfig) -> Table:
    """Where each leaf comes from."""
    found: Table = {}
    for number in range(config.convolutions):
        key = f"convolutions.{number}"
        found |= {
            f"conv_{number}/kernel": Source(f"{key}.0.conv.weight", CONV_1D),
            f"conv_{number}/bias": Source(f"{key}.0.conv.bias"),
            **batch_norm(f"norm_{number}", f"{key}.1"),
        }
    for layer in range(config.layers):
        for way, end in WAYS:
            for part, short in (("input", "ih"), ("hidden", "hh")):
                path, key = f"lstm_{layer}_{way}/{part}", f"{short}_l{layer}{end}"
                found[f"{path}/kernel"] = Source(f"BiLSTM.weight_{key}", TRANSPOSED)
                found[f"{path}/bias"] = Source(f"BiLSTM.bias_{key}")
    heads = {"envelope": "BiLSTM_projs", **({"onset": "onset_head"} if config.onset else {})}
    for name, key in heads.items():
        found |= dense(f"{name}_time", f"{key}.0") | dense(f"{name}_channels", f"{key}.1")
    return found
