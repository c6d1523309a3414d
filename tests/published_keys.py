"""Every key of the published GRAM checkpoints with its shape, written from their description.

Written out on purpose without the name tables under test.
"""

import re
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from weavejax.testing import tiny_gram


class Sizes(NamedTuple):
    """Of a GRAM checkpoint; the defaults are the published ones."""

    vision: int = 1408
    vision_layers: int = 40
    vision_mlp: int = 6144
    patch: int = 14
    grid: int = 16
    head: int = 1024
    dead: int = 768
    dead_vocab: int = 49408
    width: int = 768
    layers: int = 12
    mlp: int = 3072
    patch_width: int = 512
    heads: int = 12
    head_width: int = 64
    buckets: int = 320
    kernel: int = 128
    group: int = 48
    vocab: int = 30522
    positions: int = 512
    dim: int = 512
    frames: int = 2
    chunks: int = 1
    depth: bool = False


SMALL = Sizes(vision=24, vision_layers=2, vision_mlp=40, patch=4, grid=4, head=8, dead=6)._replace(
    dead_vocab=9, width=16, layers=2, mlp=24, patch_width=8, heads=4, head_width=4, buckets=8
)
SMALL = SMALL._replace(kernel=4, group=8, vocab=64, positions=16, dim=16)

Shapes = dict[str, tuple[int, ...]]


def both(key: str, *weight: int) -> Shapes:
    """A weight and its bias."""
    return {f"{key}.weight": weight, f"{key}.bias": weight[:1]}


def vision(s: Sizes) -> Shapes:
    """EVA-CLIP's image tower."""
    width, prefix = s.vision, "vision_encoder.visual."
    found: Shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, s.grid**2 + 1, width),
        **both("patch_embed.proj", width, 3, s.patch, s.patch),
        **both("norm", width),
        **both("head", s.head, width),
    }
    for i in range(s.vision_layers):
        block = f"blocks.{i}"
        found |= both(f"{block}.norm1", width) | both(f"{block}.norm2", width)
        found |= {
            f"{block}.attn.qkv.weight": (3 * width, width),
            f"{block}.attn.q_bias": (width,),
            f"{block}.attn.v_bias": (width,),
            **both(f"{block}.attn.proj", width, width),
            **both(f"{block}.mlp.fc1", s.vision_mlp, width),
            **both(f"{block}.mlp.fc2", width, s.vision_mlp),
        }
    return {prefix + key: shape for key, shape in found.items()}


def dead(s: Sizes) -> Shapes:
    """EVA-CLIP's text tower, which nothing uses: 12 layers at any size."""
    width, prefix = s.dead, "vision_encoder.text."
    found: Shapes = {
        "positional_embedding": (77, width),
        "text_projection": (width, s.head),
        "token_embedding.weight": (s.dead_vocab, width),
        **both("ln_final", width),
    }
    for i in range(12):
        block = f"transformer.resblocks.{i}"
        found |= both(f"{block}.ln_1", width) | both(f"{block}.ln_2", width)
        found |= {
            f"{block}.attn.in_proj_weight": (3 * width, width),
            f"{block}.attn.in_proj_bias": (3 * width,),
            **both(f"{block}.attn.out_proj", width, width),
            **both(f"{block}.mlp.c_fc", 4 * width, width),
            **both(f"{block}.mlp.c_proj", width, 4 * width),
        }
    return {prefix + key: shape for key, shape in found.items()}


def audio(s: Sizes) -> Shapes:
    """BEATs."""
    width = s.width
    found: Shapes = {
        "patch_embedding.weight": (s.patch_width, 1, 16, 16),
        **both("layer_norm", s.patch_width),
        **both("post_extract_proj", width, s.patch_width),
        "encoder.pos_conv.0.weight_g": (1, 1, s.kernel),
        "encoder.pos_conv.0.weight_v": (width, s.group, s.kernel),
        "encoder.pos_conv.0.bias": (width,),
        **both("encoder.layer_norm", width),
    }
    for i in range(s.layers):
        layer = f"encoder.layers.{i}"
        for name in "qkv":
            found |= both(f"{layer}.self_attn.{name}_proj", width, width)
        found |= both(f"{layer}.self_attn.out_proj", width, width)
        found |= {
            f"{layer}.self_attn.relative_attention_bias.weight": (s.buckets, s.heads),
            **both(f"{layer}.self_attn.grep_linear", 8, s.head_width),
            f"{layer}.self_attn.grep_a": (1, s.heads, 1, 1),
            **both(f"{layer}.self_attn_layer_norm", width),
            **both(f"{layer}.final_layer_norm", width),
            **both(f"{layer}.fc1", s.mlp, width),
            **both(f"{layer}.fc2", width, s.mlp),
        }
    return {f"audio_encoder.{key}": shape for key, shape in found.items()}


def bert(s: Sizes) -> Shapes:
    """The text and fusion encoder with its captioning head."""
    width = s.width
    found: Shapes = {
        "bert.embeddings.position_ids": (1, s.positions),
        "bert.embeddings.word_embeddings.weight": (s.vocab, width),
        "bert.embeddings.position_embeddings.weight": (s.positions, width),
        "bert.embeddings.token_type_embeddings.weight": (2, width),
        **both("bert.embeddings.LayerNorm", width),
        "cls.predictions.bias": (s.vocab,),
        **both("cls.predictions.transform.dense", width, width),
        **both("cls.predictions.transform.LayerNorm", width),
        **both("cls.predictions.decoder", s.vocab, width),
    }
    for i in range(s.layers):
        layer = f"bert.encoder.layer.{i}"
        for attention in ("attention", "crossattention"):
            for name in ("self.query", "self.key", "self.value", "output.dense"):
                found |= both(f"{layer}.{attention}.{name}", width, width)
            found |= both(f"{layer}.{attention}.output.LayerNorm", width)
        found |= both(f"{layer}.intermediate.dense", s.mlp, width)
        found |= both(f"{layer}.output.dense", width, s.mlp)
        found |= both(f"{layer}.output.LayerNorm", width)
    return {f"multimodal_encoder.{key}": shape for key, shape in found.items()}


def gram(s: Sizes) -> Shapes:
    """A whole checkpoint."""
    towers = {"vision": s.vision, "audio": s.width, "subtitle": s.width}
    found: Shapes = {
        "vision_encoder.logit_scale": (),
        "contra_temp": (),
        **{f"contra_head_{x}.linear.weight": (s.dim, s.width) for x in "tsa"},
        "contra_head_v.linear.weight": (s.dim, s.vision),
        **both("contra_head_va", s.dim, s.vision + s.width),
        **both("contra_head_vs", s.dim, s.vision + s.width),
        **both("contra_head_vas", s.dim, s.vision + 2 * s.width),
        **both("itm_head.linear1", s.width, s.width),
        **both("itm_head.layernorm", s.width),
        **both("itm_head.linear2", 2, s.width),
        "vision_frame_embedding": (1, s.frames, s.width),
        "audio_frame_embedding": (1, s.chunks, s.width),
    }
    if s.depth:
        found["contra_head_d.linear.weight"] = (s.dim, s.vision)
    for name, width in towers.items():
        found |= both(f"hidden_trans_{name}_multimodal.0", s.width, width)
        found |= both(f"hidden_trans_{name}_multimodal.1", s.width)
        found[f"{name}_type_embeddings"] = (1, 1, s.width)
    return found | vision(s) | dead(s) | audio(s) | bert(s)


def numbers(shapes: Shapes, seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """Random arrays; tensors that the published files hold several times are the same."""
    random = np.random.default_rng(seed)
    state = {k: random.standard_normal(x).astype(np.float32) for k, x in shapes.items()}
    for key in state:
        if key.endswith("relative_attention_bias.weight"):
            state[key] = state[re.sub(r"layers\.\d+", "layers.0", key)]
        elif key.endswith("position_ids"):
            state[key] = np.arange(shapes[key][1])[None]
    tied = "multimodal_encoder.cls.predictions.decoder.weight"
    if tied in state:
        state[tied] = state["multimodal_encoder.bert.embeddings.word_embeddings.weight"]
    return state


def small_gram(**changes: Any) -> ConfigDict:
    """A config whose model has the sizes of `SMALL`, its blocks scanned."""
    s, config = SMALL, tiny_gram(**changes)
    config.inputs.update({"size": 16, "subtitle_length": 6})
    config.model.update({"dim": s.dim, "fusion": True})
    shared = {"heads": s.heads, "scan": True}
    vision = {"patch": s.patch, "width": s.vision, "layers": s.vision_layers, "head": s.head}
    config.model.vision.update({**vision, "mlp": s.vision_mlp, **shared})
    both = {"width": s.width, "layers": s.layers, "mlp": s.mlp, **shared}
    audio = {"patch_width": s.patch_width, "pos_kernel": s.kernel, "buckets": s.buckets}
    config.model.audio.update({**audio, "pos_groups": s.width // s.group, **both})
    text = {"vocab": s.vocab, "cross_attention": True, "cond_width": s.width}
    config.model.text.update(text | both)
    return config
