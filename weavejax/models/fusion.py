"""The matching path of VAST and GRAM: condition tokens for the fusion encoder, and its match head.

Source: Chen et al., VAST (arXiv 2305.18500), and GRAM's published code (``vast.py``). The fusion
encoder is `weavejax.models.bert.Bert` with condition tokens; whether a text and a clip belong
together is read off its first token: ``MatchHead(Bert(tokens, mask, condition=Fusion(clip))[:, 0])``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from weavejax.models.torch_names import (
    Arrays,
    Layout,
    Shapes,
    Source,
    Table,
    convert,
    dense,
    norm,
    shapes_of,
)
from weavejax.ops.placement import split_batch
from weavejax.ops.transformer import LayerNorm, Rule, trunc_normal

EPSILON = 1e-12
PUBLISHED = {
    "video": "vision",
    "audio": "audio",
    "subtitle": "subtitle",
}  # modality → its name there


@dataclass(frozen=True)
class FusionConfig:
    """Sizes of a `Fusion` and its `MatchHead`.

    Attributes:
        video: width of the image tower's tokens.
        audio: width of the audio tower's tokens.
        text: width of the text tower's tokens, which is the fusion encoder too.
        width: of the condition tokens, the fusion encoder's ``cond_width``.
        frames: frames of a clip that have an embedding.
        chunks: audio chunks that have one.
        subtitles: whether there are parameters for subtitles.
        dtype: compute type; parameters are float32.
    """

    video: int
    audio: int
    text: int
    width: int
    frames: int
    chunks: int
    subtitles: bool = True
    dtype: str = "float32"

    @property
    def widths(self) -> dict[str, int]:
        """Width of each modality's tokens, in the order of their concatenation."""
        widths = {"video": self.video, "audio": self.audio}
        return widths | {"subtitle": self.text} if self.subtitles else widths


GRAM = FusionConfig(video=1408, audio=768, text=768, width=768, frames=2, chunks=1)


def rules(config: FusionConfig) -> tuple[Rule, ...]:
    """Sharding table of ``fusion/`` and ``match/``; specs are written from the right."""
    del config  # every configuration has these leaves
    return (
        (r"^(fusion|match)/.*/kernel$", ("data", None)),
        (r"^(fusion|match)/.*/(frames|type|bias|scale)$", ()),
    )


class Fusion(nn.Module):
    """Tokens of the towers to condition tokens of the fusion encoder."""

    config: FusionConfig

    @nn.compact
    def __call__(self, tokens: Mapping[str, jax.Array]) -> jax.Array:
        """Project, mark and concatenate.

        Args:
            tokens: all tokens of each tower, in any choice of ``video [B, T, N, ·]``, ``audio
                [B, C, N, ·]``, ``subtitle [B, L, ·]`` and ``depth [B, T, N, ·]``, which is a video
                to all parameters. T and C may differ from the config's ``frames`` and ``chunks``.

        Returns:
            ``[B, S, width]``, one after the other in that order; as published there is no mask.
        """
        c = self.config
        if not tokens or tokens.keys() - c.widths.keys() - {"depth"}:
            known = ", ".join((*c.widths, "depth"))
            raise ValueError(f"condition tokens are of {known}; got {', '.join(tokens) or 'none'}")
        counts = {"video": c.frames, "audio": c.chunks}
        parts = {
            name: Modality(c.width, counts.get(name, 0), jnp.dtype(c.dtype), name=name)
            for name in c.widths
        }
        if self.is_initializing():  # parameters must not depend on what the first call had
            for name, width in c.widths.items():
                parts[name](jnp.zeros((1, *(1,) * (name in counts), 1, width)))
        ordered = [name for name in (*c.widths, "depth") if name in tokens]
        marked = [parts["video" if n == "depth" else n](tokens[n]) for n in ordered]
        return split_batch(jnp.concatenate(marked, axis=1))


class Modality(nn.Module):
    """One modality's tokens, projected and marked with its frame and type.

    Attributes:
        width: of the result.
        frames: rows of the frame embedding; 0 for a modality without frames.
        dtype: compute type.
    """

    width: int
    frames: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[B, T, N, ·]``, or ``[B, N, ·]`` without frames, → ``[B, T · N, width]``."""
        x = nn.Dense(self.width, dtype=self.dtype, kernel_init=trunc_normal, name="dense")(x)
        x = LayerNorm(EPSILON, self.dtype, name="norm")(x)
        if self.frames:
            table = self.param("frames", trunc_normal, (self.frames, self.width))
            rows = table[nearest(self.frames, x.shape[1])].astype(self.dtype)
            x = (x + rows[None, :, None]).reshape(len(x), -1, self.width)
        kind = self.param("type", trunc_normal, (self.width,)).astype(self.dtype)
        return x + kind.reshape(1, 1, -1)


class MatchHead(nn.Module):
    """First tokens of the fusion encoder ``[B, text]`` to float32 logits ``[B, 2]``: no, yes."""

    config: FusionConfig

    @nn.compact
    def __call__(self, first: jax.Array) -> jax.Array:
        c = self.config
        dtype = jnp.dtype(c.dtype)
        x = nn.Dense(c.text, dtype=dtype, kernel_init=trunc_normal, name="dense1")(first)
        x = LayerNorm(EPSILON, dtype, name="norm")(jax.nn.gelu(x, approximate=False))
        logits = nn.Dense(2, dtype=dtype, kernel_init=trunc_normal, name="dense2")(x)
        return logits.astype(jnp.float32)


def nearest(stored: int, wanted: int) -> np.ndarray:
    """Which of ``stored`` rows each of ``wanted`` frames takes, as PyTorch's nearest resizing."""
    step = np.float32(stored) / np.float32(wanted)  # its float32 product decides at the edges
    return np.minimum(np.arange(wanted, dtype=np.float32) * step, stored - 1).astype(np.int64)


def resize_frames(table: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A frame embedding ``[F, width]`` for another number of frames, as when VAST loads one."""
    return table[nearest(len(table), shape[0])]


def from_torch(state: Arrays, config: FusionConfig) -> dict[str, Any]:
    """The trees ``fusion`` and ``match`` from the matching path's part of a GRAM state dict.

    Args:
        state: ``hidden_trans_*``, ``*_frame_embedding``, ``*_type_embeddings`` and ``itm_head.*``.
        config: sizes.

    Raises:
        UserError: naming every unused, missing or mis-shaped key.
    """
    return convert(state, table(config), shapes=shapes(config), model="matching path", scan=False)


def shapes(config: FusionConfig) -> Shapes:
    """Shape of every leaf of ``fusion`` and ``match``."""
    tokens = {"video": jax.ShapeDtypeStruct((1, 1, 1, config.video), jnp.float32)}
    first = jax.ShapeDtypeStruct((1, config.text), jnp.float32)
    parts = {"fusion": (Fusion(config), tokens), "match": (MatchHead(config), first)}
    found: Shapes = {}
    for part, (module, given) in parts.items():
        leaves = shapes_of(module.init, given)
        found |= {f"{part}/{path}": shape for path, shape in leaves.items()}
    return found


def sizes(state: Arrays) -> FusionConfig:
    """The sizes that a GRAM state dict has.

    Raises:
        KeyError: an array that tells them is missing.
    """
    width, video = state["hidden_trans_vision_multimodal.0.weight"].shape
    return FusionConfig(
        video=video,
        audio=state["hidden_trans_audio_multimodal.0.weight"].shape[1],
        text=state["itm_head.linear1.weight"].shape[1],
        width=width,
        frames=state["vision_frame_embedding"].shape[1],
        chunks=state["audio_frame_embedding"].shape[1],
        subtitles="hidden_trans_subtitle_multimodal.0.weight" in state,
    )


def table(config: FusionConfig) -> Table:
    """Where each leaf of ``fusion`` and ``match`` comes from, by GRAM's keys."""
    row = Layout(np.ravel, lambda x: x.reshape(1, 1, -1))
    first = Layout(lambda x: x[0], lambda x: x[None])
    found: Table = {}
    for ours in config.widths:
        theirs, path = PUBLISHED[ours], f"fusion/{ours}"
        found |= dense(f"{path}/dense", f"hidden_trans_{theirs}_multimodal.0")
        found |= norm(f"{path}/norm", f"hidden_trans_{theirs}_multimodal.1")
        found[f"{path}/type"] = Source(f"{theirs}_type_embeddings", row)
        if ours != "subtitle":
            found[f"{path}/frames"] = Source(f"{theirs}_frame_embedding", first)
    return found | {
        **dense("match/dense1", "itm_head.linear1"),
        **norm("match/norm", "itm_head.layernorm"),
        **dense("match/dense2", "itm_head.linear2"),
    }
