"""Text transformers of CLIP and SigLIP.

Source: Radford et al., CLIP (arXiv 2103.00020), and Zhai et al., SigLIP (arXiv 2303.15343); weights
as in transformers' ``modeling_clip.py`` and ``modeling_siglip.py``. Pre-norm blocks. CLIP's tokens
see those before them, and the first end-of-text token is the sentence's; SigLIP's see all, padding
included, and the last position is the sentence's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from weavejax.models.clip_vision import block_table
from weavejax.models.torch_names import TRANSPOSED, Source, Table, convert, dense, norm, shapes_of
from weavejax.ops.transformer import (
    BLOCK_RULES,
    LayerNorm,
    PreNormBlock,
    Rule,
    run_blocks,
    trunc_normal,
)


@dataclass(frozen=True)
class ClipTextConfig:
    """Sizes and switches of a `ClipText`.

    Attributes:
        vocab: number of tokens.
        positions: longest sequence.
        width: token width.
        layers: number of blocks.
        heads: attention heads.
        mlp: hidden width of the MLPs.
        causal: True as in CLIP; False as in SigLIP, whose projection also has a bias.
        end: id of CLIP's end-of-text token, at which the sentence is read.
        projection: width of the joint space; 0 = none.
        activation: of the MLPs; see `weavejax.ops.transformer.ACTIVATIONS`.
        epsilon: of the norms.
        drop_path: stochastic depth of the last block; it rises linearly from 0 in the first.
        dtype: compute type; parameters are float32.
        scan: one scanned stack of blocks instead of separate ones.
        remat: "none", "dots" or "full"; see `run_blocks`.
        attention: backend; see `weavejax.ops.attention`.
    """

    vocab: int
    positions: int
    width: int
    layers: int
    heads: int
    mlp: int
    causal: bool = True
    end: int = 49407
    projection: int = 0
    activation: str = "quick_gelu"
    epsilon: float = 1e-5
    drop_path: float = 0.0
    dtype: str = "float32"
    scan: bool = False
    remat: str = "none"
    attention: str = "xla"


CLIP_B32_TEXT = ClipTextConfig(
    vocab=49408, positions=77, width=512, layers=12, heads=8, mlp=2048, projection=512
)
CLIP_L14_TEXT = replace(CLIP_B32_TEXT, width=768, heads=12, mlp=3072, projection=768)
SIGLIP_B16_TEXT = ClipTextConfig(
    vocab=32000,
    positions=64,
    width=768,
    layers=12,
    heads=12,
    mlp=3072,
    causal=False,
    projection=768,
    activation="gelu_pytorch_tanh",
    epsilon=1e-6,
)


def rules(config: ClipTextConfig) -> tuple[Rule, ...]:
    """Sharding table, first match wins; specs are written from the right."""
    table: tuple[Rule, ...] = ((r"^(word|position)/embedding$", ("data",)), *BLOCK_RULES)
    return (*table, (r"^projection/kernel$", ("data", None))) if config.projection else table


def sentence_position(tokens: jax.Array, config: ClipTextConfig) -> jax.Array:
    """Where each sentence is read: int32 ``[N]`` for ``tokens [N, L]``."""
    if not config.causal:
        return jnp.full(len(tokens), tokens.shape[1] - 1, jnp.int32)
    return jnp.argmax(tokens == config.end, axis=1).astype(jnp.int32)


def sentence_token(x: jax.Array, tokens: jax.Array, config: ClipTextConfig) -> jax.Array:
    """The sentence's own token ``[N, width]`` of the encoded ``x [N, L, width]``."""
    place = sentence_position(tokens, config)
    return jnp.take_along_axis(x, place[:, None, None], axis=1)[:, 0]


class ClipText(nn.Module):
    """Text to tokens."""

    config: ClipTextConfig

    @nn.compact
    def __call__(
        self, tokens: jax.Array, mask: jax.Array, *, deterministic: bool, joint: bool = False
    ) -> jax.Array:
        """Encode text.

        Args:
            tokens: int32 ``[N, L]`` ids; CLIP's with an end-of-text token.
            mask: bool ``[N, L]``, False where nothing may look; SigLIP was trained without.
            deterministic: True switches stochastic depth off; False needs a "dropout" key.
            joint: return the sentence's embedding in the space shared with images, not tokens.

        Returns:
            ``[N, L, width]`` after the last norm; `sentence_token` says which is the sentence's.
            With ``joint``, ``[N, projection]``, not normalised.
        """
        c = self.config
        dtype = jnp.dtype(c.dtype)
        length = tokens.shape[1]
        if length > c.positions:
            raise ValueError(f"this text tower takes at most {c.positions} tokens, got {length}")
        if joint and not c.projection:
            raise ValueError("joint embeddings need a text tower with a projection")
        word = nn.Embed(c.vocab, c.width, dtype=dtype, embedding_init=trunc_normal, name="word")
        position = nn.Embed(
            c.positions, c.width, dtype=dtype, embedding_init=trunc_normal, name="position"
        )
        seen = mask[:, None, None, :]
        if c.causal:
            seen = seen & np.tri(length, dtype=bool)[None, None]
        x = run_blocks(
            PreNormBlock,
            word(tokens) + position(jnp.arange(length)[None]),
            seen,
            layers=c.layers,
            scan=c.scan,
            remat=c.remat,
            width=c.width,
            heads=c.heads,
            mlp=c.mlp,
            epsilon=c.epsilon,
            dtype=dtype,
            drop_rise=c.drop_path / max(c.layers - 1, 1),
            activation=c.activation,
            attention=c.attention,
            deterministic=deterministic,
        )
        x = LayerNorm(c.epsilon, dtype, name="norm")(x)
        if joint or (c.projection and self.is_initializing()):
            project = nn.Dense(
                c.projection,
                use_bias=not c.causal,
                dtype=dtype,
                kernel_init=trunc_normal,
                name="projection",
            )
            embedding = project(sentence_token(x, tokens, c))
        return embedding if joint else x


def from_torch(state: Mapping[str, np.ndarray], config: ClipTextConfig) -> dict[str, Any]:
    """Parameters from the text tower of a CLIP or SigLIP state dict.

    Args:
        state: keys as in transformers' ``CLIPModel`` and ``SiglipModel``, the prefix
            ``text_model.`` stripped; CLIP's ``text_projection.weight`` as it is.
        config: sizes; ``projection`` must be the width of the projection, or 0 if that is absent.

    Raises:
        UserError: naming every unused, missing or mis-shaped key.
    """
    plain = replace(config, scan=False)
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    mask = jax.ShapeDtypeStruct((1, 1), jnp.bool_)
    return convert(
        state,
        _table(config),
        shapes=shapes_of(partial(ClipText(plain).init, deterministic=True), tokens, mask),
        model="CLIP's text tower" if config.causal else "SigLIP's text tower",
        scan=config.scan,
        ignore=frozenset({"embeddings.position_ids"}),  # a buffer: 0, 1, 2, ...
    )


def _table(config: ClipTextConfig) -> Table:
    table: Table = {
        "word/embedding": Source("embeddings.token_embedding.weight"),
        "position/embedding": Source("embeddings.position_embedding.weight"),
        **norm("norm", "final_layer_norm"),
        **block_table(config.layers),
    }
    if config.projection and config.causal:
        table["projection/kernel"] = Source("text_projection.weight", TRANSPOSED)
    elif config.projection:
        table |= dense("projection", "head")
    return table
