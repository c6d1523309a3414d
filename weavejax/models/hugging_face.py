"""CLIP, SigLIP and CLAP as Hugging Face keeps them: which file it is, its sizes, its parameters.

A directory there holds `model.safetensors` (keys as in transformers' ``CLIPModel``, ``SiglipModel``
and ``ClapModel``) and `config.json`, which leaves out what equals the base model. The parameters
come out by tower: ``vision``, ``audio``, ``text``. Half of a model is read as well.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from weavejax.errors import UserError
from weavejax.models import bert, clip_text, clip_vision, htsat

Arrays = Mapping[str, np.ndarray]

# Names of `config.json` → ours.
TRANSFORMER = {
    "hidden_size": "width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "mlp",
    "layer_norm_eps": "epsilon",
}
PICTURES = {"image_size": "image_size", "patch_size": "patch", "hidden_act": "activation"}
TOKENS = {"vocab_size": "vocab", "max_position_embeddings": "positions"}
SOUND = {
    "num_mel_bins": "mels",
    "spec_size": "side",
    "patch_size": "patch",
    "window_size": "window",
    "patch_embeds_hidden_size": "width",
    "depths": "depths",
    "num_attention_heads": "heads",
    "enable_fusion": "fusion",
    "aff_block_r": "fusion_ratio",
}


class Part(NamedTuple):
    """One tower of a published model.

    Attributes:
        section: of `config.json` with its sizes.
        prefix: of its keys.
        projection: prefix of the keys of its projection; "" when they stand among its own.
        base: the config that `config.json` states differences to.
        names: of `config.json` → fields of that config.
        fixed: what `config.json` must say, where it says something.
        from_torch: (state dict, config) → parameters.
        kind: of the tower, as in a system's config; "" of one that systems do not have.
    """

    section: str
    prefix: str
    projection: str
    base: Any
    names: Mapping[str, str]
    fixed: Mapping[str, tuple[Any, ...]]
    from_torch: Callable[[Arrays, Any], dict[str, Any]]
    kind: str


@dataclass(frozen=True)
class Format:
    """A published layout.

    Attributes:
        about: what it is, in a few words.
        marks: keys of which no other format has any.
        parts: the towers by name.
        kept: keys that belong to no tower: temperatures and the like.
    """

    about: str
    marks: tuple[str, ...]
    parts: Mapping[str, Part]
    kept: tuple[str, ...]


class Coverage(NamedTuple):
    """What became of every key.

    Attributes:
        used: keys that are parameters here, or are computed into them, by tower.
        buffers: keys of what follows from the sizes.
        kept: keys that belong to the model and to no tower.
    """

    used: dict[str, tuple[str, ...]]
    buffers: tuple[str, ...]
    kept: tuple[str, ...]


BUFFERS = (".position_ids", ".token_type_ids", ".relative_position_index", ".num_batches_tracked")
FORMATS = {
    "clip": Format(
        about="a CLIP model (transformers' layout)",
        marks=("vision_model.pre_layrnorm.weight", "text_projection.weight"),
        parts={
            "vision": Part(
                "vision_config",
                "vision_model.",
                "visual_projection.",
                clip_vision.CLIP_B32_VISION,
                {**TRANSFORMER, **PICTURES, "projection_dim": "projection"},
                {"num_channels": (3,)},
                clip_vision.from_torch,
                "clip",
            ),
            "text": Part(
                "text_config",
                "text_model.",
                "text_projection.",
                clip_text.CLIP_B32_TEXT,
                {
                    **TRANSFORMER,
                    **TOKENS,
                    "hidden_act": "activation",
                    "projection_dim": "projection",
                    "eos_token_id": "end",
                },
                {},
                clip_text.from_torch,
                "clip",
            ),
        },
        kept=("logit_scale",),
    ),
    "siglip": Format(
        about="a SigLIP model (transformers' layout)",
        marks=("vision_model.head.probe", "text_model.head.weight"),
        parts={
            "vision": Part(
                "vision_config",
                "vision_model.",
                "",
                clip_vision.SIGLIP_B16_VISION,
                {**TRANSFORMER, **PICTURES},
                {"num_channels": (3,), "vision_use_head": (True,)},
                clip_vision.from_torch,
                "siglip",
            ),
            "text": Part(
                "text_config",
                "text_model.",
                "",
                clip_text.SIGLIP_B16_TEXT,
                {
                    **TRANSFORMER,
                    **TOKENS,
                    "hidden_act": "activation",
                    "projection_size": "projection",
                },
                {},
                clip_text.from_torch,
                "",
            ),
        },
        kept=("logit_scale", "logit_bias"),
    ),
    "clap": Format(
        about="a LAION-CLAP model (transformers' layout)",
        marks=(
            "audio_model.audio_encoder.patch_embed.proj.weight",
            "text_projection.linear1.weight",
        ),
        parts={
            "audio": Part(
                "audio_config",
                "audio_model.audio_encoder.",
                "audio_projection.",
                htsat.CLAP_HTSAT,
                {**SOUND, "projection_dim": "projection"},
                {
                    "hidden_act": ("gelu",),
                    "projection_hidden_act": ("relu",),
                    "mlp_ratio": (htsat.MLP_RATIO,),
                    "qkv_bias": (True,),
                    "enable_patch_layer_norm": (True,),
                    "patch_embed_input_channels": (1,),
                    "layer_norm_eps": (htsat.EPSILON,),
                    "fusion_type": (None, "aff_2d"),
                },
                htsat.from_torch,
                "htsat",
            ),
            "text": Part(
                "text_config",
                "text_model.",
                "text_projection.",
                bert.CLAP_TEXT,
                {
                    **TRANSFORMER,
                    **TOKENS,
                    "type_vocab_size": "types",
                    "projection_dim": "projection",
                },
                {"hidden_act": ("gelu",), "projection_hidden_act": ("relu",), "pad_token_id": (1,)},
                bert.from_torch,
                "roberta",
            ),
        },
        kept=("logit_scale_a", "logit_scale_t"),
    ),
}


def detect(keys: Mapping[str, Any]) -> str | None:
    """The name of the format that a file with these keys has; None when it has none."""
    found = [name for name, kind in FORMATS.items() if any(mark in keys for mark in kind.marks)]
    return found[0] if len(found) == 1 else None


def sizes(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The encoders' configs by tower, from the content of `config.json`.

    Args:
        name: of the format.
        config: a whole model's, or that of a half (then only that tower's sizes mean something).

    Raises:
        UserError: it states what no encoder here can be.
    """
    found: dict[str, Any] = {}
    for tower, part in FORMATS[name].parts.items():
        section = config.get(part.section)
        given = dict(config if section is None else section)
        if "projection_dim" in config:  # the whole model's holds
            given["projection_dim"] = config["projection_dim"]
        odd = [
            key for key, allowed in part.fixed.items() if given.get(key, allowed[0]) not in allowed
        ]
        if part.section == "audio_config" and not _square(given):
            odd.append("patch_stride")
        if odd:
            said = ", ".join(f"{key} {given[key]!r}" for key in odd)
            raise UserError(f"{FORMATS[name].about}: no {tower} tower here can have {said}")
        given.setdefault("projection_size", given.get("hidden_size", part.base.width))
        if given.get("eos_token_id") == 2:
            # So say files from before transformers corrected it: the end is the last token.
            given["eos_token_id"] = given.get("vocab_size", part.base.vocab) - 1
        values = {ours: given[theirs] for theirs, ours in part.names.items() if theirs in given}
        try:
            found[tower] = replace(part.base, **values)
        except ValueError as error:
            raise UserError(f"{FORMATS[name].about}, {tower}: {error}") from error
    return found


def _square(given: Mapping[str, Any]) -> bool:
    """Whether patches neither overlap nor leave gaps."""
    patch = given.get("patch_size", htsat.CLAP_HTSAT.patch)
    return given.get("patch_stride", patch) in (patch, [patch, patch], (patch, patch))


def sections(name: str, config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a system's config says of these towers: `config.model.<tower>`, its kind included.

    The shapes that a system takes from its inputs (picture size, frames, mel bins) are left out.
    """
    given = {"image_size", "pooling", "frames", "mels", "causal", "position_offset"}
    return {
        tower: {
            "kind": FORMATS[name].parts[tower].kind,
            **{field: value for field, value in asdict(encoder).items() if field not in given},
        }
        for tower, encoder in sizes(name, config).items()
        if FORMATS[name].parts[tower].kind
    }


def convert(name: str, state: Arrays, config: Mapping[str, Any]) -> tuple[dict[str, Any], Coverage]:
    """Parameters by tower, float32 and with separate blocks, from a state dict.

    Args:
        name: of the format; see `detect`.
        state: keys → arrays, as in the file.
        config: the content of `config.json`.

    Raises:
        UserError: naming every key that is unused, missing or mis-shaped in the first tower that
            does not fit, or every key that belongs to no tower.
    """
    kind = FORMATS[name]
    keys: dict[str, list[str]] = {
        tower: [
            key for key in state if key.startswith((part.prefix, part.projection or part.prefix))
        ]
        for tower, part in kind.parts.items()
    }
    known = {key for found in keys.values() for key in found}
    strange = sorted(state.keys() - known - set(kind.kept))
    if strange or not known:
        raise UserError(f"{kind.about} has no place for {', '.join(strange) or 'nothing'}")
    encoders = sizes(name, config)
    params: dict[str, Any] = {}
    for tower, part in kind.parts.items():
        if not keys[tower]:
            continue
        encoder = encoders[tower]
        if part.projection and not any(key.startswith(part.projection) for key in keys[tower]):
            encoder = replace(encoder, projection=0)
        arrays = {key.removeprefix(part.prefix): state[key] for key in keys[tower]}
        params[tower] = part.from_torch(arrays, encoder)
    buffers = {key for key in known if key.endswith(BUFFERS)}
    used = {tower: tuple(k for k in found if k not in buffers) for tower, found in keys.items()}
    kept = tuple(key for key in kind.kept if key in state)
    return params, Coverage(used, tuple(sorted(buffers)), kept)
