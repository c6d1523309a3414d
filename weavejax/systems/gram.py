"""GRAM: text, video and audio in one space, aligned by the volume they span.

Cicchetti, Grassucci, Sigillo, Comminiello, "Gramian Multimodal Representation Learning and
Alignment", ICLR 2025, arXiv 2412.11959. One encoder a modality, a linear head without bias into the
common space, unit vectors; the logit of text i with clip j is −V_ij/τ (`losses.volume`), τ a learned
plain divisor; two directions, label smoothing 0.1 (`losses.contrastive`).

From random weights the bare volume does not take off: it is blind to sign and flat at orthogonality,
where random vectors start. `config.loss` therefore blends in another score over the first steps.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array

from weavejax.errors import UserError
from weavejax.losses import SCORES
from weavejax.losses.contrastive import two_way_cross_entropy
from weavejax.metrics.alignment import alignment_report
from weavejax.models import bert, fusion, spectrogram, vit
from weavejax.systems.base import Batch, Metrics, Params, System, under

# CLIP's image statistics (Radford et al. 2021), on [0, 1] RGB.
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)


def build(config: Any) -> System:
    """The GRAM system of a config: `config.model`, `config.loss`, `config.inputs`, `config.batch`."""
    towers = _Towers(config)
    _check(config)
    return System(
        name="gram",
        batch_spec=_batch_spec(config),
        init=towers.init,
        loss=partial(_loss, config.loss, towers),
        embed=partial(_embed, towers),
        rules=towers.rules(),
        evaluators={"retrieval": partial(alignment_report, SCORES, config.loss.score)},
        flops=towers.flops(),
        resize={
            r"^vision/position$": vit.resize_position,
            r"^fusion/(video|audio)/frames$": fusion.resize_frames,
        },
        headline=f"retrieval/{config.loss.score}/text→{'+'.join(towers.clip_modalities)}/R@1",
    )


def _check(config: Any) -> None:
    for key in ("score", "warmup_score"):
        if config.loss[key] not in SCORES:
            raise UserError(
                f"loss.{key} {config.loss[key]!r} is none of {', '.join(sorted(SCORES))}"
            )
    if config.model.fusion and not config.model.text.cross_attention:
        raise UserError("model.fusion needs the cross-attention: set model.text.cross_attention")
    if config.loss.gradient not in ("full", "half"):
        raise UserError(f"loss.gradient {config.loss.gradient!r} is neither 'full' nor 'half'")


def _batch_spec(config: Any) -> dict[str, jax.ShapeDtypeStruct]:
    inputs, size = config.inputs, config.batch
    spec = {
        "video": ((inputs.frames, inputs.size, inputs.size, 3), jnp.uint8),
        "video_mask": ((), jnp.bool_),
        "audio": ((inputs.chunks, inputs.audio_frames, inputs.mels), jnp.float32),
        "audio_mask": ((), jnp.bool_),
        "text": ((inputs.text_length,), jnp.int32),
        "text_mask": ((), jnp.bool_),
    }
    if inputs.subtitle_length:
        spec["subtitle"] = ((inputs.subtitle_length,), jnp.int32)
        spec["subtitle_mask"] = ((), jnp.bool_)
    return {
        name: jax.ShapeDtypeStruct((size, *shape), dtype) for name, (shape, dtype) in spec.items()
    }


class _Towers:
    """The three encoders, their heads and the matching path: how parameters are made and applied."""

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
        text = self.text.config
        self.matching = fusion.FusionConfig(
            video=self.vision.config.width,
            audio=self.audio.config.width,
            text=text.width,
            width=text.cond_width,
            frames=inputs.frames,
            chunks=inputs.chunks,
            subtitles="subtitle" in self.clip_modalities,
            dtype=text.dtype,
        )
        self.has_matching = model.fusion

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
        if self.has_matching:
            frame = jnp.zeros((1, 1, 1, self.matching.video))
            made |= {
                "fusion": fusion.Fusion(self.matching).init(
                    jax.random.fold_in(key, 4), {"video": frame}
                ),
                "match": fusion.MatchHead(self.matching).init(
                    jax.random.fold_in(key, 5), jnp.zeros((1, self.matching.text))
                ),
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
            *(fusion.rules(self.matching) if self.has_matching else ()),
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


def _embed(
    towers: _Towers, params: Params, batch: Batch, key: Array | None = None
) -> dict[str, Array]:
    """Unit vectors [B, dim] of every modality, float32, with their presence masks [B]."""
    out: dict[str, Array] = {}
    for name, feature in towers.features(params, batch, key).items():
        kernel = params["head"][name]["kernel"]
        projected = jnp.matmul(feature.astype(jnp.float32), kernel, precision="highest")
        norm2 = jnp.square(projected).sum(-1, keepdims=True)
        out[name] = projected * jax.lax.rsqrt(jnp.maximum(norm2, 1e-12))
        out[f"{name}_mask"] = batch[f"{name}_mask"]
    return out


def _loss(
    config: Any, towers: _Towers, params: Params, batch: Batch, key: Array, step: Array
) -> tuple[Array, Metrics]:
    vectors = _embed(towers, params, batch, key)
    anchor = vectors["text"]
    clip = jnp.stack([vectors[name] for name in towers.clip_modalities], axis=1)
    present = jnp.stack([vectors[f"{name}_mask"] for name in towers.clip_modalities], axis=1)
    paired = vectors["text_mask"] & present.any(1)
    temperature = params["temperature"]
    if not config.learn_temperature:
        temperature = jax.lax.stop_gradient(temperature)

    def contrast(name: str) -> tuple[Array, Array, Array]:
        score = SCORES[name]
        sim = score(anchor, clip, present)
        forward = backward = sim
        if config.gradient == "half":
            # As published: gathered features carry no gradient, so the text direction trains the
            # text and the clip direction trains the clip.
            forward = score(anchor, jax.lax.stop_gradient(clip), present)
            backward = score(jax.lax.stop_gradient(anchor), clip, present)
        total, count = two_way_cross_entropy(
            forward / temperature, backward / temperature, paired, smoothing=config.smoothing
        )
        return total, count, sim

    total, count, sim = contrast(config.score)
    share = blend(config, step)
    metrics: Metrics = {f"loss/{config.score}": (total, count), "loss/blend": (share, jnp.ones(()))}
    if config.warmup_steps or config.mix:
        other, _, _ = contrast(config.warmup_score)
        metrics[f"loss/{config.warmup_score} (blended in)"] = (other, count)
        total = (1.0 - share) * total + share * other
    metrics |= {
        "loss": (total, count),
        "temperature": (temperature, jnp.ones(())),
        **_batch_metrics(sim, paired, count),
    }
    return total / jnp.maximum(count, 1.0), metrics


def blend(config: Any, step: Array) -> Array:
    """Share of the warm-up score in the loss: 1 falling to `mix` over `warmup_steps`, then `mix`."""
    fall = jnp.clip(1.0 - step.astype(jnp.float32) / max(config.warmup_steps, 1), 0.0, 1.0)
    return jnp.maximum(fall if config.warmup_steps else jnp.zeros(()), config.mix)


def _batch_metrics(sim: Array, paired: Array, count: Array) -> Metrics:
    own = jnp.diagonal(sim)
    others = jnp.where(paired[None, :] & ~jnp.eye(len(own), dtype=bool), sim, -jnp.inf)
    hit = jnp.where(paired, (own > others.max(1)), False).sum().astype(jnp.float32)
    return {
        "batch R@1": (100.0 * hit, count),
        "score of matched": (jnp.where(paired, own, 0.0).sum(), count),
    }
