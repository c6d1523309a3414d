"""The encoders of a system and their heads: how parameters are made and applied."""

from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array

from weavejax.models import bert, spectrogram, vit
from weavejax.systems.base import Batch, Params, under

# CLIP's image statistics (Radford et al. 2021), on [0, 1] RGB.
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)


class Towers:
    """The three encoders and their heads: how parameters are made and applied."""

    def __init__(self, config: Any) -> None:
        model, inputs = config.model, config.inputs
        self.vision = vit.ViT(vit.ViTConfig(image_size=inputs.size, **model.vision))
        self.audio = spectrogram.SpectrogramTransformer(
            spectrogram.SpectrogramConfig(
                frames=inputs.audio_frames, mels=inputs.mels, **model.audio
            )
        )
        self.text = bert.Bert(bert.BertConfig(**model.text))
        self.inputs = inputs
        self.dim = model.dim
        self.temperature = config.loss.temperature
        self.clip_modalities = ("video", "audio") + ("subtitle",) * bool(inputs.subtitle_length)

    def init(self, key: Array) -> Params:
        keys = dict(
            zip(("vision", "audio", "text", "heads"), jax.random.split(key, 4), strict=True)
        )
        inputs = self.inputs
        images = jnp.zeros((1, inputs.size, inputs.size, 3))
        tokens = jnp.zeros((1, inputs.text_length), jnp.int32)
        made = {
            "vision": self.vision.init(keys["vision"], images, deterministic=True),
            "audio": self.audio.init(
                keys["audio"],
                jnp.zeros((1, inputs.audio_frames, inputs.mels)),
                deterministic=True,
            ),
            "text": self.text.init(keys["text"], tokens, tokens == 0, deterministic=True),
        }
        widths = {
            "text": self.text.config.width,
            "video": self.vision.config.width,
            "audio": self.audio.config.width,
        }
        if "subtitle" in self.clip_modalities:
            widths["subtitle"] = self.text.config.width
        head = jax.nn.initializers.truncated_normal(0.02)
        return {name: variables["params"] for name, variables in made.items()} | {
            "head": {
                name: {"kernel": head(jax.random.fold_in(keys["heads"], n), (width, self.dim))}
                for n, (name, width) in enumerate(sorted(widths.items()))
            },
            "temperature": jnp.float32(self.temperature),
        }

    def rules(self) -> tuple[Any, ...]:
        return (
            *under("vision", vit.rules(self.vision.config)),
            *under("audio", spectrogram.rules(self.audio.config)),
            *under("text", bert.rules(self.text.config)),
            (r"^head/\w+/kernel$", ("data", None)),
            (r"^temperature$", ()),
        )

    def features(self, params: Params, batch: Batch, key: Array | None) -> dict[str, Array]:
        """Pooled encoder outputs [B, width], before the heads; `key` None = no dropout."""

        def run(module: Any, name: str, *args: Array) -> Array:
            # Text and subtitle share weights but not dropout masks, hence a key per call.
            number = sorted(("audio", "subtitle", "text", "video")).index(name)
            rngs = None if key is None else {"dropout": jax.random.fold_in(key, number)}
            tower = {"video": "vision", "subtitle": "text"}.get(name, name)
            return module.apply(
                {"params": params[tower]}, *args, deterministic=key is None, rngs=rngs
            )

        size = batch["text"].shape[0]
        frames = rearrange(normalise_images(batch["video"]), "b t h w c -> (b t) h w c")
        chunks = rearrange(batch["audio"], "b c f m -> (b c) f m")
        video = run(self.vision, "video", frames)[:, 0]
        audio = run(self.audio, "audio", chunks).mean(1)
        out = {
            "video": rearrange(video, "(b t) d -> b t d", b=size).mean(1),
            "audio": rearrange(audio, "(b c) d -> b c d", b=size).mean(1),
        }
        for name in ("text", "subtitle"):
            if name in batch:
                out[name] = run(self.text, name, batch[name], batch[name] != 0)[:, 0]
        return out

    def flops(self) -> dict[str, float]:
        """Multiply-adds of one example's forward pass, counted twice; attention included."""
        v, a, t = self.vision.config, self.audio.config, self.text.config
        inputs = self.inputs
        patches = (v.image_size // v.patch) ** 2
        audio_tokens = (a.frames // a.patch) * (a.mels // a.patch)
        texts = [inputs.text_length] + [inputs.subtitle_length] * bool(inputs.subtitle_length)
        return {
            "vision": inputs.frames
            * (_blocks(v, patches + 1) + 2.0 * patches * v.patch**2 * 3 * v.width),
            "audio": inputs.chunks
            * (_blocks(a, audio_tokens) + 2.0 * audio_tokens * a.patch**2 * a.patch_width),
            "text": sum(_blocks(t, length) for length in texts),
        }


def _blocks(config: Any, tokens: int) -> float:
    projections = 4 * config.width**2 + 2 * config.width * config.mlp
    return 2.0 * config.layers * tokens * (projections + 2 * tokens * config.width)


def normalise_images(frames: Array) -> Array:
    """uint8 RGB → float32 with CLIP's statistics."""
    mean = jnp.asarray(IMAGE_MEAN).reshape((1,) * (frames.ndim - 1) + (3,))
    std = jnp.asarray(IMAGE_STD).reshape((1,) * (frames.ndim - 1) + (3,))
    return (frames.astype(jnp.float32) / 255.0 - mean) / std
