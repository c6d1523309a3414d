"""Vision transformers of CLIP and SigLIP.

Source: Radford et al., CLIP (arXiv 2103.00020), and Zhai et al., SigLIP (arXiv 2303.15343); weights
as in transformers' ``modeling_clip.py`` and ``modeling_siglip.py``. The pre-norm blocks are EVA's,
with key biases; what differs lies before and after them:

CLIP puts a class token first, patches have no bias, one more norm precedes the blocks, the class
token's output is the picture's. SigLIP has neither token nor norm, and a learned probe gathers the
picture by attention.
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
    CONV_2D,
    TRANSPOSED,
    Layout,
    Source,
    Table,
    convert,
    dense,
    norm,
    shapes_of,
)
from weavejax.ops.transformer import (
    BLOCK_RULES,
    LayerNorm,
    Mlp,
    MultiHeadAttention,
    PatchEmbed,
    PreNormBlock,
    Rule,
    run_blocks,
    trunc_normal,
)


@dataclass(frozen=True)
class ClipVisionConfig:
    """Sizes and switches of a `ClipVision`.

    Attributes:
        image_size: height and width in pixels; what exceeds whole patches is cut off.
        patch: side of a patch in pixels.
        width: token width.
        layers: number of blocks.
        heads: attention heads.
        mlp: hidden width of the MLPs.
        pooling: "class" as in CLIP or "attention" as in SigLIP.
        projection: width of CLIP's joint space; 0 = none (SigLIP's is its token width).
        activation: of the MLPs; see `weavejax.ops.transformer.ACTIVATIONS`.
        epsilon: of the norms.
        drop_path: stochastic depth of the last block; it rises linearly from 0 in the first.
        dtype: compute type; parameters are float32.
        scan: one scanned stack of blocks instead of separate ones.
        remat: "none", "dots" or "full"; see `run_blocks`.
        attention: backend; see `weavejax.ops.attention`.
    """

    image_size: int
    patch: int
    width: int
    layers: int
    heads: int
    mlp: int
    pooling: str = "class"
    projection: int = 0
    activation: str = "quick_gelu"
    epsilon: float = 1e-5
    drop_path: float = 0.0
    dtype: str = "float32"
    scan: bool = False
    remat: str = "none"
    attention: str = "xla"

    def __post_init__(self) -> None:
        if self.pooling not in ("class", "attention"):
            raise ValueError(f"pooling {self.pooling!r} is neither 'class' nor 'attention'")
        if self.pooling == "attention" and self.projection:
            raise ValueError("SigLIP's pooling has no projection after it")

    @property
    def patches(self) -> int:
        """Patches per image."""
        return (self.image_size // self.patch) ** 2


CLIP_B32_VISION = ClipVisionConfig(
    image_size=224, patch=32, width=768, layers=12, heads=12, mlp=3072, projection=512
)
CLIP_L14_VISION = ClipVisionConfig(
    image_size=224, patch=14, width=1024, layers=24, heads=16, mlp=4096, projection=768
)
SIGLIP_B16_VISION = ClipVisionConfig(
    image_size=224,
    patch=16,
    width=768,
    layers=12,
    heads=12,
    mlp=3072,
    pooling="attention",
    activation="gelu_pytorch_tanh",
    epsilon=1e-6,
)
SIGLIP_SO400M_VISION = replace(
    SIGLIP_B16_VISION, image_size=384, patch=14, width=1152, layers=27, heads=16, mlp=4304
)


def rules(config: ClipVisionConfig) -> tuple[Rule, ...]:
    """Sharding table, first match wins; specs are written from the right."""
    first = r"^class_token$" if config.pooling == "class" else r"^pool/probe$"
    table: tuple[Rule, ...] = (
        (first, ()),
        (r"^position$", ("data",)),
        (r"^patch/kernel$", ("data",)),
        *BLOCK_RULES,
    )
    return (*table, (r"^projection/kernel$", ("data", None))) if config.projection else table


class ClipVision(nn.Module):
    """Images to tokens."""

    config: ClipVisionConfig

    @nn.compact
    def __call__(self, images: jax.Array, *, deterministic: bool, joint: bool = False) -> jax.Array:
        """Encode images.

        Args:
            images: ``[N, H, W, 3]``, already normalised.
            deterministic: True switches stochastic depth off; False needs a "dropout" key.
            joint: return the picture's embedding in the space shared with text instead of tokens.

        Returns:
            ``[N, 1 + P, width]`` after the last norm: first the picture's pooled token (the class
            token, or what SigLIP's probe gathers), then the patches row by row. With ``joint``,
            ``[N, projection]`` (SigLIP: the pooled token itself), not normalised.
        """
        c = self.config
        dtype = jnp.dtype(c.dtype)
        if images.shape[1:] != (c.image_size, c.image_size, 3):
            raise ValueError(
                f"this tower takes images [N, {c.image_size}, {c.image_size}, 3], "
                f"got {images.shape}"
            )
        by_class = c.pooling == "class"
        if joint and by_class and not c.projection:
            raise ValueError("joint embeddings need a CLIP tower with a projection")
        whole = c.image_size // c.patch * c.patch
        embed = PatchEmbed(c.width, c.patch, dtype, use_bias=not by_class, name="patch")
        x = embed(images[:, :whole, :whole])
        if by_class:
            first = self.param("class_token", trunc_normal, (1, 1, c.width)).astype(dtype)
            x = jnp.concatenate([jnp.broadcast_to(first, (len(x), 1, c.width)), x], axis=1)
        x = x + self.param("position", trunc_normal, (1, c.patches + by_class, c.width)).astype(
            dtype
        )
        if by_class:
            x = LayerNorm(c.epsilon, dtype, name="pre_norm")(x)
        x = run_blocks(
            PreNormBlock,
            x,
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
        if not by_class:
            x = jnp.concatenate([AttentionPool(c, name="pool")(x), x], axis=1)
        if joint or self.is_initializing():
            embedding = x[:, 0]
            if c.projection:
                project = nn.Dense(
                    c.projection,
                    use_bias=False,
                    dtype=dtype,
                    kernel_init=trunc_normal,
                    name="projection",
                )
                embedding = project(embedding)
        return embedding if joint else x


class AttentionPool(nn.Module):
    """SigLIP's pooling: a learned probe attends to all tokens, then one residual MLP."""

    config: ClipVisionConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[N, P, width]`` → ``[N, 1, width]``."""
        c = self.config
        dtype = jnp.dtype(c.dtype)
        probe = self.param("probe", trunc_normal, (1, 1, c.width)).astype(dtype)
        attend = MultiHeadAttention(c.width, c.heads, dtype, backend=c.attention, name="attention")
        y = attend(jnp.broadcast_to(probe, (len(x), 1, c.width)), x)
        mlp = Mlp(c.mlp, c.width, dtype, activation=c.activation, name="mlp")
        return y + mlp(LayerNorm(c.epsilon, dtype, name="norm")(y))


def from_torch(state: Mapping[str, np.ndarray], config: ClipVisionConfig) -> dict[str, Any]:
    """Parameters from the vision tower of a CLIP or SigLIP state dict.

    Args:
        state: keys as in transformers' ``CLIPModel`` and ``SiglipModel``, the prefix
            ``vision_model.`` stripped; CLIP's ``visual_projection.weight`` as it is.
        config: sizes; ``projection`` must be the width of the projection, or 0 if that is absent.

    Raises:
        UserError: naming every unused, missing or mis-shaped key.
    """
    plain = replace(config, scan=False)
    images = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, 3), jnp.float32)
    return convert(
        state,
        _table(config),
        shapes=shapes_of(partial(ClipVision(plain).init, deterministic=True), images),
        model="CLIP's vision tower" if config.pooling == "class" else "SigLIP's vision tower",
        scan=config.scan,
        ignore=frozenset({"embeddings.position_ids"}),  # a buffer: 0, 1, 2, ...
    )


def _table(config: ClipVisionConfig) -> Table:
    table: Table = {
        "patch/kernel": Source("embeddings.patch_embedding.weight", CONV_2D),
        "position": Source("embeddings.position_embedding.weight", _lead(1)),
        **norm("norm", "post_layernorm"),
        **block_table(config.layers),
    }
    if config.projection:
        table["projection/kernel"] = Source("visual_projection.weight", TRANSPOSED)
    if config.pooling == "class":
        return table | {
            "class_token": Source("embeddings.class_embedding", _lead(2)),
            **norm("pre_norm", "pre_layrnorm"),
        }
    for part, name in enumerate(("query", "key", "value")):
        third = partial(Source, part=part, parts=3)
        path = f"pool/attention/{name}"
        table[f"{path}/kernel"] = third("head.attention.in_proj_weight", TRANSPOSED)
        table[f"{path}/bias"] = third("head.attention.in_proj_bias")
    return table | {
        "patch/bias": Source("embeddings.patch_embedding.bias"),
        "pool/probe": Source("head.probe"),
        **dense("pool/attention/output", "head.attention.out_proj"),
        **norm("pool/norm", "head.layernorm"),
        **dense("pool/mlp/fc1", "head.mlp.fc1"),
        **dense("pool/mlp/fc2", "head.mlp.fc2"),
    }


def block_table(layers: int) -> Table:
    """Names of the blocks that CLIP's and SigLIP's towers, vision and text, share."""
    table: Table = {}
    for i in range(layers):
        path, key = f"blocks_{i}", f"encoder.layers.{i}"
        for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v"), ("output", "out")):
            table |= dense(f"{path}/attention/{ours}", f"{key}.self_attn.{theirs}_proj")
        table |= {
            **dense(f"{path}/mlp/fc1", f"{key}.mlp.fc1"),
            **dense(f"{path}/mlp/fc2", f"{key}.mlp.fc2"),
            **norm(f"{path}/norm1", f"{key}.layer_norm1"),
            **norm(f"{path}/norm2", f"{key}.layer_norm2"),
        }
    return table


def _lead(axes: int) -> Layout:
    """Adds leading axes of length one."""
    return Layout(lambda x: x[(None,) * axes], lambda x: x[(0,) * axes])
