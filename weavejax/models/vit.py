"""Vision transformer, the image tower of EVA-CLIP.

Source: Fang et al., EVA (arXiv 2211.07636), and Sun et al., EVA-CLIP (arXiv 2303.15389); the code
published as ``eva_vit_model.py``. Pre-norm blocks, learned absolute positions, query and value
biases but no key bias, exact GELU, no layer scale.
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
from weavejax.ops.transformer import (
    BLOCK_RULES,
    LayerNorm,
    PatchEmbed,
    PreNormBlock,
    Rule,
    run_blocks,
    trunc_normal,
)

EPSILON = 1e-6


@dataclass(frozen=True)
class ViTConfig:
    """Sizes and switches of a `ViT`.

    Attributes:
        image_size: height and width in pixels, a multiple of ``patch``.
        patch: side of a patch in pixels.
        width: token width.
        layers: number of blocks.
        heads: attention heads.
        mlp: hidden width of the MLPs.
        drop_path: stochastic depth of the last block; it rises linearly from 0 in the first.
        head: width of the published output projection; its parameters are held, not applied.
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
    drop_path: float = 0.0
    head: int = 0
    dtype: str = "float32"
    scan: bool = False
    remat: str = "none"
    attention: str = "xla"

    @property
    def patches(self) -> int:
        """Patches per image."""
        return (self.image_size // self.patch) ** 2


EVA_CLIP_G = ViTConfig(
    image_size=224,
    patch=14,
    width=1408,
    layers=40,
    heads=16,
    mlp=6144,
    drop_path=0.4,
    head=1024,
)


def rules(config: ViTConfig) -> tuple[Rule, ...]:
    """Sharding table, first match wins; specs are written from the right."""
    table: tuple[Rule, ...] = (
        (r"^class_token$", ()),
        (r"^position$", ("data",)),
        (r"^patch/kernel$", ("data",)),
        *BLOCK_RULES,
    )
    return (*table, (r"^head/kernel$", ("data", "model"))) if config.head else table


class ViT(nn.Module):
    """Images to tokens."""

    config: ViTConfig

    @nn.compact
    def __call__(self, images: jax.Array, *, deterministic: bool) -> jax.Array:
        """Encode images.

        Args:
            images: ``[N, H, W, 3]``, already normalised.
            deterministic: True switches stochastic depth off; False needs a "dropout" key.

        Returns:
            ``[N, 1 + P, width]``, class token first, patches row by row, after the last norm.
        """
        c = self.config
        dtype = jnp.dtype(c.dtype)
        if images.shape[1:] != (c.image_size, c.image_size, 3):
            raise ValueError(
                f"this ViT takes images [N, {c.image_size}, {c.image_size}, 3], got {images.shape}"
            )
        x = PatchEmbed(c.width, c.patch, dtype, name="patch")(images)
        first = self.param("class_token", trunc_normal, (1, 1, c.width)).astype(dtype)
        x = jnp.concatenate([jnp.broadcast_to(first, (len(x), 1, c.width)), x], axis=1)
        position = self.param("position", trunc_normal, (1, 1 + c.patches, c.width))
        x = run_blocks(
            PreNormBlock,
            x + position.astype(dtype),
            layers=c.layers,
            scan=c.scan,
            remat=c.remat,
            width=c.width,
            heads=c.heads,
            mlp=c.mlp,
            epsilon=EPSILON,
            dtype=dtype,
            drop_rise=c.drop_path / max(c.layers - 1, 1),
            key_bias=False,
            attention=c.attention,
            deterministic=deterministic,
        )
        x = LayerNorm(EPSILON, dtype, name="norm")(x)
        if c.head and self.is_initializing():
            nn.Dense(c.head, dtype=dtype, kernel_init=trunc_normal, name="head")(x)
        return x


def from_torch(state: Mapping[str, np.ndarray], config: ViTConfig) -> dict[str, Any]:
    """Parameters from the published image tower's state dict.

    Args:
        state: keys as in EVA-CLIP, timm and GRAM's ``vision_encoder.visual.*``, prefix stripped.
        config: sizes; ``head`` must be the width of ``head.weight``, or 0 if that is absent.

    Raises:
        UserError: naming every unused, missing or mis-shaped key.
    """
    return convert(state, table(config), shapes=shapes(config), model="ViT", scan=config.scan)


def to_torch(params: Mapping[str, Any], config: ViTConfig) -> dict[str, np.ndarray]:
    """The inverse of `from_torch`."""
    return invert(params, table(config))


def shapes(config: ViTConfig) -> Shapes:
    """Shape of every leaf, with separate blocks."""
    images = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, 3), jnp.float32)
    init = partial(ViT(replace(config, scan=True)).init, deterministic=True)
    return shapes_of(init, images, layers=config.layers)


def sizes(state: Arrays) -> ViTConfig:
    """The sizes that a published state dict has; ``heads`` is 1, which no array tells.

    Raises:
        KeyError: an array that tells them is missing.
    """
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    return ViTConfig(
        image_size=patch * math.isqrt(state["pos_embed"].shape[1] - 1),
        patch=patch,
        width=width,
        layers=count_layers(state, "blocks."),
        heads=1,
        mlp=state["blocks.0.mlp.fc1.weight"].shape[0],
        head=state["head.weight"].shape[0] if "head.weight" in state else 0,
    )


def resize_position(stored: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A position embedding ``[1, 1 + P, width]`` for another number of patches, bilinearly.

    As EVA-CLIP and GRAM do on loading: the class token's row is kept, the square of the patches'
    is resized without antialiasing.
    """
    old, new = (math.isqrt(size - 1) for size in (stored.shape[1], shape[1]))
    if (old * old, new * new) != (stored.shape[1] - 1, shape[1] - 1):
        raise ValueError(f"positions {stored.shape} and {shape} are not of squares of patches")
    square = stored[:, 1:].reshape(1, old, old, -1).astype(np.float32)
    resized = jax.image.resize(square, (1, new, new, square.shape[-1]), "bilinear", antialias=False)
    rows = np.asarray(resized).reshape(1, new * new, -1)
    return np.concatenate([stored[:, :1].astype(np.float32), rows], axis=1)


def table(config: ViTConfig) -> Table:
    """Where each leaf comes from, with separate blocks."""
    found: Table = {
        "class_token": Source("cls_token"),
        "position": Source("pos_embed"),
        "patch/kernel": Source("patch_embed.proj.weight", CONV_2D),
        "patch/bias": Source("patch_embed.proj.bias"),
        **norm("norm", "norm"),
    }
    if config.head:
        found |= dense("head", "head")
    for i in range(config.layers):
        path, key = f"blocks_{i}", f"blocks.{i}"
        for part, name in enumerate(("query", "key", "value")):
            found[f"{path}/attention/{name}/kernel"] = Source(
                f"{key}.attn.qkv.weight", TRANSPOSED, part=part, parts=3
            )
        found |= {
            f"{path}/attention/query/bias": Source(f"{key}.attn.q_bias"),
            f"{path}/attention/value/bias": Source(f"{key}.attn.v_bias"),
            **dense(f"{path}/attention/output", f"{key}.attn.proj"),
            **dense(f"{path}/mlp/fc1", f"{key}.mlp.fc1"),
            **dense(f"{path}/mlp/fc2", f"{key}.mlp.fc2"),
            **norm(f"{path}/norm1", f"{key}.norm1"),
            **norm(f"{path}/norm2", f"{key}.norm2"),
        }
    return found
