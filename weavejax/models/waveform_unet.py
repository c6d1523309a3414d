"""The waveform diffusion network of SyncFusion: a 1-D UNet and the encoder of its onset track.

Source: Comunità et al., "SyncFusion", arXiv 2310.15247. The UNet is the one that
audio-diffusion-pytorch 0.1.3 calls ``UNetV0``, with its plugins for time and for guidance without a
classifier; the encoder is audio-encoders-pytorch 0.0.22's ``Encoder1d``. Sound is ``[B, L, 1]``, the
noise level a number in [0, 1], the onset track ``[B, L, 1]`` with ones at the onsets.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from weavejax.ops.attention import attention
from weavejax.ops.transformer import Init, LayerNorm, Rule, fan_in, torch_conv

EPSILON = 1e-5  # PyTorch's default for norms
MODULATION_EPSILON = 1e-6
FREQUENCIES = 128  # of the noise level's embedding


@dataclass(frozen=True)
class WaveformUNetConfig:
    """Sizes of a `WaveformUNet` and its `PulseEncoder`; every tuple has an entry a level.

    Attributes:
        channels: of each level.
        factors: by which each level is shorter than the one above.
        items: residual blocks on the way down, and as many on the way up.
        attentions: whether the level attends to itself.
        context: channels of the onset track's encoding that the level sees.
        heads: of attention.
        head_width: of each.
        groups: of the group norms.
        modulation: width of the noise level's features.
        embedding: width of the semantic condition.
        tokens: of it; the learned null condition has as many.
        encoder_blocks: residual blocks a level of the encoder.
        encoder_groups: of its group norms.
        dtype: compute type; parameters are float32.
        remat: whether the backward pass computes the levels' items again.
    """

    channels: tuple[int, ...] = (8, 32, 64, 128, 256, 512, 1024, 1024)
    factors: tuple[int, ...] = (1, 4, 4, 4, 2, 2, 2, 2)
    items: tuple[int, ...] = (1, 2, 2, 2, 2, 2, 2, 4)
    attentions: tuple[bool, ...] = (False,) * 4 + (True,) * 4
    context: tuple[int, ...] = (2, 8, 16, 32, 64, 128, 256, 256)
    heads: int = 8
    head_width: int = 64
    groups: int = 8
    modulation: int = 1024
    embedding: int = 512
    tokens: int = 1
    encoder_blocks: int = 2
    encoder_groups: int = 2
    dtype: str = "float32"
    remat: bool = False

    @property
    def multiple(self) -> int:
        """Lengths must be a multiple of this many samples."""
        return math.prod(self.factors)


SYNCFUSION = WaveformUNetConfig()


def rules(config: WaveformUNetConfig) -> tuple[Rule, ...]:
    """Sharding table: the wide levels by their output channels, everything else copied."""
    wide = [level for level, channels in enumerate(config.channels) if channels >= 512]
    if not wide:
        return ((r"", ()),)
    levels = "|".join(map(str, wide))
    return ((rf"unet/level_({levels})/.*kernel$", ("data",)), (r"", ()))


class _TimeFeatures(nn.Module):
    """A number to features: itself, sines and cosines of learned frequencies, an MLP."""

    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, number: jax.Array) -> jax.Array:
        """``[B]`` → ``[B, width]``."""
        weights = self.param("weights", nn.initializers.normal(1.0), (FREQUENCIES,))
        number = number.astype(jnp.float32)[:, None]
        angle = 2 * math.pi * number * weights.astype(jnp.float32)[None]
        x = jnp.concatenate([number, jnp.sin(angle), jnp.cos(angle)], axis=-1).astype(self.dtype)
        embed, again = (
            nn.Dense(self.width, dtype=self.dtype, kernel_init=fan_in, name=name)
            for name in ("embed", "fc")
        )
        # As published, whose two layers after the embedding are one and the same.
        for dense in (embed, again, again):
            x = jax.nn.gelu(dense(x), approximate=False)
        return x


def _torch_bias(fan: int) -> Init:
    """PyTorch's default for biases of convolutions, of so many inputs an output.

    With zeros a silent onset track stays 0 all the way, where each of sixteen norms multiplies the
    gradient by 1/√ε: it overflows.
    """

    whole = nn.initializers.uniform(2 / math.sqrt(fan))  # from 0

    def init(*arguments: Any, **named: Any) -> jax.Array:
        return whole(*arguments, **named) - 1 / math.sqrt(fan)

    return init


class _Conv(nn.Module):
    """Convolution over time, padded by half its size where it does not stride by it."""

    width: int
    size: int
    dtype: jnp.dtype
    stride: int = 1
    padding: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        padding = (self.size - 1) // 2 if self.padding is None else self.padding
        return nn.Conv(
            self.width,
            (self.size,),
            (self.stride,),
            padding=((padding, padding),),
            dtype=self.dtype,
            kernel_init=torch_conv,
            bias_init=_torch_bias(self.size * x.shape[-1]),
            name="conv",
        )(x)


class _GroupNorm(nn.Module):
    """PyTorch's GroupNorm; statistics in float32, over time and the channels of a group."""

    groups: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, length, width = x.shape
        scale = self.param("scale", nn.initializers.ones, (width,)).astype(jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (width,)).astype(jnp.float32)
        x = x.astype(jnp.float32).reshape(batch, length, self.groups, width // self.groups)
        x = x - x.mean((1, 3), keepdims=True)
        x = x * jax.lax.rsqrt(jnp.square(x).mean((1, 3), keepdims=True) + EPSILON)
        x = x.reshape(batch, length, width)
        return (x * scale.reshape(1, 1, -1) + bias.reshape(1, 1, -1)).astype(self.dtype)


class _Residual(nn.Module):
    """Twice norm, SiLU, convolution of 3; beside the input, convolved to another width."""

    width: int
    groups: tuple[int, int]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = x
        for number, groups in enumerate(self.groups, start=1):
            y = nn.silu(_GroupNorm(groups, self.dtype, name=f"norm{number}")(y))
            y = _Conv(self.width, 3, self.dtype, name=f"conv{number}")(y)
        if x.shape[-1] != self.width:
            x = _Conv(self.width, 1, self.dtype, name="shortcut")(x)
        return x + y


class _Attention(nn.Module):
    """Pre-norm attention to the tokens themselves, or to a condition with a norm of its own."""

    heads: int
    head_width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, memory: jax.Array | None = None) -> jax.Array:
        y = LayerNorm(EPSILON, self.dtype, name="norm")(x)
        # As published: also without a condition the keys have a norm of their own.
        seen = LayerNorm(EPSILON, self.dtype, name="norm_memory")(x if memory is None else memory)
        wide = self.heads * self.head_width

        def heads(tokens: jax.Array, name: str) -> jax.Array:
            dense = nn.Dense(wide, use_bias=False, dtype=self.dtype, kernel_init=fan_in, name=name)
            return dense(tokens).reshape(*tokens.shape[:2], self.heads, self.head_width)

        mixed = heads(seen, "value")
        # All weight is on the only token of a condition, whatever asks: no need to ask. At the first
        # levels, long and narrow, that is most of the work.
        if seen.shape[1] > 1 or self.is_initializing():
            mixed = attention(heads(y, "query"), heads(seen, "key"), mixed)
        mixed = mixed.reshape(*mixed.shape[:2], wide)
        output = nn.Dense(
            x.shape[-1], use_bias=False, dtype=self.dtype, kernel_init=fan_in, name="output"
        )
        return x + output(mixed)


class _Modulation(nn.Module):
    """Norm without parameters, scaled and shifted by the noise level's features."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, features: jax.Array) -> jax.Array:
        width = x.shape[-1]
        dense = nn.Dense(2 * width, dtype=self.dtype, kernel_init=fan_in, name="dense")
        scale, shift = jnp.split(dense(nn.silu(features))[:, None], 2, axis=-1)
        x = x.astype(jnp.float32)
        x = x - x.mean(-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + MODULATION_EPSILON)
        return x.astype(self.dtype) * (1 + scale) + shift


class _Item(nn.Module):
    """Residual block, modulation, onset track, attention to itself and to the condition."""

    config: WaveformUNetConfig
    level: int

    @nn.compact
    def __call__(
        self, x: jax.Array, features: jax.Array, embedding: jax.Array, context: jax.Array
    ) -> jax.Array:
        c, level = self.config, self.level
        dtype = jnp.dtype(c.dtype)
        x = _Residual(c.channels[level], (c.groups, c.groups), dtype, name="residual")(x)
        x = _Modulation(dtype, name="modulation")(x, features)
        joined = jnp.concatenate([x, context], axis=-1)
        x = x + _Conv(c.channels[level], 1, dtype, name="inject")(joined)
        if c.attentions[level]:
            x = _Attention(c.heads, c.head_width, dtype, name="attention")(x)
        return _Attention(c.heads, c.head_width, dtype, name="cross")(x, embedding)


class _Level(nn.Module):
    """A level on its way down, those below, and on its way up; modulated beside its input."""

    config: WaveformUNetConfig
    level: int

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        features: jax.Array,
        embedding: jax.Array,
        contexts: Sequence[jax.Array],
        below: "Sequence[_Level]",
    ) -> jax.Array:
        c, level = self.config, self.level
        dtype, factor = jnp.dtype(c.dtype), c.factors[self.level]
        item = nn.remat(_Item) if c.remat else _Item
        fixed = (features, embedding, contexts[level])
        y = _Conv(c.channels[level], factor, dtype, stride=factor, padding=0, name="down")(x)
        for number in range(c.items[level]):
            y = item(c, level, name=f"down_{number}")(y, *fixed)
        if below:
            y = below[0](y, features, embedding, contexts, below[1:])
        for number in range(c.items[level]):
            y = item(c, level, name=f"up_{number}")(y, *fixed)
        y = _Conv(x.shape[-1], 3, dtype, name="up")(jnp.repeat(y, factor, axis=1))
        scale = nn.Dense(x.shape[-1], dtype=dtype, kernel_init=fan_in, name="skip")
        return x + scale(nn.silu(features))[:, None] * y


class PulseEncoder(nn.Module):
    """The onset track at every level of the UNet."""

    config: WaveformUNetConfig

    @nn.compact
    def __call__(self, track: jax.Array) -> list[jax.Array]:
        """``[B, L, 1]`` → by level ``[B, L / factors so far, context]``."""
        c = self.config
        dtype = jnp.dtype(c.dtype)
        width = c.context[0]
        x = _Residual(width, (1, 1), dtype, name="input")(track.astype(dtype))
        taps = []
        groups = (c.encoder_groups, c.encoder_groups)
        for level, (width, factor) in enumerate(zip(c.context, c.factors, strict=True)):
            down = _Conv(width, 2 * factor + 1, dtype, factor, factor, name=f"down_{level}")
            x = down(x)
            for block in range(c.encoder_blocks):
                x = _Residual(width, groups, dtype, name=f"block_{level}_{block}")(x)
            taps.append(x)
        return taps


class _UNet(nn.Module):
    config: WaveformUNetConfig

    @nn.compact
    def __call__(
        self, x: jax.Array, features: jax.Array, embedding: jax.Array, contexts: Sequence[jax.Array]
    ) -> jax.Array:
        c = self.config
        levels = [_Level(c, level, name=f"level_{level}") for level in range(len(c.channels))]
        return levels[0](x, features, embedding, contexts, levels[1:])


class WaveformUNet(nn.Module):
    """Velocity of a noisy sound, under an onset track and a semantic condition."""

    config: WaveformUNetConfig

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        noise: jax.Array,
        embedding: jax.Array,
        present: jax.Array,
        track: jax.Array,
    ) -> jax.Array:
        """The network's output.

        Args:
            x: noisy sound ``[B, L, 1]``; L a multiple of ``config.multiple``.
            noise: level in [0, 1], ``[B]``.
            embedding: semantic condition ``[B, tokens, embedding]``.
            present: bool ``[B]``; False puts the learned null condition in its place.
            track: onset track ``[B, L, 1]``.

        Returns:
            float32 ``[B, L, 1]``.
        """
        c = self.config
        dtype = jnp.dtype(c.dtype)
        if x.shape[1] % c.multiple or x.shape != track.shape:
            raise ValueError(
                f"sound {x.shape} and onset track {track.shape} must be alike, of a length that is "
                f"a multiple of {c.multiple}"
            )
        null = self.param("null", nn.initializers.normal(1.0), (c.tokens, c.embedding))
        shown = jnp.where(present[:, None, None], embedding, null[None].astype(embedding.dtype))
        features = _TimeFeatures(c.modulation, dtype, name="time")(noise)
        contexts = PulseEncoder(c, name="encoder")(track)
        y = _UNet(c, name="unet")(x.astype(dtype), features, shown.astype(dtype), contexts)
        return y.astype(jnp.float32)
