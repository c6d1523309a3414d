"""GRAM: text, video and audio in one space, aligned by the volume they span.

Cicchetti, Grassucci, Sigillo, Comminiello, "Gramian Multimodal Representation Learning and
Alignment", ICLR 2025, arXiv 2412.11959. One encoder a modality, a linear head without bias into the
common space, unit vectors; the logit of text i with clip j is −V_ij/τ (`losses.volume`), τ a learned
plain divisor; two directions, label smoothing 0.1 (`losses.streamed`); plus a tenth of the matching
loss L_DAM on hard negatives (`losses.matching`). Its rivals are other entries of `losses.SCORES`.

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
from weavejax.losses.matching import matching_loss
from weavejax.losses.missing import standing_in
from weavejax.losses.score import Score
from weavejax.metrics.alignment import alignment_report, candidate_pairs
from weavejax.models import fusion, vit
from weavejax.systems.base import Batch, Metrics, Params, SecondStage, System
from weavejax.systems.contrasting import check, contrastive_loss, fused
from weavejax.systems.matching import condition, judge
from weavejax.systems.towers import Towers, subsets


def build(config: Any) -> System:
    """The GRAM system of a config: `config.model`, `config.loss`, `config.inputs`, `config.batch`."""
    _check(config)
    towers = Towers(config)
    score = config.loss.score
    scores = standing_in(SCORES, config.loss.missing)
    report = partial(alignment_report, scores, score, top=config.loss.candidates)
    return System(
        name="gram",
        batch_spec=_batch_spec(config),
        init=towers.init,
        loss=partial(_loss, config.loss, towers),
        embed=partial(_embed, towers),
        features=partial(_features, towers),
        second_stage=_second_stage(config.loss, towers, scores[score]),
        rules=towers.rules(),
        evaluators={"retrieval": report},
        flops=towers.flops(),
        resize={
            r"^vision/position$": vit.resize_position,
            r"^fusion/(video|audio)/frames$": fusion.resize_frames,
        },
        headline=f"retrieval/{score}/text→{'+'.join(towers.clip_modalities)}/R@1",
    )


def _check(config: Any) -> None:
    check(config.loss)
    if config.model.fusion and not config.model.text.cross_attention:
        raise UserError("model.fusion needs the cross-attention: set model.text.cross_attention")
    if config.loss.matching and not config.model.fusion:
        raise UserError("loss.matching needs the matching path: set model.fusion")
    known = ("video", "audio", *("subtitle",) * bool(config.inputs.subtitle_length))
    unknown = [name for name in config.loss.condition if name not in known]
    if unknown or not config.loss.condition:
        raise UserError(f"loss.condition names {unknown or 'nothing'}; there is {', '.join(known)}")


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
    towers: Towers, params: Params, batch: Batch, key: Array | None = None
) -> dict[str, Array]:
    """Unit vectors [B, dim] of every modality, float32, with their presence masks [B]."""
    return _vectors(towers, params, batch, towers.features(params, batch, key))


def _vectors(
    towers: Towers, params: Params, batch: Batch, features: dict[str, Array]
) -> dict[str, Array]:
    """Pooled features through the heads; see `_embed`."""
    out: dict[str, Array] = {}
    heads = params["head"]
    for name, feature in features.items():
        out[name] = _unit(_project(feature, heads[name]["kernel"]))
        out[f"{name}_mask"] = batch[f"{name}_mask"]
    for name, value in params.get("score", {}).items():
        out[f"score/{name}"] = jnp.broadcast_to(value, out["text_mask"].shape)
    if towers.fused:
        return out | _fused(towers, heads, features, out)
    return out


def _fused(
    towers: Towers, heads: Params, features: dict[str, Array], out: dict[str, Array]
) -> dict[str, Array]:
    """`fused:<modalities>` [B, dim]: VAST's one vector of several, of those that a clip has."""
    made = {f"fused:{name}": out[name] for name in towers.clip_modalities}
    for subset in subsets(towers.clip_modalities):
        if len(subset) > 1:
            head = heads["fused"]["_".join(subset)]
            joint = jnp.concatenate([features[name] for name in subset], axis=-1)
            projected = _project(joint, head["kernel"]) + head["bias"][None]
            made[f"fused:{'+'.join(subset)}"] = _unit(projected)
    present = {
        name: jnp.stack([out[f"{name}_mask"] for name in subset], axis=1)
        for subset in subsets(towers.clip_modalities)
        for name in [f"fused:{'+'.join(subset)}"]
    }
    vectors = out | made
    return {
        name: fused(vectors, tuple(name.removeprefix("fused:").split("+")), mask)
        for name, mask in present.items()
    }


def _project(feature: Array, kernel: Array) -> Array:
    return jnp.matmul(feature.astype(jnp.float32), kernel, precision="highest")


def _unit(x: Array) -> Array:
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-12))


def _features(towers: Towers, params: Params, batch: Batch) -> dict[str, Array]:
    """Pooled encoder outputs [B, width] of every modality, with their presence masks [B]."""
    pooled = towers.features(params, batch, None)
    masks = {f"{name}_mask": batch[f"{name}_mask"] for name in pooled}
    return {name: value.astype(jnp.float32) for name, value in pooled.items()} | masks


def _loss(
    config: Any, towers: Towers, params: Params, batch: Batch, key: Array, step: Array
) -> tuple[Array, Metrics]:
    tokens, features = towers.encode_all(params, batch, key)
    vectors = _vectors(towers, params, batch, features)
    total, count, metrics, found = contrastive_loss(
        config, towers, params, vectors, jax.random.fold_in(key, 100), step
    )
    metrics["loss"] = (total, count)
    loss = total / jnp.maximum(count, 1.0)
    if config.matching:
        assert found is not None
        seen, mask = condition(towers, params, batch, tokens, config.condition)
        matched = partial(judge, towers, params, key=jax.random.fold_in(key, 101))
        paired = vectors["text_mask"] & mask.any(1)
        rows, number, right = matching_loss(
            matched, batch["text"], seen, mask, paired, found.hard_clip, found.hard_anchor
        )
        metrics["loss/matching"] = (rows, number)
        metrics["matched rightly %"] = (100.0 * right, number)
        loss = loss + config.matching * rows / jnp.maximum(number, 1.0)
    return loss, metrics


def _second_stage(config: Any, towers: Towers, score: Score) -> SecondStage | None:
    """Match probabilities of the nearest clips by `score`, seen through all their modalities."""
    if not (towers.matching and config.candidates):
        return None

    def see(params: Params, batch: Batch) -> tuple[Array, Array]:
        tokens, _ = towers.encode_all(params, batch, None)
        return condition(towers, params, batch, tokens, towers.clip_modalities)

    def match(params: Params, text: Array, seen: Array, mask: Array) -> Array:
        return jax.nn.softmax(judge(towers, params, text, seen, mask, None))[:, 1]

    return SecondStage(
        candidates=partial(candidate_pairs, score, top=config.candidates),
        see=see,
        match=match,
    )
