"""The published checkpoints of GRAM, TRIANGLE, PMRL and VAST: one layout, as parameters of `gram`.

Source: the state dict of GRAM's published code (``model/gram.py`` and ``vast.py``): 1287 keys, or
1288 with a depth head; keys may hold ``module.`` anywhere. VAST's own files spell some otherwise.
"""

from dataclasses import dataclass

from weavejax.models import fusion
from weavejax.models.torch_names import TRANSPOSED, Arrays, Shapes, Source, Table
from weavejax.weights.published import Format, Part, audio, text, vision

HEADS = {"text": "t", "video": "v", "audio": "a", "subtitle": "s", "depth": "d"}


@dataclass(frozen=True)
class ContrastConfig:
    """Sizes of the contrastive heads.

    Attributes:
        dim: width of the common space.
        text: width of the text tower.
        video: width of the image tower.
        audio: width of the audio tower.
        subtitle: width of the text tower, 0 without the head.
        depth: width of the image tower, 0 without the head.
    """

    dim: int
    text: int
    video: int
    audio: int
    subtitle: int = 0
    depth: int = 0


def contrast_sizes(state: Arrays) -> ContrastConfig:
    """The sizes that a state dict has.

    Raises:
        KeyError: an array that tells them is missing.
    """
    keys = {name: f"contra_head_{letter}.linear.weight" for name, letter in HEADS.items()}
    optional = {name: keys[name] for name in ("subtitle", "depth")}
    return ContrastConfig(
        dim=state[keys["text"]].shape[0],
        **{n: state[key].shape[1] for n, key in keys.items() if n not in optional or key in state},
    )


def contrast_table(config: ContrastConfig) -> Table:
    """Where the heads and the temperature come from."""
    heads = {
        f"head/{name}/kernel": Source(f"contra_head_{letter}.linear.weight", TRANSPOSED)
        for name, letter in HEADS.items()
        if getattr(config, name)
    }
    return heads | {"temperature": Source("contra_temp")}


def contrast_shapes(config: ContrastConfig) -> Shapes:
    """Shape of the heads and the temperature."""
    widths = {name: getattr(config, name) for name in HEADS}
    heads = {f"head/{name}/kernel": (width, config.dim) for name, width in widths.items() if width}
    return {**heads, "temperature": ()}


def _without_module(key: str) -> str:
    return key.replace("module.", "")


def _from_vast(key: str) -> str:
    """VAST's spelling to GRAM's, by the rules of GRAM's loader."""
    key = _without_module(key).replace("video", "vision")
    if "evaclip_model" in key:
        return key.replace("evaclip_model", "vision_encoder")
    return key.replace("clip_model", "vision_encoder")


PARTS = (
    vision("vision_encoder.visual."),
    audio("audio_encoder."),
    text("multimodal_encoder.bert."),
    Part("", "", ContrastConfig, contrast_sizes, contrast_table, contrast_shapes),
    Part("", "", fusion.FusionConfig, fusion.sizes, fusion.table, fusion.shapes),
)
MARKS = (
    "vision_encoder.visual.cls_token",
    "audio_encoder.patch_embedding.weight",
    "multimodal_encoder.bert.embeddings.word_embeddings.weight",
)
KEPT = {
    "dead tower (EVA-CLIP's text encoder)": r"^vision_encoder\.text\.",
    "EVA-CLIP's temperature": r"^vision_encoder\.logit_scale$",
    "VAST's fused heads": r"^contra_head_(va|vs|vas)\.",
    "captioning head": r"^multimodal_encoder\.cls\.predictions\.",
    "buffer of positions": r"^multimodal_encoder\.bert\.embeddings\.position_ids$",
}
TEXT = "multimodal_encoder"
TIES = {f"{TEXT}.cls.predictions.decoder.weight": f"{TEXT}.bert.embeddings.word_embeddings.weight"}
GRAM = Format(
    "a GRAM checkpoint (or TRIANGLE's, PMRL's)", MARKS, PARTS, _without_module, KEPT, TIES
)
VAST = Format("a VAST checkpoint", MARKS, PARTS, _from_vast, KEPT, TIES)
