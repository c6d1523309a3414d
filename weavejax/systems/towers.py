"""The encoders of a system, their heads and its matching path: how parameters are made and applied."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array

from weavejax.losses import SCORES
from weavejax.models import fusion
from weavejax.systems.base import Batch, Params, under
from weavejax.systems.encoders import Tower, make_tower

# A modality of the batch → the tower that encodes it.
PARTS = {"video": "vision", "audio": "audio", "text": "text", "subtitle": "text"}


class Towers:
    """The three encoders, their heads and the matching path."""

    def __init__(self, config: Any) -> None:
        self.vision = make_tower("vision", config)
        self.audio = make_tower("audio", config)
        self.text = make_tower("text", config)
        self.inputs = config.inputs
        self.dim = config.model.dim
        self.scalars = _scalars(config.loss)
        subtitle = ("subtitle",) * bool(config.inputs.subtitle_length)
        self.clip_modalities = ("video", "audio", *subtitle)
        self.fused = any(SCORES[name].sees != "modalities" for name in _scores(config.loss))
        self.matching = _matching(config, self) if config.model.fusion else None

    def init(self, key: Array) -> Params:
        keys = dict(
            zip(("vision", "audio", "text", "heads"), jax.random.split(key, 4), strict=True)
        )
        inputs = self.inputs
        blank = {
            "vision": jnp.zeros((1, inputs.size, inputs.size, 3), jnp.uint8),
            "audio": jnp.zeros((1, inputs.audio_frames, inputs.mels)),
            "text": jnp.zeros((1, inputs.text_length), jnp.int32),
        }
        made: dict[str, Any] = {}
        for part, example in blank.items():
            tower: Tower = getattr(self, part)
            made[part] = tower.network.init(
                keys[part], *tower.prepare(example), deterministic=True
            )["params"]
        if self.matching:
            frames = {"video": jnp.zeros((1, 1, 1, self.matching.video))}
            made["fusion"] = fusion.Fusion(self.matching).init(jax.random.fold_in(key, 4), frames)[
                "params"
            ]
            made["match"] = fusion.MatchHead(self.matching).init(
                jax.random.fold_in(key, 5), jnp.zeros((1, self.matching.text))
            )["params"]
        return made | {"head": self._heads(keys["heads"]), **self.scalars}

    def _heads(self, key: Array) -> Params:
        modalities = sorted(("text", *self.clip_modalities))
        widths = {name: getattr(self, PARTS[name]).width for name in modalities}
        init = jax.nn.initializers.truncated_normal(0.02)
        heads: dict[str, Any] = {
            name: {"kernel": init(jax.random.fold_in(key, n), (width, self.dim))}
            for n, (name, width) in enumerate(widths.items())
        }
        if self.fused:
            joint = [s for s in subsets(self.clip_modalities) if len(s) > 1]
            heads["fused"] = {
                "_".join(subset): {
                    "kernel": init(
                        jax.random.fold_in(key, 100 + n),
                        (sum(widths[name] for name in subset), self.dim),
                    ),
                    "bias": jnp.zeros(self.dim),
                }
                for n, subset in enumerate(joint)
            }
        return heads

    def rules(self) -> tuple[Any, ...]:
        learned = ((r"^(score/\w+|bias)$", ()),) if len(self.scalars) > 1 else ()
        return (
            *under("vision", self.vision.rules),
            *under("audio", self.audio.rules),
            *under("text", self.text.rules),
            (r"^head/.*kernel$", ("data", None)),
            *(((r"^head/fused/\w+/bias$", ()),) if self.fused else ()),
            (r"^temperature$", ()),
            *learned,
            *(fusion.rules(self.matching) if self.matching else ()),
        )

    def encode(
        self, name: str, params: Params, batch: Batch, key: Array | None
    ) -> tuple[Array, Array]:
        """Tokens ``[B, pieces, L, width]`` of a modality and their summaries ``[B, pieces, width]``.

        Pieces are a video's frames and a sound's chunks; a text is one. `key` None = no dropout.
        """
        tower: Tower = getattr(self, PARTS[name])
        pieces = batch[name] if name in ("video", "audio") else batch[name][:, None]
        inputs = tower.prepare(rearrange(pieces, "b c ... -> (b c) ..."))
        # Text and subtitle share weights but not dropout masks, hence a key per modality.
        number = sorted(PARTS).index(name)
        tokens: Any = tower.network.apply(
            {"params": params[PARTS[name]]},
            *inputs,
            deterministic=key is None,
            rngs=None if key is None else {"dropout": jax.random.fold_in(key, number)},
        )
        pooled = tower.pool(tokens, *inputs)
        shape = pieces.shape[:2]
        return tokens.reshape(*shape, *tokens.shape[1:]), pooled.reshape(*shape, -1)

    def encode_all(
        self, params: Params, batch: Batch, key: Array | None
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Every modality's tokens as `encode` has them, and pooled outputs [B, width]."""
        made = {n: self.encode(n, params, batch, key) for n in PARTS if n in batch}
        return {n: m[0] for n, m in made.items()}, {n: m[1].mean(1) for n, m in made.items()}

    def features(self, params: Params, batch: Batch, key: Array | None) -> dict[str, Array]:
        """Pooled encoder outputs [B, width], before the heads; `key` None = no dropout."""
        return self.encode_all(params, batch, key)[1]

    def flops(self) -> dict[str, float]:
        """Multiply-adds of one example's forward pass, counted twice; attention included."""
        inputs = self.inputs
        texts = [inputs.text_length] + [inputs.subtitle_length] * bool(inputs.subtitle_length)
        return {
            "vision": inputs.frames * self.vision.flops(0),
            "audio": inputs.chunks * self.audio.flops(0),
            "text": sum(self.text.flops(length) for length in texts),
        }


def subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    """All non-empty subsets, the whole set first."""
    sizes = range(len(names), 0, -1)
    return [subset for size in sizes for subset in itertools.combinations(names, size)]


def _scores(loss: Any) -> tuple[str, ...]:
    """Names of the scores that a loss trains."""
    blended = loss.warmup_steps or loss.mix
    return (loss.score, loss.warmup_score) if blended else (loss.score,)


def _scalars(loss: Any) -> dict[str, Any]:
    """Temperature, what the scores learn, and the sigmoid's bias, at their first values."""
    learned = {
        name: jnp.float32(value)
        for score in _scores(loss)
        for name, value in SCORES[score].learned.items()
    }
    out: dict[str, Any] = {"temperature": jnp.float32(loss.temperature)}
    if loss.objective == "sigmoid":
        out["bias"] = jnp.float32(loss.bias)
    return out | ({"score": learned} if learned else {})


def _matching(config: Any, towers: Towers) -> fusion.FusionConfig:
    text = config.model.text
    return fusion.FusionConfig(
        video=towers.vision.width,
        audio=towers.audio.width,
        text=towers.text.width,
        width=text.cond_width,
        frames=config.inputs.frames,
        chunks=config.inputs.chunks,
        subtitles="subtitle" in towers.clip_modalities,
        dtype=text.get("dtype", "float32"),
    )
