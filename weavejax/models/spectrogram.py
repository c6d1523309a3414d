"""Spectrogram transformer, the audio encoder of BEATs.

Source: Chen et al., BEATs (arXiv 2212.09058), code ``BEATs.py`` and ``backbone.py``. Patches of a
log mel spectrogram, a convolutional position embedding, post-norm blocks with DeepNorm (Wang et
al., arXiv 2203.00555) and a relative position bias gated by the query as in WavLM.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from weavejax.models.torch_names import (
    CONV_2D,
    TRANSPOSED,
    Arrays,
    Layout,
    Shapes,
    Source,
    Table,
    convert,
    count_layers,
    dense,
    invert,
    norm,
    shapes_of,
)
from weavejax.ops.placement import split_batch
from weavejax.ops.transformer import (
    BLOCK_RULES,
    Init,
    LayerNorm,
    Mlp,
    MultiHeadAttention,
    PatchEmbed,
    Rule,
    run_blocks,
    trunc_normal,
)

EPSILON = 1e-5
GATE_WIDTH = 8  # the gate's two scalars are sums of four units each


@dataclass(frozen=True)
class SpectrogramConfig:
    """Sizes and switches of a `SpectrogramTransformer`.

    Attributes:
        frames: usual number of spectrogram frames; no parameter depends on it.
        mels: usual number of mel bins; no parameter depends on it.
        patch: side of a patch, in frames and in bins.
        patch_width: width of the patch embedding, before it is projected to ``width``.
        width: token width.
        layers: number of blocks.
        heads: attention heads.
        mlp: hidden width of the MLPs.
        pos_kernel: taps of the convolutional position embedding.
        pos_groups: its groups.
        buckets: number of relative-position buckets, half of them for each direction.
        max_distance: distance in tokens from which all share the last bucket.
        dropout: of branches and of the first tokens.
        attention_dropout: of attention weights.
        input_dropout: of projected patches.
        layerdrop: chance that a block is skipped for the whole batch.
        dtype: compute type; parameters are float32.
        scan: one scanned stack of blocks instead of separate ones.
        remat: "none", "dots" or "full"; see `run_blocks`.
        attention: backend; see `weavejax.ops.attention`.
    """

    frames: int
    mels: int
    patch: int
    patch_width: int
    width: int
    layers: int
    heads: int
    mlp: int
    pos_kernel: int
    pos_groups: int
    buckets: int
    max_distance: int
    dropout: float = 0.0
    attention_dropout: float = 0.0
    input_dropout: float = 0.0
    layerdrop: float = 0.0
    dtype: str = "float32"
    scan: bool = False
    remat: str = "none"
    attention: str = "xla"


# BEATs' own front end has 128 mel bins; GRAM feeds the same weights with 64.
BEATS_ITER3 = SpectrogramConfig(
    frames=1024,
    mels=64,
    patch=16,
    patch_width=512,
    width=768,
    layers=12,
    heads=12,
    mlp=3072,
    pos_kernel=128,
    pos_groups=16,
    buckets=320,
    max_distance=800,
    dropout=0.1,
    attention_dropout=0.1,
    input_dropout=0.1,
    layerdrop=0.05,
)


def rules(config: SpectrogramConfig) -> tuple[Rule, ...]:
    """Sharding table, first match wins; specs are written from the right."""
    del config  # every configuration has the same leaves
    return (
        (r"^patch/kernel$", ("data",)),
        (r"^project/kernel$", ("data", "model")),
        (r"^position_conv/kernel$", ("data",)),
        (r"^relative_bias$", ()),
        (r"gate/units/kernel$", ()),
        *BLOCK_RULES,
    )


class SpectrogramTransformer(nn.Module):
    """Log mel spectrograms to tokens."""

    config: SpectrogramConfig

    @nn.compact
    def __call__(self, fbank: jax.Array, *, deterministic: bool) -> jax.Array:
        """Encode spectrograms.

        Args:
            fbank: ``[N, T, M]``, normalised; both multiples of the patch side.
            deterministic: True switches dropout and layerdrop off; False needs a "dropout" key.

        Returns:
            ``[N, T/patch · M/patch, width]``, time-major: all bins of the first frames first.
        """
        c = self.config
        dtype = jnp.dtype(c.dtype)
        if fbank.ndim != 3 or fbank.shape[1] % c.patch or fbank.shape[2] % c.patch:
            raise ValueError(
                f"spectrograms must be [N, T, M] with T and M multiples of {c.patch}, "
                f"got {fbank.shape}"
            )
        embed = PatchEmbed(c.patch_width, c.patch, dtype, use_bias=False, name="patch")
        x = LayerNorm(EPSILON, dtype, name="patch_norm")(embed(fbank[..., None]))
        x = nn.Dense(c.width, dtype=dtype, kernel_init=trunc_normal, name="project")(x)
        x = nn.Dropout(c.input_dropout)(x, deterministic=deterministic)
        x = x + PositionConv(c, name="position_conv")(x)
        x = LayerNorm(EPSILON, dtype, name="norm")(x)
        x = nn.Dropout(c.dropout)(x, deterministic=deterministic)
        table = self.param("relative_bias", trunc_normal, (c.buckets, c.heads)).astype(jnp.float32)
        buckets = relative_buckets(x.shape[1], c.buckets, c.max_distance)
        return run_blocks(
            Block,
            x,
            table[buckets].transpose(2, 0, 1),
            layers=c.layers,
            scan=c.scan,
            remat=c.remat,
            config=c,
            deterministic=deterministic,
        )


class PositionConv(nn.Module):
    """Convolutional position embedding: grouped, weight-normalised per tap, then GELU."""

    config: SpectrogramConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        std = math.sqrt(4 * (1 - c.dropout) / (c.pos_kernel * c.width))
        shape = (c.pos_kernel, c.width // c.pos_groups, c.width)
        direction = self.param("kernel", nn.initializers.normal(std), shape).astype(jnp.float32)
        length = jnp.sqrt(jnp.square(direction).sum((1, 2), keepdims=True))
        scale = self.param("scale", lambda _: length.reshape(-1)).astype(jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (c.width,))
        kernel = direction / length * scale.reshape(-1, 1, 1)
        left = c.pos_kernel // 2
        y = jax.lax.conv_general_dilated(
            x,
            kernel.astype(x.dtype),
            window_strides=(1,),
            # An even kernel sees one token less on the right: the published code crops the last.
            padding=((left, c.pos_kernel - 1 - left),),
            dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=c.pos_groups,
        )
        return jax.nn.gelu(y + bias.astype(x.dtype).reshape(1, 1, -1), approximate=False)


class Block(nn.Module):
    """Post-norm attention and MLP with DeepNorm's residual scale."""

    config: SpectrogramConfig
    deterministic: bool

    @nn.compact
    def __call__(
        self, x: jax.Array, layer: jax.Array, position_bias: jax.Array
    ) -> tuple[jax.Array, None]:
        del layer
        c = self.config
        dtype = jnp.dtype(c.dtype)
        x = split_batch(x)
        alpha, beta = (2 * c.layers) ** 0.25, (8 * c.layers) ** -0.25
        drop = nn.Dropout(c.dropout, deterministic=self.deterministic)
        attend = MultiHeadAttention(
            c.width,
            c.heads,
            dtype,
            dropout=c.attention_dropout,
            backend=c.attention,
            query_init=_xavier(1.0),
            value_init=_xavier(beta),
            deterministic=self.deterministic,
            name="attention",
        )
        gate = Gate(dtype, name="gate")
        mlp = Mlp(c.mlp, c.width, dtype, _xavier(beta), name="mlp")
        y = x * alpha + drop(attend(x, bias=lambda q: gate(q) * position_bias[None]))
        y = LayerNorm(EPSILON, dtype, name="norm1")(y)
        y = y * alpha + drop(mlp(y))
        y = LayerNorm(EPSILON, dtype, name="norm2")(y)
        if self.deterministic or c.layerdrop == 0.0:
            return y, None
        # Selected, not branched: one program for both outcomes, with static shapes.
        kept = jax.random.bernoulli(self.make_rng("dropout"), 1.0 - c.layerdrop)
        return jnp.where(kept, y, x), None


class Gate(nn.Module):
    """Query-dependent factor of the relative position bias: ``[N, L, H, D]`` → ``[N, H, L, 1]``."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, q: jax.Array) -> jax.Array:
        units = nn.Dense(GATE_WIDTH, dtype=self.dtype, kernel_init=trunc_normal, name="units")
        scale = self.param("scale", nn.initializers.ones, (q.shape[2],)).astype(jnp.float32)
        summed = units(q).astype(jnp.float32).reshape(*q.shape[:3], 2, GATE_WIDTH // 2).sum(-1)
        update, reset = jnp.moveaxis(jax.nn.sigmoid(summed), -1, 0)
        factor = update * (reset * scale.reshape(1, 1, -1) - 1.0) + 2.0
        return factor.transpose(0, 2, 1)[..., None]


def relative_buckets(length: int, buckets: int, max_distance: int) -> np.ndarray:
    """T5's bidirectional buckets of key minus query position: int ``[length, length]``.

    Near distances have a bucket each, far ones share logarithmically wider buckets. The float32
    logarithm is that of the published code, so that no distance falls on another side of an edge.
    """
    offset = np.arange(length)[None, :] - np.arange(length)[:, None]
    half = buckets // 2
    exact = half // 2
    distance = np.abs(offset)
    ratio = np.maximum(distance, exact).astype(np.float32) / np.float32(exact)
    spread = np.log(ratio) / np.float32(math.log(max_distance / exact)) * np.float32(half - exact)
    far = np.minimum(exact + spread.astype(np.int64), half - 1)
    return np.where(distance < exact, distance, far) + half * (offset > 0)


def _xavier(gain: float) -> Init:
    return nn.initializers.variance_scaling(gain**2, "fan_avg", "normal")


def from_torch(state: Mapping[str, np.ndarray], config: SpectrogramConfig) -> dict[str, Any]:
    """Parameters from a BEATs state dict (no classifier).

    Args:
        state: keys as in the published checkpoints' ``model`` entry and GRAM's
            ``audio_encoder.*``, prefix stripped. Both spellings of weight norm are read.
        config: sizes.

    Raises:
        UserError: naming every unused, missing or mis-shaped key.
    """
    state = {official(key): tensor for key, tensor in state.items()}
    return convert(state, table(config), shapes=shapes(config), model="BEATs", scan=config.scan)


def to_torch(params: Mapping[str, Any], config: SpectrogramConfig) -> dict[str, np.ndarray]:
    """The inverse of `from_torch`, with weight norm spelt as in the published checkpoints."""
    return invert(params, table(config))


def official(key: str) -> str:
    """A key in the published checkpoints' spelling of weight norm, of which PyTorch has two."""
    key = key.replace("parametrizations.weight.original0", "weight_g")
    return key.replace("parametrizations.weight.original1", "weight_v")


def shapes(config: SpectrogramConfig) -> Shapes:
    """Shape of every leaf, with separate blocks."""
    fbank = jax.ShapeDtypeStruct((1, config.patch, config.patch), jnp.float32)
    init = partial(SpectrogramTransformer(replace(config, scan=True)).init, deterministic=True)
    return shapes_of(init, fbank, layers=config.layers)


def sizes(state: Arrays) -> SpectrogramConfig:
    """The sizes that a published state dict has; the largest distance is BEATs', as none tells it.

    Raises:
        KeyError: an array that tells them is missing.
    """
    patch_width, _, patch, _ = state["patch_embedding.weight"].shape
    width, group, kernel = state["encoder.pos_conv.0.weight_v"].shape
    bias = "encoder.layers.0.self_attn.relative_attention_bias.weight"
    buckets, heads = state[bias].shape
    return SpectrogramConfig(
        frames=BEATS_ITER3.frames,
        mels=BEATS_ITER3.mels,
        patch=patch,
        patch_width=patch_width,
        width=width,
        layers=count_layers(state, "encoder.layers."),
        heads=heads,
        mlp=state["encoder.layers.0.fc1.weight"].shape[0],
        pos_kernel=kernel,
        pos_groups=width // group,
        buckets=buckets,
        max_distance=BEATS_ITER3.max_distance,
    )


def table(config: SpectrogramConfig) -> Table:
    """Where each leaf comes from, with separate blocks."""
    shared = [
        f"encoder.layers.{i}.self_attn.relative_attention_bias.weight" for i in range(config.layers)
    ]
    found: Table = {
        "patch/kernel": Source("patch_embedding.weight", CONV_2D),
        **norm("patch_norm", "layer_norm"),
        **dense("project", "post_extract_proj"),
        "position_conv/kernel": Source("encoder.pos_conv.0.weight_v", TRANSPOSED),
        "position_conv/scale": Source(
            "encoder.pos_conv.0.weight_g", Layout(np.ravel, lambda x: x.reshape(1, 1, -1))
        ),
        "position_conv/bias": Source("encoder.pos_conv.0.bias"),
        **norm("norm", "encoder.layer_norm"),
        "relative_bias": Source(shared[0], copies=tuple(shared[1:])),
    }
    for i in range(config.layers):
        path, key = f"blocks_{i}", f"encoder.layers.{i}"
        found |= {
            **dense(f"{path}/attention/query", f"{key}.self_attn.q_proj"),
            **dense(f"{path}/attention/key", f"{key}.self_attn.k_proj"),
            **dense(f"{path}/attention/value", f"{key}.self_attn.v_proj"),
            **dense(f"{path}/attention/output", f"{key}.self_attn.out_proj"),
            **dense(f"{path}/gate/units", f"{key}.self_attn.grep_linear"),
            f"{path}/gate/scale": Source(
                f"{key}.self_attn.grep_a", Layout(np.ravel, lambda x: x.reshape(1, -1, 1, 1))
            ),
            **dense(f"{path}/mlp/fc1", f"{key}.fc1"),
            **dense(f"{path}/mlp/fc2", f"{key}.fc2"),
            **norm(f"{path}/norm1", f"{key}.self_attn_layer_norm"),
            **norm(f"{path}/norm2", f"{key}.final_layer_norm"),
        }
    return found
