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
from jax import Array

from weavejax.errors import UserError
from weavejax.losses import SCORES
from weavejax.losses.contrastive import two_way_cross_entropy
from weavejax.metrics.alignment import alignment_report
from weavejax.systems.base import Batch, Metrics, Params, System
from weavejax.systems.towers import Towers as _Towers


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
        features=partial(_features, towers),
        rules=towers.rules(),
        evaluators={"retrieval": partial(alignment_report, SCORES, config.loss.score)},
        flops=towers.flops(),
        headline=f"retrieval/{config.loss.score}/text→{'+'.join(towers.clip_modalities)}/R@1",
    )


def _check(config: Any) -> None:
    for key in ("score", "warmup_score"):
        if config.loss[key] not in SCORES:
            raise UserError(
                f"loss.{key} {config.loss[key]!r} is none of {', '.join(sorted(SCORES))}"
            )
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


def _features(towers: _Towers, params: Params, batch: Batch) -> dict[str, Array]:
    """Pooled encoder outputs [B, width] of every modality, with their presence masks [B]."""
    pooled = towers.features(params, batch, None)
    masks = {f"{name}_mask": batch[f"{name}_mask"] for name in pooled}
    return {name: value.astype(jnp.float32) for name, value in pooled.items()} | masks


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
