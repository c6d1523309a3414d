"""The encoders of a system and their heads: how parameters are made and applied."""

from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array

from weavejax.systems.base import Batch, Params, under
from weavejax.systems.encoders import Tower, make_tower

# A modality of the batch → the tower that encodes it.
PARTS = {"video": "vision", "audio": "audio", "text": "text", "subtitle": "text"}


class Towers:
    """The three encoders and their heads: how parameters are made and applied."""

    def __init__(self, config: Any) -> None:
        self.vision = make_tower("vision", config)
        self.audio = make_tower("audio", config)
        self.text = make_tower("text", config)
        self.inputs = config.inputs
        self.dim = config.model.dim
        self.temperature = config.loss.temperature
        subtitle = ("subtitle",) * bool(config.inputs.subtitle_length)
        self.clip_modalities = ("video", "audio", *subtitle)

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
        made = {}
        for part, example in blank.items():
            tower: Tower = getattr(self, part)
            made[part] = tower.network.init(
                keys[part], *tower.prepare(example), deterministic=True
            )["params"]
        modalities = sorted(("text", *self.clip_modalities))
        widths = {name: getattr(self, PARTS[name]).width for name in modalities}
        head = jax.nn.initializers.truncated_normal(0.02)
        return made | {
            "head": {
                name: {"kernel": head(jax.random.fold_in(keys["heads"], n), (width, self.dim))}
                for n, (name, width) in enumerate(widths.items())
            },
            "temperature": jnp.float32(self.temperature),
        }

    def rules(self) -> tuple[Any, ...]:
        return (
            *under("vision", self.vision.rules),
            *under("audio", self.audio.rules),
            *under("text", self.text.rules),
            (r"^head/\w+/kernel$", ("data", None)),
            (r"^temperature$", ()),
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

    def features(self, params: Params, batch: Batch, key: Array | None) -> dict[str, Array]:
        """Pooled encoder outputs [B, width], before the heads; `key` None = no dropout."""
        return {
            name: self.encode(name, params, batch, key)[1].mean(1)
            for name in PARTS
            if name in batch
        }

    def flops(self) -> dict[str, float]:
        """Multiply-adds of one example's forward pass, counted twice; attention included."""
        inputs = self.inputs
        texts = [inputs.text_length] + [inputs.subtitle_length] * bool(inputs.subtitle_length)
        return {
            "vision": inputs.frames * self.vision.flops(0),
            "audio": inputs.chunks * self.audio.flops(0),
            "text": sum(self.text.flops(length) for length in texts),
        }
