"""T5 text encoder, whose tokens Stable Audio's cross-attention sees.

Source: Raffel et al., T5 (arXiv 1910.10683), version 1.0; transformers' ``T5EncoderModel``. Pre-norm
blocks with root-mean-square norms, no biases, logits that are not scaled, and a bias by relative
position that the first block's file entry holds for all. For use frozen: there is no dropout.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from weavejax.models.torch_names import (
    TRANSPOSED,
    Arrays,
    Shapes,
    Source,
    Table,
    convert,
    count_layers,
    invert,
    shapes_of,
)
from weavejax.ops.placement import split_batch
from weavejax.ops.transformer import (
    BLOCK_RULES,
    Mlp,
    MultiHeadAttention,
    RmsNorm,
    Rule,
    run_blocks,
)

EPSILON = 1e-6


@dataclass(frozen=True)
class T5Config:
    """Sizes and switches of a `T5Encoder`.

    Attributes:
        vocab: number of pieces.
        width: token width, evenly shared by the heads.
        layers: number of blocks.
        heads: attention heads.
        mlp: hidden width of the MLPs.
        buckets: of relative positions, for both directions together.
        max_distance: from which on all positions share the last bucket of their direction.
        dtype: compute type; norms' statistics and softmax are in float32 anyway.
        scan: one scanned stack of blocks instead of separate ones.
        remat: "none", "dots" or "full"; see `run_blocks`.
        attention: backend; see `weavejax.ops.attention`.
    """

    vocab: int
    width: int
    layers: int
    heads: int
    mlp: int
    buckets: int = 32
    max_distance: int = 128
    dtype: str = "float32"
    scan: bool = False
    remat: str = "none"
    attention: str = "xla"


T5_BASE = T5Config(vocab=32128, width=768, layers=12, heads=12, mlp=3072)


def rules(config: T5Config) -> tuple[Rule, ...]:
    """Sharding table, first match wins; specs are written from the right."""
    del config
    table: tuple[Rule, ...] = (
        (r"^word/embedding$", ("data",)),
        (r"^position/embedding$", ()),
        (r"^norm/scale$", ()),
    )
    return (*table, *BLOCK_RULES[:-1], (r"^blocks.*/scale$", ()))


class T5Encoder(nn.Module):
    """Pieces to tokens."""

    config: T5Config

    @nn.compact
    def __call__(self, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        """Encode text.

        Args:
            tokens: int32 ``[N, L]`` ids of pieces; Stable Audio pads all to 128.
            mask: bool ``[N, L]``, False at padding.

        Returns:
            ``[N, L, width]``, zero at padding, as Stable Audio's cross-attention takes it (which
            knows no mask).
        """
        c = self.config
        dtype = jnp.dtype(c.dtype)
        word = nn.Embed(c.vocab, c.width, dtype=dtype, embedding_init=_normal(1.0), name="word")
        position = nn.Embed(c.buckets, c.heads, embedding_init=_normal(0.1), name="position")
        buckets = relative_buckets(tokens.shape[1], c.buckets, c.max_distance)
        bias = position(jnp.asarray(buckets)).transpose(2, 0, 1)[None]
        x = run_blocks(
            Block,
            word(tokens),
            mask[:, None, None, :],
            bias,
            layers=c.layers,
            scan=c.scan,
            remat=c.remat,
            config=c,
        )
        x = RmsNorm(EPSILON, dtype, name="norm")(x)
        return jnp.where(mask[..., None], x, jnp.zeros((), dtype))


class Block(nn.Module):
    """Pre-norm self-attention and MLP."""

    config: T5Config

    @nn.compact
    def __call__(
        self, x: jax.Array, layer: jax.Array, mask: jax.Array, bias: jax.Array
    ) -> tuple[jax.Array, None]:
        del layer
        c = self.config
        dtype = jnp.dtype(c.dtype)
        x = split_batch(x)
        attend = MultiHeadAttention(
            c.width,
            c.heads,
            dtype,
            use_bias=False,
            scale=1.0,
            backend=c.attention,
            # Instead of the scale of the logits.
            query_init=nn.initializers.variance_scaling(
                (c.width // c.heads) ** -0.5, "fan_in", "truncated_normal"
            ),
            name="attention",
        )
        y = RmsNorm(EPSILON, dtype, name="norm1")(x)
        x = x + attend(y, mask=mask, bias=lambda _: bias)
        mlp = Mlp(c.mlp, c.width, dtype, activation="relu", use_bias=False, name="mlp")
        return x + mlp(RmsNorm(EPSILON, dtype, name="norm2")(x)), None


def _normal(deviation: float) -> nn.initializers.Initializer:
    return nn.initializers.normal(deviation)


def relative_buckets(length: int, buckets: int, max_distance: int) -> np.ndarray:
    """Bucket of every pair of a query and a key, int32 ``[L, L]``, both directions.

    Half of the buckets are for keys that come after their query. In each half the first half are
    for one distance each; the others grow as the logarithm of the distance up to
    ``max_distance``. On the host and in float32, where PyTorch's rounding is met.
    """
    offset = np.arange(length)[None] - np.arange(length)[:, None]
    half = buckets // 2
    exact = half // 2
    distance = np.abs(offset)
    # Distances below `exact` are not looked up here; 1 keeps their logarithm finite.
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    steps = ratio / np.float32(math.log(max_distance / exact)) * np.float32(half - exact)
    far = np.minimum(exact + steps.astype(np.int32), half - 1)
    near = np.where(distance < exact, distance, far)
    return (near + half * (offset > 0)).astype(np.int32)


def from_torch(state: Mapping[str, np.ndarray], config: T5Config) -> dict[str, Any]:
    """Parameters from a published state dict.

    Args:
        state: keys as in transformers' ``T5EncoderModel``: of ``T5Model``'s files, ``shared`` and
            ``encoder.*``.
        config: sizes.

    Raises:
        UserError: naming every unused, missing or mis-shaped key.
    """
    # Files hold the embedding once or twice.
    copy = "encoder.embed_tokens.weight"
    whole = state if copy in state or WORD not in state else {**state, copy: state[WORD]}
    return convert(whole, table(config), shapes=shapes(config), model="T5", scan=config.scan)


def to_torch(params: Mapping[str, Any], config: T5Config) -> dict[str, np.ndarray]:
    """The inverse of `from_torch`."""
    return invert(params, table(config))


def shapes(config: T5Config) -> Shapes:
    """Shape of every leaf, with separate blocks."""
    tokens, mask = (jax.ShapeDtypeStruct((1, 1), dtype) for dtype in (jnp.int32, jnp.bool_))
    return shapes_of(T5Encoder(replace(config, scan=True)).init, tokens, mask, layers=config.layers)


WORD = "shared.weight"
FIRST = "encoder.block.0.layer.0.SelfAttention"


def sizes(state: Arrays) -> T5Config:
    """The sizes that a published state dict has.

    Raises:
        KeyError: an array that tells them is missing.
    """
    vocab, width = state[WORD].shape
    buckets, heads = state[f"{FIRST}.relative_attention_bias.weight"].shape
    return T5Config(
        vocab=vocab,
        width=width,
        layers=count_layers(state, "encoder.block."),
        heads=heads,
        mlp=state["encoder.block.0.layer.1.DenseReluDense.wi.weight"].shape[0],
        buckets=buckets,
    )


def table(config: T5Config) -> Table:
    """Where each leaf comes from, with separate blocks."""
    found: Table = {
        "word/embedding": Source(WORD, copies=("encoder.embed_tokens.weight",)),
        "position/embedding": Source(f"{FIRST}.relative_attention_bias.weight"),
        "norm/scale": Source("encoder.final_layer_norm.weight"),
    }
    names = {"query": "q", "key": "k", "value": "v", "output": "o"}
    for i in range(config.layers):
        path, key = f"blocks_{i}", f"encoder.block.{i}.layer"
        for ours, theirs in names.items():
            found[f"{path}/attention/{ours}/kernel"] = Source(
                f"{key}.0.SelfAttention.{theirs}.weight", TRANSPOSED
            )
        for ours, theirs in (("fc1", "wi"), ("fc2", "wo")):
            found[f"{path}/mlp/{ours}/kernel"] = Source(
                f"{key}.1.DenseReluDense.{theirs}.weight", TRANSPOSED
            )
        found[f"{path}/norm1/scale"] = Source(f"{key}.0.layer_norm.weight")
        found[f"{path}/norm2/scale"] = Source(f"{key}.1.layer_norm.weight")
    return found


def flops(config: T5Config, length: int) -> float:
    """Of the forward pass of one text; multiply-adds counted twice, attention included."""
    c = config
    block = 4 * c.width**2 + 2 * c.width * c.mlp + 2 * length * c.width
    return 2.0 * c.layers * length * block
