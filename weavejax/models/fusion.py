"""The matching path of VAST and GRAM: condition tokens for the fusion encoder, and its match head.

Source: Chen et al., VAST (arXiv 2305.18500), and GRAM's published code (``vast.py``). The fusion
encoder is `weavejax.models.bert.Bert` with condition tokens; whether a text and a clip belong
together is read off its first token: ``MatchHead(Bert(tokens, mask, condition=...)[:, 0])``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from weavejax.models.torch_names import Layout, Source, Table, dense, norm
from weavejax.ops.placement import split_batch
from weavejax.ops.transformer import LayerNorm, Rule, trunc_normal

EPSILON = 1e-12
SEQUENCES = {"video": "vision", "audio": "audio", "subtitle": "subtitle"}  # ours → published name
IN_FRAMES = ("video", "audio")  # those with an embedding of the frame, or chunk, a token is of


@dataclass(frozen=True)
class FusionConfig:
    """Sizes of a `Fusion`.

    Attributes:
        video: width of the image tower's tokens.
        audio: width of the audio tower's tokens.
        subtitle: width of the text tower's tokens; 0 leaves subtitles out.
        width: of the condition tokens, the fusion encoder's ``cond_width``.
        frames: frames of a clip that have an embedding.
        chunks: audio chunks that have one.
        dtype: compute type; parameters are float32.
    """

    video: int
    audio: int
    subtitle: int
    width: int
    frames: int
    chunks: int
    dtype: str = "float32"


def rules(config: FusionConfig) -> tuple[Rule, ...]:
    """Sharding table of a `Fusion`, first match wins; specs are written from the right."""
    del config  # every configuration has these leaves
    return (
        (r"/dense/kernel$", ("data", None)),
        (r"/(frames|type|bias|scale)$", ()),
    )


MATCH_RULES: tuple[Rule, ...] = (
    (r"^dense[12]/kernel$", ("data", None)),
    (r"/(bias|scale)$", ()),
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
        widths = {name: getattr(c, name) for name in SEQUENCES if getattr(c, name)}
        unknown = tokens.keys() - widths.keys() - {"depth"}
        if unknown or not tokens:
            raise ValueError(f"condition tokens are of {', '.join(widths)}, depth: got {[*tokens]}")
        counts = {"video": c.frames, "audio": c.chunks}
        parts = {
            name: Sequence(c.width, counts.get(name, 0), jnp.dtype(c.dtype), name=name)
            for name in widths
        }
        if self.is_initializing():  # parameters must not depend on what the first call had
            for name, width in widths.items():
                parts[name](jnp.zeros((1, *(1,) * (name in counts), 1, width)))
        ordered = [name for name in (*SEQUENCES, "depth") if name in tokens]
        marked = [parts["video" if n == "depth" else n](tokens[n]) for n in ordered]
        return split_batch(jnp.concatenate(marked, axis=1))


class Sequence(nn.Module):
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
    """First tokens of the fusion encoder ``[B, width]`` to logits ``[B, 2]``: apart, together.

    Attributes:
        width: of the tokens.
        dtype: compute type; the logits are float32.
    """

    width: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, first: jax.Array) -> jax.Array:
        dtype = jnp.dtype(self.dtype)
        x = nn.Dense(self.width, dtype=dtype, kernel_init=trunc_normal, name="dense1")(first)
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


def table(*, subtitle: bool = True) -> Table:
    """Where the leaves of a `Fusion` come from, by GRAM's keys."""
    row = Layout(np.ravel, lambda x: x.reshape(1, 1, -1))
    found: Table = {}
    for ours, theirs in SEQUENCES.items():
        if ours == "subtitle" and not subtitle:
            continue
        projection = f"hidden_trans_{theirs}_multimodal"
        found |= dense(f"{ours}/dense", f"{projection}.0")
        found |= norm(f"{ours}/norm", f"{projection}.1")
        found[f"{ours}/type"] = Source(f"{theirs}_type_embeddings", row)
        if ours in IN_FRAMES:
            first = Layout(lambda x: x[0], lambda x: x[None])
            found[f"{ours}/frames"] = Source(f"{theirs}_frame_embedding", first)
    return found


def match_table() -> Table:
    """Where the leaves of a `MatchHead` come from, by GRAM's keys, ``itm_head.`` stripped."""
    return dense("dense1", "linear1") | norm("norm", "layernorm") | dense("dense2", "linear2")
