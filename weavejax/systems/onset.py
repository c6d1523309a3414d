"""The onset network of SyncFusion: a silent video to the moments at which something sounds.

Comunità et al., "SyncFusion: Multimodal Onset-synchronized Video-to-Audio Foley Synthesis", ICASSP
2024, arXiv 2310.15247. An R(2+1)D looks at 2 s of video at 15 frames a second and says of every frame
whether an onset falls into it; binary cross-entropy in which the positive frames of a batch weigh as
much as its negative ones.

Ours, with `model.centred`: the network sees the frames less their mean over the window, so that what
stands still, most of a picture, does not hide what moves. A small network learns from a few thousand
windows so, where otherwise it hardly starts to.

Ours too, where the published code leaves a choice or contradicts itself: evaluation sees the middle of
the frames and no colour augmentation (there both are random in validation too), and one threshold, a
logit of 0.5, for all that is reported and exported (there 0.5 on the logit in the export, a probability
of 0.75 in the metrics).
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from weavejax.dials.onsets import EXPORT_LOGIT
from weavejax.metrics.detection import measure_detection
from weavejax.metrics.measured import Taken
from weavejax.metrics.report import Report, measured_report
from weavejax.models import r2plus1d
from weavejax.models.r2plus1d import R2Plus1D, R2Plus1DConfig
from weavejax.ops.colour import jitter
from weavejax.systems.base import Batch, Metrics, Params, System

# Of the pictures that torchvision's networks are trained on; the published recipe.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HEADLINE = "onsets/detector_ap_clips_50ms"
Logits = Callable[..., Array]  # of parameters and pictures, as `_logits`


def build(config: Any) -> System:
    """The onset system of a config: `config.model`, `config.loss`, `config.inputs`, `config.batch`."""
    network = _network(config.model)
    logits = partial(_logits, network, config.model.centred)
    inputs = config.inputs
    frames = round(inputs.seconds * inputs.fps)
    video = ((frames, inputs.size, inputs.size, 3), jnp.uint8)
    spec = {
        "video": video,
        "video_mask": ((), jnp.bool_),
        "onsets": ((inputs.onsets,), jnp.float32),
        "onsets_mask": ((), jnp.bool_),
    }
    return System(
        name="onset",
        batch_spec={
            name: jax.ShapeDtypeStruct((config.batch, *shape), dtype)
            for name, (shape, dtype) in spec.items()
        },
        init=partial(_init, network),
        loss=partial(_loss, logits, config.loss, inputs.fps),
        embed=partial(_embed, logits, inputs.fps),
        rules=r2plus1d.rules(network),
        evaluators={"onsets": partial(detection_report, inputs.fps)},
        flops={"network": r2plus1d.flops(network, frames, inputs.size)},
        headline=HEADLINE,
    )


def _network(section: Any) -> R2Plus1DConfig:
    sizes = {name: value for name, value in section.items() if name != "centred"}
    sizes |= {"widths": tuple(section.widths), "blocks": tuple(section.blocks)}
    return R2Plus1DConfig(**sizes)


def _init(network: R2Plus1DConfig, key: Array) -> Params:
    made: Any = R2Plus1D(network).init(key, jnp.zeros((1, 2, 32, 32, 3)), deterministic=True)
    return made["params"]


def _logits(
    network: R2Plus1DConfig, centred: bool, params: Params, video: Array, *, training: bool
) -> Array:
    """Of pictures in [0, 1]."""
    row = (1,) * (video.ndim - 1) + (3,)
    mean, std = (jnp.asarray(each, jnp.float32).reshape(row) for each in (MEAN, STD))
    if centred:
        mean = video.mean(1, keepdims=True)
    apply: Any = R2Plus1D(network).apply
    return apply({"params": params}, (video - mean) / std, deterministic=not training)


def frame_labels(onsets: Array, frames: int, fps: float) -> Array:
    """1 at frame ⌊fps · t⌋ of every onset, else 0.

    Args:
      onsets: seconds [B, K]; negative ones are no onsets.
      frames: T.
      fps: frames a second.

    Returns:
      float32 [B, T].
    """
    frame = jnp.where(onsets >= 0, jnp.floor(onsets * fps), -1).astype(jnp.int32)
    hit = frame[:, :, None] == jnp.arange(frames, dtype=jnp.int32)[None, None]
    return hit.any(1).astype(jnp.float32)


def _loss(
    logits_of: Logits,
    config: Any,
    fps: float,
    params: Params,
    batch: Batch,
    key: Array,
    step: Array,
) -> tuple[Array, Metrics]:
    del step
    video = batch["video"].astype(jnp.float32) / 255.0
    if any(config.jitter):
        video = jitter(video, key, tuple(config.jitter))
    logits = logits_of(params, video, training=True)
    labels = frame_labels(batch["onsets"], logits.shape[1], fps)
    known = (batch["video_mask"] & batch["onsets_mask"])[:, None].astype(jnp.float32)
    count = (known * jnp.ones_like(labels)).sum()
    positive = (known * labels).sum()
    weight = (count - positive) / jnp.maximum(positive, 1.0)
    entropy = weight * labels * jax.nn.softplus(-logits) + (1 - labels) * jax.nn.softplus(logits)
    total = (known * entropy).sum()
    right = known * ((logits > EXPORT_LOGIT) == (labels > 0)).astype(jnp.float32)
    return total / jnp.maximum(count, 1.0), {
        "loss": (total, count),
        "frames right %": (100.0 * right.sum(), count),
        "frames with an onset %": (100.0 * positive, count),
    }


def _embed(logits_of: Logits, fps: float, params: Params, batch: Batch) -> dict[str, Array]:
    """`logits` float32 [B, T], and the truth to hold them against: `onsets`, `labels`, `known`."""
    video = batch["video"].astype(jnp.float32) / 255.0
    logits = logits_of(params, video, training=False)
    return {
        "logits": logits,
        "onsets": batch["onsets"],
        "labels": frame_labels(batch["onsets"], logits.shape[1], fps),
        "known": batch["video_mask"] & batch["onsets_mask"],
    }


def detection_report(
    fps: float, found: Mapping[str, np.ndarray], *, known: str = "known"
) -> Report:
    """Onsets found in frames, of the clips that `known` marks.

    Args:
      fps: frames a second.
      found: `logits` and `labels` [N, T], `onsets` [N, K], `valid` and `known` [N], `manifest`.
      known: name of the mask.
    """
    rows = np.flatnonzero(found["valid"] & found[known])
    truth = [found["onsets"][row][found["onsets"][row] >= 0] for row in rows]
    logits, labels = found["logits"][rows], found["labels"][rows]
    taken = Taken(str(found["manifest"]))
    measured = measure_detection(list(logits), list(labels), truth, fps, EXPORT_LOGIT, taken)
    return measured_report("Onsets found in the frames", measured)
