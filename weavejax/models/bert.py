"""BERT text encoder with optional cross-attention, the text and fusion encoder of VAST and GRAM.

Source: Devlin et al., BERT (arXiv 1810.04805); cross-attention after each self-attention as in
VAST (arXiv 2305.18500). Post-norm blocks; self-attention is bidirectional in both uses. With another
position offset it is RoBERTa (arXiv 1907.11692), and with a projection the text tower of CLAP
(arXiv 2211.06687; transformers' ``modeling_clap.py``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
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
    count_layers,
    dense,
    invert,
    norm,
    shapes_of,
)
from weavejax.ops.placement import split_batch
from weavejax.ops.transformer import (
    BLOCK_RULES,
    LayerNorm,
    Mlp,
    MultiHeadAttention,
    Rule,
    run_blocks,
    trunc_normal,
)

EPSILON = 1e-12


@dataclass(frozen=True)
class BertConfig:
    """Sizes and switches of a `Bert`.

    Attributes:
        vocab: number of word pieces.
        positions: longest sequence.
        types: rows of the segment table; only segment 0 is used.
        width: token width.
        layers: number of blocks.
        heads: attention heads.
        mlp: hidden width of the MLPs.
        dropout: of embeddings, branches and attention weights.
        cross_attention: whether blocks hold a cross-attention.
        cond_width: width of the tokens it attends to.
        position_offset: position of the first piece; RoBERTa keeps those before it for padding.
        epsilon: of the norms.
        projection: width of CLAP's joint space; 0 = no pooler and no projection.
        dtype: compute type; parameters are float32.
        scan: one scanned stack of blocks instead of separate ones.
        remat: "none", "dots" or "full"; see `run_blocks`.
        attention: backend; see `weavejax.ops.attention`.
    """

    vocab: int
    positions: int
    types: int
    width: int
    layers: int
    heads: int
    mlp: int
    dropout: float = 0.0
    cross_attention: bool = False
    cond_width: int = 0
    position_offset: int = 0
    epsilon: float = EPSILON
    projection: int = 0
    dtype: str = "float32"
    scan: bool = False
    remat: str = "none"
    attention: str = "xla"


BERT_BASE = BertConfig(
    vocab=30522,
    positions=512,
    types=2,
    width=768,
    layers=12,
    heads=12,
    mlp=3072,
    dropout=0.1,
    cross_attention=True,
    cond_width=768,
)
CLAP_TEXT = BertConfig(
    vocab=50265,
    positions=514,
    types=1,
    width=768,
    layers=12,
    heads=12,
    mlp=3072,
    dropout=0.1,
    position_offset=2,
    projection=512,
)


def rules(config: BertConfig) -> tuple[Rule, ...]:
    """Sharding table, first match wins; specs are written from the right."""
    table: tuple[Rule, ...] = (
        # By columns: 30522 rows are not divisible by any usual mesh.
        (r"^(word|position)/embedding$", ("data",)),
        (r"^type/embedding$", ()),
        *BLOCK_RULES,  # cross-attention has the same names as self-attention
    )
    joint = ((r"^(pooler|projection/fc\d)/kernel$", ("data", None)),)
    return (*table, *joint) if config.projection else table


class Bert(nn.Module):
    """Word pieces to tokens, optionally looking at condition tokens."""

    config: BertConfig

    @nn.compact
    def __call__(
        self,
        tokens: jax.Array,
        mask: jax.Array,
        *,
        condition: jax.Array | None = None,
        condition_mask: jax.Array | None = None,
        deterministic: bool,
        joint: bool = False,
    ) -> jax.Array:
        """Encode text.

        Args:
            tokens: int32 ``[N, L]`` word-piece ids.
            mask: bool ``[N, L]``, False at padding.
            condition: ``[N, C, cond_width]`` tokens for the cross-attention; None skips the
                cross-attention, with the same weights otherwise.
            condition_mask: bool ``[N, C]``, False where there is nothing to attend to (a modality
                that a clip lacks); None attends to all, as published.
            deterministic: True switches dropout off; False needs a "dropout" key.
            joint: return CLAP's embedding of the sentence instead of tokens.

        Returns:
            ``[N, L, width]``; token 0 is the sentence's. Rows at padding are not meaningful. With
            ``joint``, ``[N, projection]``, not normalised.
        """
        c = self.config
        dtype = jnp.dtype(c.dtype)
        length = tokens.shape[1]
        most = c.positions - c.position_offset
        if length > most:
            raise ValueError(f"this BERT takes at most {most} word pieces, got {length}")
        if joint and not c.projection:
            raise ValueError("joint embeddings need a BERT with a projection")
        if condition is not None and not c.cross_attention:
            raise ValueError("condition tokens need a BERT with cross_attention=True")
        if condition is None and c.cross_attention and self.is_initializing():
            # Parameters must not depend on whether the first call had a condition.
            condition = jnp.zeros((len(tokens), 1, c.cond_width), dtype)
        word = nn.Embed(c.vocab, c.width, dtype=dtype, embedding_init=trunc_normal, name="word")
        position = nn.Embed(
            c.positions, c.width, dtype=dtype, embedding_init=trunc_normal, name="position"
        )
        kind = nn.Embed(c.types, c.width, dtype=dtype, embedding_init=trunc_normal, name="type")
        places = jnp.arange(c.position_offset, c.position_offset + length)[None]
        x = word(tokens) + position(places) + kind(jnp.zeros((1, 1), jnp.int32))
        x = LayerNorm(c.epsilon, dtype, name="norm")(x)
        x = nn.Dropout(c.dropout)(x, deterministic=deterministic)
        x = run_blocks(
            Block,
            x,
            mask[:, None, None, :],
            condition,
            None if condition_mask is None else condition_mask[:, None, None, :],
            layers=c.layers,
            scan=c.scan,
            remat=c.remat,
            config=c,
            deterministic=deterministic,
        )
        if joint or (c.projection and self.is_initializing()):
            pooled = nn.Dense(c.width, dtype=dtype, kernel_init=trunc_normal, name="pooler")(
                x[:, 0]
            )
            project = Mlp(c.projection, c.projection, dtype, activation="relu", name="projection")
            embedding = project(jnp.tanh(pooled))
        return embedding if joint else x


class Block(nn.Module):
    """Post-norm self-attention, cross-attention if there is a condition, and MLP."""

    config: BertConfig
    deterministic: bool

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        layer: jax.Array,
        mask: jax.Array,
        condition: jax.Array | None,
        condition_mask: jax.Array | None,
    ) -> tuple[jax.Array, None]:
        del layer
        c = self.config
        dtype = jnp.dtype(c.dtype)
        x = split_batch(x)
        drop = nn.Dropout(c.dropout, deterministic=self.deterministic)
        x = LayerNorm(c.epsilon, dtype, name="norm1")(
            x + drop(self._attention("attention")(x, mask=mask))
        )
        if condition is not None:
            attended = self._attention("cross_attention")(x, condition, mask=condition_mask)
            x = LayerNorm(c.epsilon, dtype, name="norm_cross")(x + drop(attended))
        mlp = Mlp(c.mlp, c.width, dtype, name="mlp")
        return LayerNorm(c.epsilon, dtype, name="norm2")(x + drop(mlp(x))), None

    def _attention(self, name: str) -> MultiHeadAttention:
        c = self.config
        return MultiHeadAttention(
            c.width,
            c.heads,
            jnp.dtype(c.dtype),
            dropout=c.dropout,
            backend=c.attention,
            deterministic=self.deterministic,
            name=name,
        )


def from_torch(state: Mapping[str, np.ndarray], config: BertConfig) -> dict[str, Any]:
    """Parameters from a BERT state dict (no language-model head; a pooler only with a projection).

    Args:
        state: keys as in transformers' ``BertModel`` and GRAM's ``multimodal_encoder.bert.*``, or
            of ``ClapModel``'s ``text_model.*`` (and ``text_projection.*`` as it is), prefix
            stripped.
        config: sizes; ``cross_attention`` must say what the file holds.

    Raises:
        UserError: naming every unused, missing or mis-shaped key.
    """
    return convert(
        state,
        table(config),
        shapes=shapes(config),
        model="BERT",
        scan=config.scan,
        # Buffers: 0, 1, 2, ... and zeros.
        ignore=frozenset({"embeddings.position_ids", "embeddings.token_type_ids"}),
    )


def to_torch(params: Mapping[str, Any], config: BertConfig) -> dict[str, np.ndarray]:
    """The inverse of `from_torch`, less the buffer."""
    return invert(params, table(config))


def shapes(config: BertConfig) -> Shapes:
    """Shape of every leaf, with separate blocks."""
    tokens, mask = (jax.ShapeDtypeStruct((1, 1), dtype) for dtype in (jnp.int32, jnp.bool_))
    init = partial(Bert(replace(config, scan=True)).init, deterministic=True)
    return shapes_of(init, tokens, mask, layers=config.layers)


def sizes(state: Arrays) -> BertConfig:
    """The sizes that a published state dict has; ``heads`` is 1, which no array tells.

    Raises:
        KeyError: an array that tells them is missing.
    """
    vocab, width = state["embeddings.word_embeddings.weight"].shape
    cross = "encoder.layer.0.crossattention.self.key.weight"
    return BertConfig(
        vocab=vocab,
        positions=state["embeddings.position_embeddings.weight"].shape[0],
        types=state["embeddings.token_type_embeddings.weight"].shape[0],
        width=width,
        layers=count_layers(state, "encoder.layer."),
        heads=1,
        mlp=state["encoder.layer.0.intermediate.dense.weight"].shape[0],
        cross_attention=cross in state,
        cond_width=state[cross].shape[1] if cross in state else 0,
    )


def table(config: BertConfig) -> Table:
    """Where each leaf comes from, with separate blocks."""
    found: Table = {
        "word/embedding": Source("embeddings.word_embeddings.weight"),
        "position/embedding": Source("embeddings.position_embeddings.weight"),
        "type/embedding": Source("embeddings.token_type_embeddings.weight"),
        **norm("norm", "embeddings.LayerNorm"),
    }
    if config.projection:
        found |= {
            **dense("pooler", "pooler.dense"),
            **dense("projection/fc1", "text_projection.linear1"),
            **dense("projection/fc2", "text_projection.linear2"),
        }
    attentions = {"attention": ("attention", "norm1")}
    if config.cross_attention:
        attentions["cross_attention"] = ("crossattention", "norm_cross")
    for i in range(config.layers):
        path, key = f"blocks_{i}", f"encoder.layer.{i}"
        for ours, (theirs, after) in attentions.items():
            for name in ("query", "key", "value"):
                found |= dense(f"{path}/{ours}/{name}", f"{key}.{theirs}.self.{name}")
            found |= dense(f"{path}/{ours}/output", f"{key}.{theirs}.output.dense")
            found |= norm(f"{path}/{after}", f"{key}.{theirs}.output.LayerNorm")
        found |= dense(f"{path}/mlp/fc1", f"{key}.intermediate.dense")
        found |= dense(f"{path}/mlp/fc2", f"{key}.output.dense")
        found |= norm(f"{path}/norm2", f"{key}.output.LayerNorm")
    return found
