"""The diffusion transformer of Stable Audio Open.

Source: Evans et al., Stable Audio Open (arXiv 2407.14358) and Long-form music generation with latent
diffusion (arXiv 2404.10301); the published code, stable-audio-tools' ``models/dit.py``. Timestep and
global condition become one token in front of the latents; pre-norm blocks with rotary self-attention
(half of each head's dimensions), cross-attention with grouped keys and values, and SwiGLU.
"""

from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from weavejax.models.torch_names import Shapes, shapes_of
from weavejax.ops.placement import split_batch
from weavejax.ops.rotary import rotary_table
from weavejax.ops.transformer import (
    BLOCK_RULES,
    LayerNorm,
    Mlp,
    MultiHeadAttention,
    Rule,
    fan_in,
    run_blocks,
)

EPSILON = 1e-5
zeros = nn.initializers.zeros


@dataclass(frozen=True)
class StableDitConfig:
    """Sizes and switches of a `StableDit`.

    Attributes:
        channels: of the latents, in and out.
        width: token width.
        layers: number of blocks.
        heads: attention heads.
        kv_heads: heads of the keys and values of cross-attention; ``heads`` is a multiple.
        mlp: hidden width of the MLPs (of each half of the gated layer).
        cross_width: of the tokens that cross-attention sees.
        global_width: of the global condition.
        features: Fourier features of the timestep, an even number.
        rotary: how many dimensions of each head turn with the position, an even number.
        norm_bias: whether the norms have biases: those of diffusers' layout, zero as published.
        dtype: compute type; norms' statistics, softmax and rotation are in float32 anyway.
        scan: one scanned stack of blocks instead of separate ones.
        remat: "none", "dots" or "full"; see `run_blocks`.
        attention: backend; see `weavejax.ops.attention`.
    """

    channels: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    cross_width: int
    global_width: int
    features: int = 256
    rotary: int = 32
    norm_bias: bool = False
    dtype: str = "float32"
    scan: bool = False
    remat: str = "none"
    attention: str = "xla"

    def __post_init__(self) -> None:
        if self.width % self.heads or self.heads % self.kv_heads:
            raise ValueError(
                f"{self.heads} heads of {self.kv_heads} keys and values do not share "
                f"{self.width} dimensions evenly"
            )
        if self.rotary % 2 or self.rotary > self.width // self.heads:
            raise ValueError(f"{self.rotary} of {self.width // self.heads} dimensions cannot turn")


STABLE_AUDIO_OPEN = StableDitConfig(
    channels=64,
    width=1536,
    layers=24,
    heads=24,
    kv_heads=12,
    mlp=6144,
    cross_width=768,
    global_width=1536,
)

EMBED_RULES: tuple[Rule, ...] = (
    (r"embed/(time|global|cross)/fc1/kernel$", ("data", "model")),
    (r"embed/(time|global|cross)/fc2/kernel$", ("model", "data")),
    (r"embed/input/kernel$", ("data", None)),
    (r"embed/(frequencies|pre/kernel)$", ()),
)


def rules(config: StableDitConfig) -> tuple[Rule, ...]:
    """Sharding table, first match wins; specs are written from the right."""
    del config
    ends: tuple[Rule, ...] = ((r"^output/kernel$", ("data", None)), (r"^post/kernel$", ()))
    return (*EMBED_RULES, *ends, *BLOCK_RULES)  # cross-attention is named like self-attention


class Embed(nn.Module):
    """Latents and conditions to what the blocks see; the base and its control copy have one each."""

    config: StableDitConfig

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        time: jax.Array,
        cross: jax.Array,
        global_cond: jax.Array,
        added: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Embed.

        Args:
            x: ``[N, T, channels]``.
            time: ``[N]`` in [0, 1].
            cross: ``[N, S, cross_width]``.
            global_cond: ``[N, global_width]``.
            added: ``[N, T, channels]``, added to the latents before they are projected.

        Returns:
            Tokens ``[N, 1 + T, width]`` and cross-attention's memory ``[N, S, cross_width]``.
        """
        c = self.config
        dtype = jnp.dtype(c.dtype)

        def mlp(width: int, name: str, *, use_bias: bool = False) -> Mlp:
            return Mlp(width, width, dtype, activation="silu", use_bias=use_bias, name=name)

        normal = nn.initializers.normal(1.0)
        frequencies = self.param("frequencies", normal, (c.features // 2,)).astype(jnp.float32)
        angles = 2 * jnp.pi * time.astype(jnp.float32)[:, None] * frequencies[None]
        features = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
        first = mlp(c.width, "global")(global_cond.astype(dtype))
        first = first + mlp(c.width, "time", use_bias=True)(features.astype(dtype))
        memory = mlp(c.cross_width, "cross")(cross.astype(dtype))
        x = x.astype(dtype)
        x = x + _dense(c.channels, dtype, "pre", zeros)(x)
        if added is not None:
            x = x + added
        x = _dense(c.width, dtype, "input")(x)
        return jnp.concatenate([first[:, None], x], axis=1), memory


class Block(nn.Module):
    """Pre-norm self-attention, cross-attention and gated MLP; outputs start at zero."""

    config: StableDitConfig

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        layer: jax.Array,
        memory: jax.Array,
        rotary: jax.Array,
        residuals: jax.Array | None = None,
    ) -> tuple[jax.Array, None]:
        c = self.config
        dtype = jnp.dtype(c.dtype)
        x = split_batch(x)
        if residuals is not None:
            x = x + _residual(residuals, layer).astype(dtype)
        y = self._attention("attention", c.heads)(self._norm("norm1")(x), rotary=rotary)
        x = x + y
        x = x + self._attention("cross_attention", c.kv_heads)(self._norm("norm2")(x), memory)
        mlp = Mlp(
            c.mlp, c.width, dtype, activation="silu", gated=True, output_init=zeros, name="mlp"
        )
        return x + mlp(self._norm("norm3")(x)), None

    def _norm(self, name: str) -> LayerNorm:
        c = self.config
        return LayerNorm(EPSILON, jnp.dtype(c.dtype), use_bias=c.norm_bias, name=name)

    def _attention(self, name: str, kv_heads: int) -> MultiHeadAttention:
        c = self.config
        return MultiHeadAttention(
            c.width,
            c.heads,
            jnp.dtype(c.dtype),
            kv_heads=kv_heads,
            use_bias=False,
            backend=c.attention,
            output_init=zeros,
            name=name,
        )


def _residual(residuals: jax.Array, layer: jax.Array) -> jax.Array:
    """The layer's of the first layers' residuals ``[n, N, 1 + T, width]``, zero after them.

    By index and not as a scanned input, which would have to be padded to as many as the layers.
    """
    last = len(residuals) - 1
    chosen = jax.lax.dynamic_index_in_dim(residuals, jnp.minimum(layer, last), keepdims=False)
    return jnp.where(layer <= last, chosen, jnp.zeros((), chosen.dtype))


class StableDit(nn.Module):
    """Noisy latents and conditions to the velocity that the diffusion model predicts."""

    config: StableDitConfig

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        time: jax.Array,
        cross: jax.Array,
        global_cond: jax.Array,
        residuals: jax.Array | None = None,
    ) -> jax.Array:
        """Predict.

        Args:
            x: noisy latents ``[N, T, channels]``.
            time: ``[N]`` in [0, 1]: (2/π) · atan σ.
            cross: tokens of the conditions ``[N, S, cross_width]``; the published model knows no
                mask of them, and zeros are the unconditional branch of guidance.
            global_cond: global condition ``[N, global_width]``.
            residuals: of a control network, ``[n, N, 1 + T, width]``; the i-th is added to the
                tokens, the one in front included, before block i.

        Returns:
            ``[N, T, channels]``.
        """
        c = self.config
        dtype = jnp.dtype(c.dtype)
        if residuals is not None and not 0 < len(residuals) <= c.layers:
            raise ValueError(f"{len(residuals)} residuals for {c.layers} blocks")
        tokens, memory = Embed(c, name="embed")(x, time, cross, global_cond)
        rotary = jnp.asarray(rotary_table(tokens.shape[1], c.rotary))
        tokens = run_blocks(
            Block,
            tokens,
            memory,
            rotary,
            residuals,
            layers=c.layers,
            scan=c.scan,
            remat=c.remat,
            config=c,
        )
        y = _dense(c.channels, dtype, "output")(tokens[:, 1:])
        return y + _dense(c.channels, dtype, "post", zeros)(y)


def _dense(width: int, dtype: jnp.dtype, name: str, init: Any = fan_in) -> nn.Dense:
    return nn.Dense(width, dtype=dtype, use_bias=False, kernel_init=init, name=name)


def shapes(config: StableDitConfig) -> Shapes:
    """Shape of every leaf, with separate blocks."""
    return shapes_of(
        StableDit(replace(config, scan=True)).init, *inputs(config), layers=config.layers
    )


def inputs(config: StableDitConfig, batch: int = 1, length: int = 1, tokens: int = 1) -> Any:
    """Shapes and types of the four arguments that every call has."""
    shapes = (
        (batch, length, config.channels),
        (batch,),
        (batch, tokens, config.cross_width),
        (batch, config.global_width),
    )
    return [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]


def block_flops(config: StableDitConfig, length: int, tokens: int) -> float:
    """Of one block's forward pass, ``length`` latents and ``tokens`` condition tokens."""
    c, n = config, length + 1
    kv_width = c.kv_heads * (c.width // c.heads)
    attention = 4 * c.width**2 + 2 * n * c.width
    cross = 2 * c.width**2 + 2 * tokens * c.width
    mlp = 3 * c.width * c.mlp
    return 2.0 * (n * (attention + cross + mlp) + 2 * tokens * c.cross_width * kv_width)


def embed_flops(config: StableDitConfig, length: int, tokens: int) -> float:
    """Of the embedding's forward pass."""
    c = config
    first = (c.features + c.global_width + 2 * c.width) * c.width
    latents = length * c.channels * (c.channels + c.width)
    return 2.0 * (first + latents + 2 * tokens * c.cross_width**2)


def flops(config: StableDitConfig, length: int, tokens: int) -> float:
    """Of the forward pass of one example; multiply-adds counted twice, attention included."""
    c = config
    output = 2.0 * length * c.channels * (c.channels + c.width)
    blocks = c.layers * block_flops(c, length, tokens)
    return embed_flops(c, length, tokens) + blocks + output
