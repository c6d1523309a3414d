"""Stable Audio Open's published files: its one file, and diffusers' four, as parameters here.

Source: ``model.safetensors`` of stable-audio-open-1.0 (stable-audio-tools' layout; T5 is not in it),
and the files of the folders ``transformer``, ``vae``, ``projection_model`` and ``text_encoder``.
"""

from functools import partial

from weavejax.models import number, oobleck, oobleck_names, stable_dit, stable_dit_names, t5
from weavejax.models.torch_names import Table
from weavejax.weights.published import Format, Part

TOOLS, DIFFUSERS = "stable-audio-tools", "diffusers"


def dit(key: str, layout: str) -> Part:
    """The diffusion transformer, its keys below ``key``."""
    return Part(
        "dit/",
        key,
        stable_dit.StableDitConfig,
        partial(stable_dit_names.sizes, layout=layout),
        partial(stable_dit_names.table, layout=layout),
        stable_dit.shapes,
    )


def autoencoder(key: str, layout: str) -> Part:
    """The autoencoder, its keys below ``key``."""
    return Part(
        "oobleck/",
        key,
        oobleck.OobleckConfig,
        partial(oobleck_names.sizes, layout=layout),
        partial(oobleck_names.table, layout=layout),
        oobleck.shapes,
    )


def seconds(name: str, key: str, layout: str) -> Part:
    """A conditioner of numbers, its keys below ``key``."""
    return Part(
        f"{name}/",
        key,
        number.NumberConfig,
        partial(number.sizes, layout=layout),
        partial(number.table, layout=layout),
        number.shapes,
    )


def _embedded_once(config: t5.T5Config) -> Table:
    """Files may leave out the embedding's copy."""
    return {path: source._replace(copies=()) for path, source in t5.table(config).items()}


CONDITIONERS = "conditioner.conditioners."
STABLE_AUDIO = Format(
    about="Stable Audio Open (stable-audio-tools' one file)",
    marks=(
        "model.model.transformer.project_in.weight",
        "pretransform.model.encoder.layers.0.weight_v",
        f"{CONDITIONERS}seconds_total.embedder.embedding.1.weight",
    ),
    parts=(
        dit("model.model.", TOOLS),
        autoencoder("pretransform.model.", TOOLS),
        seconds("seconds_start", f"{CONDITIONERS}seconds_start.", TOOLS),
        seconds("seconds_total", f"{CONDITIONERS}seconds_total.", TOOLS),
    ),
    kept={
        "buffers (zero biases)": r"^model\.model\.transformer\.layers\.\d+\.\w+_norm\.beta$",
        "buffer of rotary frequencies": r"^model\.model\.transformer\.rotary_pos_emb\.inv_freq$",
    },
)
STABLE_AUDIO_DIT = Format(
    about="Stable Audio's diffusion transformer (diffusers' layout)",
    marks=("time_proj.weight", "preprocess_conv.weight", "transformer_blocks.0.attn2.to_k.weight"),
    parts=(dit("", DIFFUSERS),),
    kept={"zero biases": r"^transformer_blocks\.\d+\.norm\d\.bias$"},
)
OOBLECK = Format(
    about="Stable Audio's autoencoder (diffusers' layout)",
    marks=("encoder.conv1.weight_v", "decoder.block.0.conv_t1.weight_v"),
    parts=(autoencoder("", DIFFUSERS),),
)
SECONDS = Format(
    about="Stable Audio's conditioners of seconds (diffusers' layout)",
    marks=(
        "start_number_conditioner.time_positional_embedding.1.weight",
        "end_number_conditioner.time_positional_embedding.1.weight",
    ),
    parts=(
        seconds("seconds_start", "start_number_conditioner.", DIFFUSERS),
        seconds("seconds_total", "end_number_conditioner.", DIFFUSERS),
    ),
)
T5 = Format(
    about="a T5 text encoder (transformers' layout)",
    marks=("shared.weight", "encoder.block.0.layer.1.DenseReluDense.wi.weight"),
    parts=(Part("t5/", "", t5.T5Config, t5.sizes, _embedded_once, t5.shapes),),
    kept={
        "copy of the embedding": r"^encoder\.embed_tokens\.weight$",
        "T5's decoder": r"^(decoder|lm_head)\.",
    },
    ties={"encoder.embed_tokens.weight": "shared.weight"},
)
