"""Which encoder stands in a tower: `config.model.{vision,audio,text}.kind`.

The rest of that section are the fields of the encoder's own config (`weavejax/models/`). All kinds
keep one contract, `Tower`, so that a system does not know them apart.
"""

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from weavejax.errors import UserError
from weavejax.models import bert, clip_text, clip_vision, htsat, spectrogram, vit
from weavejax.ops.transformer import Rule

# On [0, 1] RGB: CLIP's image statistics (Radford et al. 2021), and SigLIP's.
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)
ROBERTA_PAD = 1


@dataclass(frozen=True)
class Tower:
    """One encoder, as a system uses it.

    Attributes:
        network: linen module; what `prepare` gives → tokens ``[N, L, width]``.
        rules: its sharding table.
        width: of its tokens.
        prepare: pictures, chunks or texts as they stand in a batch, ``[N, ...]`` → the network's
            inputs; the last one of a text's is its mask.
        pool: (tokens, *inputs) → ``[N, width]``, the published summary of them.
        flops: of the forward pass of one input; a text's by its length, else the argument has no
            meaning. Multiply-adds counted twice, attention included.
    """

    network: nn.Module
    rules: tuple[Rule, ...]
    width: int
    prepare: Callable[[Array], tuple[Array, ...]]
    pool: Callable[..., Array]
    flops: Callable[[int], float]


def _eva(section: Any, inputs: Any) -> Tower:
    config = configured(vit.ViTConfig, section, image_size=inputs.size)
    return Tower(
        vit.ViT(config),
        vit.rules(config),
        config.width,
        lambda images: (normalise_images(images),),
        _first,
        lambda _: _blocks(config, config.patches + 1) + _patches(config),
    )


def _clip_vision(section: Any, inputs: Any, *, siglip: bool) -> Tower:
    pooling = "attention" if siglip else "class"
    config = configured(
        clip_vision.ClipVisionConfig, section, image_size=inputs.size, pooling=pooling
    )
    tokens = config.patches + (not siglip)
    gathering = _gathering(config, tokens) if siglip else 0.0
    statistics = (HALF, HALF) if siglip else (IMAGE_MEAN, IMAGE_STD)
    return Tower(
        clip_vision.ClipVision(config),
        clip_vision.rules(config),
        config.width,
        lambda images: (normalise_images(images, *statistics),),
        _first,
        lambda _: _blocks(config, tokens) + _patches(config) + gathering,
    )


def _beats(section: Any, inputs: Any) -> Tower:
    config = configured(
        spectrogram.SpectrogramConfig, section, frames=inputs.audio_frames, mels=inputs.mels
    )
    tokens = (config.frames // config.patch) * (config.mels // config.patch)
    return Tower(
        spectrogram.SpectrogramTransformer(config),
        spectrogram.rules(config),
        config.width,
        lambda chunks: (chunks,),
        _mean,
        lambda _: _blocks(config, tokens) + 2.0 * tokens * config.patch**2 * config.patch_width,
    )


def _htsat(section: Any, inputs: Any) -> Tower:
    config = configured(htsat.HtsatConfig, section, frames=inputs.audio_frames, mels=inputs.mels)
    return Tower(
        htsat.Htsat(config),
        htsat.rules(config),
        config.out_width,
        lambda chunks: (chunks,),
        _mean,
        lambda _: htsat.flops(config),
    )


def _bert(section: Any, inputs: Any, *, pad: int = 0, position_offset: int = 0) -> Tower:
    del inputs
    config = configured(bert.BertConfig, section, position_offset=position_offset)
    return Tower(
        bert.Bert(config),
        bert.rules(config),
        config.width,
        lambda tokens: (tokens, tokens != pad),
        _first,
        partial(_blocks, config),
    )


def _clip_text(section: Any, inputs: Any) -> Tower:
    del inputs
    config = configured(clip_text.ClipTextConfig, section, causal=True)

    def prepare(tokens: Array) -> tuple[Array, Array]:
        # CLIP pads with the token that ends a text: only the first of them belongs to it.
        end = clip_text.sentence_position(tokens, config)
        return tokens, jnp.arange(tokens.shape[1])[None] <= end[:, None]

    return Tower(
        clip_text.ClipText(config),
        clip_text.rules(config),
        config.width,
        prepare,
        lambda x, tokens, _: clip_text.sentence_token(x, tokens, config),
        partial(_blocks, config),
    )


# The first of each is what a config means that names no kind.
KINDS: dict[str, dict[str, Callable[[Any, Any], Tower]]] = {
    "vision": {
        "eva": _eva,
        "clip": partial(_clip_vision, siglip=False),
        "siglip": partial(_clip_vision, siglip=True),
    },
    "audio": {"beats": _beats, "htsat": _htsat},
    "text": {
        "bert": _bert,
        "roberta": partial(_bert, pad=ROBERTA_PAD, position_offset=ROBERTA_PAD + 1),
        "clip": _clip_text,
    },
}


def make_tower(part: str, config: Any) -> Tower:
    """The tower `part` of a config: `config.model[part]`, and the shapes of `config.inputs`.

    Raises:
        UserError: unknown kind, fields that its encoder does not have, or that do not fit.
    """
    section, kinds = config.model[part], KINDS[part]
    kind = section.get("kind", next(iter(kinds)))
    if kind not in kinds:
        raise UserError(f"model.{part}.kind {kind!r} is none of {', '.join(kinds)}")
    try:
        return kinds[kind](section, config.inputs)
    except ValueError as error:
        raise UserError(f"model.{part} ({kind}): {error}") from error


def configured(kind: Any, section: Any, **given: Any) -> Any:
    """An encoder's config from a section and what is given besides; ValueError says what is off."""
    wanted = {name: value for name, value in section.items() if name != "kind"}
    known = {field.name: field.default is MISSING for field in fields(kind)}
    unknown = sorted(wanted.keys() - (known.keys() - given.keys()))
    missing = sorted(
        name for name, needed in known.items() if needed and name not in {**wanted, **given}
    )
    if unknown or missing:
        parts = (("unknown", unknown), ("missing", missing))
        raise ValueError("; ".join(f"{what} {', '.join(n)}" for what, n in parts if n))
    return kind(**wanted, **given)


def _first(tokens: Array, *_: Array) -> Array:
    return tokens[:, 0]


def _mean(tokens: Array, *_: Array) -> Array:
    return tokens.mean(1)


def _blocks(config: Any, tokens: int) -> float:
    projections = 4 * config.width**2 + 2 * config.width * config.mlp
    return 2.0 * config.layers * tokens * (projections + 2 * tokens * config.width)


def _gathering(config: Any, tokens: int) -> float:
    """Of SigLIP's pooling: one query looks at all tokens, then an MLP."""
    return 4.0 * config.width * ((tokens + 1) * config.width + tokens + config.mlp)


def _patches(config: Any) -> float:
    return 2.0 * config.patches * config.patch**2 * 3 * config.width


def normalise_images(
    frames: Array,
    mean: tuple[float, float, float] = IMAGE_MEAN,
    std: tuple[float, float, float] = IMAGE_STD,
) -> Array:
    """uint8 RGB → float32 with an image tower's statistics, by default CLIP's."""
    row = (1,) * (frames.ndim - 1) + (3,)
    scaled = frames.astype(jnp.float32) / 255.0
    return (scaled - jnp.asarray(mean).reshape(row)) / jnp.asarray(std).reshape(row)
