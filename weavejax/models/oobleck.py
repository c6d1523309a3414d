"""Oobleck, the waveform autoencoder of Stable Audio.

Source: Evans et al., Fast timing-conditioned latent audio diffusion (arXiv 2402.04825) and Stable
Audio Open (arXiv 2407.14358); the published code, stable-audio-tools' ``models/autoencoders.py``.
Residual units of dilated convolutions with Snake activations (arXiv 2006.08195, as in BigVGAN's
two-parameter form), strided convolutions between them, all weight-normalised, and a variational
bottleneck. 44.1 kHz stereo comes to 64 channels at 21.53 Hz.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from weavejax.models.torch_names import Shapes
from weavejax.ops.sine import sine_squared
from weavejax.ops.transformer import Rule, torch_conv

DILATIONS = (1, 3, 9)
WIDE = 7  # taps of the dilated convolutions, and of the first and last ones
TINY = 1e-9
SMALLEST_DEVIATION = 1e-4
SAMPLE_RATE = 44_100


@dataclass(frozen=True)
class OobleckConfig:
    """Sizes of an autoencoder.

    Attributes:
        audio: channels of the audio.
        channels: width at the full rate.
        multiples: the widths after each stride, in ``channels``.
        strides: of the encoder's blocks; the decoder's are the same, the other way round.
        latent: channels of the latents; the encoder gives as many means and scales.
        dtype: compute type; norms, activations and the bottleneck are in float32.
        remat: whether the backward pass recomputes the blocks.
        gain: of the sound that the networks see; quiet sound needs it, or they learn silence.
    """

    audio: int
    channels: int
    multiples: tuple[int, ...]
    strides: tuple[int, ...]
    latent: int
    dtype: str = "float32"
    remat: bool = False
    gain: float = 1.0

    def __post_init__(self) -> None:
        if len(self.multiples) != len(self.strides) or min(self.strides, default=1) < 2:
            raise ValueError(f"strides {self.strides} of 2 or more need as many multiples")

    @property
    def hop(self) -> int:
        """Samples per latent."""
        return math.prod(self.strides)

    @property
    def widths(self) -> tuple[int, ...]:
        """Of the encoder, before the first block and after each."""
        return tuple(self.channels * multiple for multiple in (1, *self.multiples))

    def latents(self, samples: int) -> int:
        """How many latents so many samples come to; each stride drops what is left over."""
        for stride in self.strides:
            samples = (samples + 2 * _padding(stride)) // stride - 1
        return samples

    def samples(self, latents: int) -> int:
        """How many samples so many latents come to."""
        for stride in reversed(self.strides):
            latents = (latents + 1) * stride - 2 * _padding(stride)
        return latents


STABLE_AUDIO_OPEN = OobleckConfig(
    audio=2, channels=128, multiples=(1, 2, 4, 8, 16), strides=(2, 4, 4, 8, 8), latent=64
)


def rules(config: OobleckConfig) -> tuple[Rule, ...]:
    """Sharding table, first match wins; specs are written from the right."""
    del config
    return (
        (r"/(alpha|beta|gain|bias)$", ()),
        # The audio's two channels are the input of one and the output of the other.
        (r"^(encoder|decoder)/first/kernel$", ("data",)),
        (r"^encoder/last/kernel$", ("data",)),
        (r"^decoder/last/kernel$", ("data", None)),
        (r"/(dilated|pointwise|down|up)/kernel$", ("data", None)),
    )


class Gaussian(NamedTuple):
    """What the encoder says of the latents, float32 ``[N, T, latent]`` each.

    Attributes:
        mean: of the latents.
        deviation: standard deviation.
    """

    mean: jax.Array
    deviation: jax.Array

    def sample(self, key: jax.Array) -> jax.Array:
        """Latents ``[N, T, latent]``, as the published models were trained on."""
        return self.mean + self.deviation * jax.random.normal(key, self.mean.shape)

    def divergence(self) -> jax.Array:
        """Kullback-Leibler divergence from the standard normal distribution, ``[]``.

        Summed over channels, averaged over the rest; twice the usual, as published.
        """
        variance = jnp.square(self.deviation)
        each = jnp.square(self.mean) + variance - jnp.log(variance) - 1
        return each.sum(-1).mean()


class Oobleck(nn.Module):
    """Audio to latents and back."""

    config: OobleckConfig

    def setup(self) -> None:
        """Makes both halves."""
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)

    def __call__(self, audio: jax.Array) -> jax.Array:
        """``[N, L, audio]`` → the same through the means of the latents, ``samples`` long."""
        return self.decode(self.encode(audio).mean)

    def encode(self, audio: jax.Array) -> Gaussian:
        """``[N, L, audio]`` in [-1, 1] at 44.1 kHz → the distribution of ``latents(L)`` latents."""
        if audio.ndim != 3 or audio.shape[2] != self.config.audio:
            raise ValueError(f"Oobleck takes audio [N, L, {self.config.audio}], got {audio.shape}")
        mean, scale = jnp.split(
            self.encoder(self.config.gain * audio).astype(jnp.float32), 2, axis=-1
        )
        return Gaussian(mean, jax.nn.softplus(scale) + SMALLEST_DEVIATION)

    def decode(self, latents: jax.Array) -> jax.Array:
        """``[N, T, latent]`` → audio ``[N, samples(T), audio]``, not clipped."""
        audio: jax.Array = self.decoder(latents)
        return audio / self.config.gain


def encode(params: Mapping[str, Any], config: OobleckConfig, audio: jax.Array) -> Gaussian:
    """Audio ``[N, L, audio]`` → mean and deviation of its latents, ``[N, latents(L), latent]`` each.

    Args:
        params: of an autoencoder.
        config: its sizes.
        audio: in [-1, 1].
    """
    apply: Any = Oobleck(config).apply
    return apply({"params": params}, audio, method="encode")


def decode(params: Mapping[str, Any], config: OobleckConfig, latents: jax.Array) -> jax.Array:
    """Latents ``[N, T, latent]`` → audio ``[N, samples(T), audio]``, not clipped.

    Args:
        params: of an autoencoder.
        config: its sizes.
        latents: as `encode` gives them; not scaled.
    """
    apply: Any = Oobleck(config).apply
    return apply({"params": params}, latents, method="decode")


class Encoder(nn.Module):
    """``[N, L, audio]`` → ``[N, T, 2 · latent]``."""

    config: OobleckConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        dtype = jnp.dtype(c.dtype)
        block = nn.remat(EncoderBlock) if c.remat else EncoderBlock
        x = Convolution(c.channels, WIDE, dtype, name="first")(x.astype(dtype))
        for i, (width, stride) in enumerate(zip(c.widths[1:], c.strides, strict=True)):
            x = block(width, stride, dtype, name=f"stage_{i}")(x)
        x = Snake(dtype, name="snake")(x)
        return Convolution(2 * c.latent, 3, dtype, name="last")(x)


class Decoder(nn.Module):
    """``[N, T, latent]`` → ``[N, samples(T), audio]``."""

    config: OobleckConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        dtype = jnp.dtype(c.dtype)
        block = nn.remat(DecoderBlock) if c.remat else DecoderBlock
        x = Convolution(c.widths[-1], WIDE, dtype, name="first")(x.astype(dtype))
        for i, (width, stride) in enumerate(zip(c.widths[-2::-1], c.strides[::-1], strict=True)):
            x = block(width, stride, dtype, name=f"stage_{i}")(x)
        x = Snake(dtype, name="snake")(x)
        return Convolution(c.audio, WIDE, dtype, use_bias=False, name="last")(x)


class EncoderBlock(nn.Module):
    """Three residual units, then a strided convolution of twice the stride's taps."""

    width: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i, dilation in enumerate(DILATIONS):
            x = Residual(dilation, self.dtype, name=f"unit_{i}")(x)
        x = Snake(self.dtype, name="snake")(x)
        return Down(self.width, self.stride, self.dtype, name="down")(x)


class DecoderBlock(nn.Module):
    """A transposed convolution of twice the stride's taps, then three residual units."""

    width: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = Snake(self.dtype, name="snake")(x)
        x = Up(self.width, self.stride, self.dtype, name="up")(x)
        for i, dilation in enumerate(DILATIONS):
            x = Residual(dilation, self.dtype, name=f"unit_{i}")(x)
        return x


class Residual(nn.Module):
    """A dilated convolution and a pointwise one, added to their input."""

    dilation: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        y = Snake(self.dtype, name="snake1")(x)
        y = Convolution(width, WIDE, self.dtype, dilation=self.dilation, name="dilated")(y)
        y = Snake(self.dtype, name="snake2")(y)
        return x + Convolution(width, 1, self.dtype, name="pointwise")(y)


class Snake(nn.Module):
    """x + sin²(e^α x) / (e^β + 1e-9), with α and β per channel."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        alpha, beta = (
            jnp.exp(self.param(name, nn.initializers.zeros, x.shape[-1:]).astype(jnp.float32))
            for name in ("alpha", "beta")
        )
        y = x.astype(jnp.float32)
        wave = sine_squared(alpha[None, None] * y)
        return (y + wave / (beta[None, None] + TINY)).astype(self.dtype)


def _weight_norm(module: nn.Module, shape: tuple[int, ...], axis: int) -> jax.Array:
    """A kernel as its direction and its length along every index of ``axis`` (arXiv 1602.07868).

    Kept apart as in the published weights, which are so written back exactly, and trained so.
    """
    others = tuple(i for i in range(len(shape)) if i != axis)

    def length(kernel: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.square(kernel.astype(jnp.float32)).sum(others))

    kernel: jax.Array = module.param("kernel", torch_conv, shape)
    gain = module.param("gain", lambda _: length(kernel))
    ratio = gain.astype(jnp.float32) / length(kernel)
    whole = [1] * len(shape)
    whole[axis] = shape[axis]
    return kernel.astype(jnp.float32) * ratio.reshape(whole)


class Convolution(nn.Module):
    """A weight-normalised convolution along time that keeps the length; an odd number of taps."""

    width: int
    taps: int
    dtype: jnp.dtype
    dilation: int = 1
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = _weight_norm(self, (self.taps, x.shape[-1], self.width), axis=2)
        kernel = kernel.astype(self.dtype)
        if self.taps == 1:
            y = x @ kernel[0]
        else:
            pad = self.dilation * (self.taps // 2)
            y = jax.lax.conv_general_dilated(
                x,
                kernel,
                window_strides=(1,),
                padding=[(pad, pad)],
                rhs_dilation=(self.dilation,),
                dimension_numbers=("NWC", "WIO", "NWC"),
            )
        return y + _bias(self, self.width, self.dtype) if self.use_bias else y


class Down(nn.Module):
    """A weight-normalised convolution with a stride and twice as many taps.

    Every stretch of one stride is read twice, by the first and by the second half of the taps: two
    matrix products.
    """

    width: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, length, channels = x.shape
        stride = self.stride
        kernel = _weight_norm(self, (2 * stride, channels, self.width), axis=2).astype(self.dtype)
        early, late = kernel.reshape(2, stride * channels, self.width)
        pad = _padding(stride)
        count = (length + 2 * pad) // stride
        x = jnp.pad(x, ((0, 0), (pad, pad), (0, 0)))[:, : count * stride]
        x = x.reshape(batch, count, stride * channels)
        return x[:, :-1] @ early + x[:, 1:] @ late + _bias(self, self.width, self.dtype)


class Up(nn.Module):
    """A weight-normalised transposed convolution with a stride and twice as many taps.

    Every input gives two stretches of one stride, the second of which falls on the first of the
    next: two matrix products.
    """

    width: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, length, channels = x.shape
        stride = self.stride
        # PyTorch normalises over the first axis of the transposed kernel too: the input's channels.
        kernel = _weight_norm(self, (2 * stride, channels, self.width), axis=1).astype(self.dtype)
        halves = kernel.reshape(2, stride, channels, self.width)
        early, late = (jnp.einsum("nlc,scd->nlsd", x, half) for half in halves)
        edge = ((0, 0), (0, 1), (0, 0), (0, 0))
        y = jnp.pad(early, edge) + jnp.pad(late, (edge[0], edge[1][::-1], *edge[2:]))
        y = y.reshape(batch, (length + 1) * stride, self.width)
        pad = _padding(stride)
        return y[:, pad : y.shape[1] - pad] + _bias(self, self.width, self.dtype)


def _bias(module: nn.Module, width: int, dtype: jnp.dtype) -> jax.Array:
    bias: jax.Array = module.param("bias", nn.initializers.zeros, (width,))
    return bias.astype(dtype)[None, None]


def _padding(stride: int) -> int:
    return -(-stride // 2)


def shapes(config: OobleckConfig) -> Shapes:
    """Shape of every leaf."""
    audio = jax.ShapeDtypeStruct((1, 2 * config.hop, config.audio), jnp.float32)
    variables = jax.eval_shape(Oobleck(config).init, jax.random.key(0), audio)
    leaves = flatten_dict(dict(variables["params"]), sep="/")
    return {path: leaf.shape for path, leaf in leaves.items()}


def _stage_flops(width: int, stride: int, other: int, fast: float) -> float:
    """Of residual units at the rate of ``fast`` steps, and of the change to the rate below."""
    units = len(DILATIONS) * (WIDE + 1) * width**2
    return 2.0 * fast * (units + 2 * width * other)


def flops(config: OobleckConfig, samples: int) -> dict[str, float]:
    """Of one example's ``encoder`` and ``decoder``; multiply-adds counted twice.

    Leaves out what the edges of the padding change.
    """
    c = config
    steps = [samples / math.prod(c.strides[:i]) for i in range(len(c.strides) + 1)]
    stages = sum(
        _stage_flops(c.widths[i], stride, c.widths[i + 1], steps[i])
        for i, stride in enumerate(c.strides)
    )
    full, deep = 2.0 * steps[0] * WIDE * c.audio * c.channels, 2.0 * steps[-1] * c.widths[-1]
    return {
        "encoder": stages + full + deep * 3 * 2 * c.latent,
        "decoder": stages + full + deep * WIDE * c.latent,
    }
