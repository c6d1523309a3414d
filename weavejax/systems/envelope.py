"""The envelope network of Video-Foley and Fol·AI: a silent video to the level of its sound over time.

Lee et al., "Video-Foley", arXiv 2408.11915 (its Video2RMS); Fol·AI's first stage follows it
(arXiv 2412.15023). Features of every frame go through convolutions over time, a bidirectional LSTM
and a matrix from frames to envelope steps; each step, 8 ms, is one of 64 classes of level, trained
by a cross-entropy that forgives neighbours. Optionally a second head says of every frame whether a
sound begins in it, its loss weighted by the published λ of 0.001.

The published features, of BN-Inception on pictures and on optical flow, are a choice here: an image
tower (`systems.encoders`) looks at every frame, by default one of the kind that GRAM has, under the
same name `vision`, so that one trained there can be taken over (`config.init`), kept as it is or
trained on. In the place of the flow stands `motion`: how much every part of the picture changes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import reduce
from jax import Array

from weavejax.dials.controls import Envelope
from weavejax.dials.envelope import smoothing_matrix
from weavejax.dials.quantise import class_levels, quantise, target_table
from weavejax.dials.when import level_envelope
from weavejax.errors import UserError
from weavejax.metrics.envelopes import measure_predicted
from weavejax.metrics.measured import Taken
from weavejax.metrics.report import Report, measured_report
from weavejax.models import envelope_net, vit
from weavejax.models.envelope_net import EnvelopeNet, EnvelopeNetConfig
from weavejax.ops.rms import FRAME, HOP, rms_frames
from weavejax.systems.base import Batch, Latents, Metrics, Params, System, never, under
from weavejax.systems.encoders import Tower, make_tower
from weavejax.systems.latents import make_latents
from weavejax.systems.onset import detection_report, frame_labels

RATE = 16_000  # Hz of the sound whose level is predicted
STEP_RATE = RATE / HOP  # envelope steps a second: 125
SMOOTHING = ("none", "zero_phase")
DECODING = ("argmax", "median")
FEATURES = ("vision", "motion")
GREYS = 4.0  # of 255, that a part of a picture with something moving in it changes by on average
POOLING = ("class", "mean", "patches")
WITHIN = (0, 2, 5, 8)  # classes that the true one may be away, as Video-Foley reports accuracy
HEADLINE = "envelopes/envelope_skill_16k_rms512_128_predicted"


def changes(video: Array, cell: int) -> Array:
    """How much lighter, and how much darker, each part of a picture got since the frame before.

    Args:
      video: uint8 [B, T, H, W, 3]; `cell` divides H and W.
      cell: side of a part, pixels.

    Returns:
      float32 [B, T, 2 · parts], not negative: means over the parts, of the order of 1 where something
      moves; 0 in the first frame.
    """
    light = video.astype(jnp.float32).mean(-1)
    change = light - jnp.concatenate([light[:, :1], light[:, :-1]], axis=1)
    both = jnp.stack([jnp.maximum(change, 0.0), jnp.maximum(-change, 0.0)], axis=2)
    means = reduce(both, "b t c (h y) (w x) -> b t (c h w)", "mean", y=cell, x=cell)
    return means / GREYS


@dataclass(frozen=True)
class Network:
    """What turns frames into an envelope, and how levels are classes.

    Attributes:
      vision: the tower that looks at every frame; None where none does.
      cell: of `motion`, see `changes`; 0 where it is left out.
      frozen: whether the tower stays as it is.
      pool: what is taken of the tower's tokens: their published summary ("class"), their "mean", or
        those of the "patches" side by side, which keeps where something is.
      together: frames of a clip that are encoded at once; 0 for all of them.
      net: sizes of what follows.
      levels: arguments of the quantiser: μ, number of classes, floor.
      decode: the level of a step: that of its likeliest class, or the median of the classes'.
      mass: weight that the smoothed target of each class has in all, [classes].
      smoothing: of the target, before it is cut into classes.
    """

    vision: Tower | None
    cell: int
    frozen: bool
    pool: str
    together: int
    net: EnvelopeNetConfig
    levels: tuple[int, int, float]
    decode: str
    mass: np.ndarray
    smoothing: str


def build(config: Any) -> System:
    """The envelope system of a config: `config.model`, `config.loss`, `config.inputs`, `config.batch`.

    Raises:
      UserError: unknown choices, or shapes that do not fit.
    """
    network = _network(config)
    inputs, net = config.inputs, network.net
    spec = {
        "video": ((net.frames, inputs.size, inputs.size, 3), jnp.uint8),
        "video_mask": ((), jnp.bool_),
        "sound": ((round(inputs.seconds * RATE), 1), jnp.float32),
        "sound_mask": ((), jnp.bool_),
    }
    evaluators = {"envelopes": partial(_report, network)}
    if net.onset:
        spec |= {"onsets": ((inputs.onsets,), jnp.float32), "onsets_mask": ((), jnp.bool_)}
        evaluators["onsets"] = partial(detection_report, inputs.fps, known="onsets_known")
    vision, flops = network.vision, {"envelope": envelope_net.flops(net)}
    latents = _latents(network, config) if vision and network.frozen else None
    if vision and not (latents and latents.chosen):
        flops["vision"] = net.frames * vision.flops(0)
    return System(
        name="envelope",
        batch_spec={
            name: jax.ShapeDtypeStruct((config.batch, *shape), dtype)
            for name, (shape, dtype) in spec.items()
        },
        init=partial(_init, network, inputs.size),
        loss=partial(_loss, network, config.loss, inputs.fps),
        embed=partial(_embed, network, inputs.fps),
        rules=(
            *(under("vision", vision.rules) if vision else ()),
            *under("envelope", envelope_net.rules(net)),
        ),
        evaluators=evaluators,
        flops=flops,
        features=partial(_given, network, key=None) if latents else None,
        latents=latents,
        frozen=(lambda path: path.startswith("vision/")) if network.frozen else never,
        resize={r"^vision/position$": vit.resize_position},
        headline=HEADLINE,
    )


def _network(config: Any) -> Network:
    model, inputs = config.model, config.inputs
    for section, name, known in (
        (model, "pool", POOLING),
        (model, "decode", DECODING),
        (config.loss, "smoothing", SMOOTHING),
    ):
        if section[name] not in known:
            raise UserError(f"{name} {section[name]!r} is none of {', '.join(known)}")
    samples = round(inputs.seconds * RATE)
    if (inputs.rate, inputs.stereo) != (RATE, False) or samples % HOP:
        raise UserError(
            f"the envelope is that of mono sound at {RATE} Hz, a multiple of {HOP} samples long: set "
            "inputs.rate, inputs.stereo and inputs.seconds so"
        )
    if model.net.onset and not inputs.onsets:
        raise UserError("model.net.onset needs the onsets: set inputs.onsets")
    if not model.features or set(model.features) - set(FEATURES):
        raise UserError(f"model.features must name some of {', '.join(FEATURES)}")
    vision = make_tower("vision", config) if "vision" in model.features else None
    width = _width(vision, model.pool, inputs.size) if vision else 0
    cell = 0
    if "motion" in model.features:
        cell = model.cell
        if cell < 1 or inputs.size % cell:
            raise UserError(f"model.cell must divide inputs.size, {inputs.size}")
        width += 2 * (inputs.size // cell) ** 2
    frames = int(np.ceil(inputs.seconds * inputs.fps - 1e-6))
    if model.together and frames % model.together:
        raise UserError(f"model.together must divide the {frames} frames of a clip")
    net = EnvelopeNetConfig(
        features=width,
        frames=frames,
        steps=samples // HOP,
        **model.net,
    )
    return Network(
        vision=vision,
        cell=cell,
        frozen=model.frozen,
        pool=model.pool,
        together=model.together,
        net=net,
        levels=(model.mu, net.classes, model.floor),
        decode=model.decode,
        mass=target_table(net.classes, config.loss.reach, config.loss.sigma).sum(1),
        smoothing=config.loss.smoothing,
    )


def _latents(network: Network, config: Any) -> Latents:
    """How the network trains on what a frozen tower saw, and on levels."""
    net = network.net
    arrays: dict[str, tuple[int, ...]] = {
        "frames": (net.frames, net.features),
        "levels": (net.steps,),
    }
    if net.onset:
        arrays["onsets"] = (config.inputs.onsets,)
    sections = {"model": ("features", "vision", "pool", "cell"), "loss": ("smoothing",)}
    return make_latents(config, arrays, ("vision",), sections)


def _width(tower: Tower, pool: str, size: int) -> int:
    """Of the features that a tower gives for a frame."""
    if pool != "patches":
        return tower.width
    frame = tower.prepare(jnp.zeros((1, size, size, 3), jnp.uint8))
    made = partial(tower.network.init_with_output, deterministic=True)
    tokens, _ = jax.eval_shape(made, jax.random.key(0), *frame)
    return (tokens.shape[1] - 1) * tower.width


def _pool(tower: Tower, pool: str, tokens: Array, inputs: tuple[Array, ...]) -> Array:
    """[N, L, width] → [N, features]."""
    if pool == "class":
        return tower.pool(tokens, *inputs)
    if pool == "mean":
        return tokens.mean(1)
    return tokens[:, 1:].reshape(len(tokens), -1)  # the first token is the summary


def _init(network: Network, size: int, key: Array) -> Params:
    net = network.net
    made: dict[str, Any] = {}
    if network.vision:
        frame = network.vision.prepare(jnp.zeros((1, size, size, 3), jnp.uint8))
        init: Any = partial(network.vision.network.init, deterministic=True)
        made["vision"] = init(jax.random.fold_in(key, 1), *frame)["params"]
    features = jnp.zeros((1, net.frames, net.features))
    found: Any = EnvelopeNet(net).init(key, features, deterministic=True)
    return made | {"envelope": found["params"]}


def _features(network: Network, params: Params, video: Array, key: Array | None) -> Array:
    """[B, T, H, W, 3] → [B, T, features]; `key` None = no dropout in the tower."""
    found = []
    if network.vision:
        found.append(_encode(network, network.vision, params["vision"], video, key))
    if network.cell:
        found.append(changes(video, network.cell))
    return jnp.concatenate([each.astype(jnp.float32) for each in found], axis=-1)


def _given(
    network: Network, params: Params, batch: Batch, *, key: Array | None
) -> dict[str, Array]:
    """What is trained on: float32, each with a mask bool [B]; `key` as in `_features`.

    Returns:
      `frames` [B, T, features]; `levels` [B, steps], see `target_levels`; with an onset head `onsets`
      [B, K], seconds.
    """
    found = {
        "frames": _features(network, params, batch["video"], key),
        "frames_mask": batch["video_mask"],
        "levels": target_levels(batch["sound"], network.smoothing),
        "levels_mask": batch["sound_mask"],
    }
    if network.net.onset:
        found |= {name: batch[name] for name in ("onsets", "onsets_mask")}
    return found


def _encode(network: Network, tower: Tower, params: Any, video: Array, key: Array | None) -> Array:
    still = key is None or network.frozen

    def encode(frames: Array, number: Array) -> Array:
        """[B, t, H, W, 3] → [B, t, width]."""
        inputs = tower.prepare(frames.reshape(-1, *frames.shape[2:]))
        # Frames of one part share no stochastic depth with those of another.
        rngs = {} if still or key is None else {"dropout": jax.random.fold_in(key, number)}
        tokens: Any = tower.network.apply(
            {"params": params}, *inputs, deterministic=still, rngs=rngs
        )
        pooled = _pool(tower, network.pool, tokens, inputs)
        return pooled.reshape(*frames.shape[:2], -1)

    batch, frames = video.shape[:2]
    if not network.together or network.together == frames:
        return encode(video, jnp.int32(0))
    parts = video.reshape(batch, -1, network.together, *video.shape[2:]).swapaxes(0, 1)
    numbers = jnp.arange(len(parts), dtype=jnp.int32)
    # One part after the other, its activations made again in the backward pass.
    found = jax.lax.map(lambda part: jax.checkpoint(encode)(*part), (parts, numbers))
    return found.swapaxes(0, 1).reshape(batch, frames, -1)


def target_levels(sound: Array, smoothing: str) -> Array:
    """RMS of mono sound at 16 kHz in frames of 512 samples every 128, smoothed as in Video-Foley.

    Args:
      sound: [B, S, 1].
      smoothing: "zero_phase", the published elliptic low-pass run both ways, or "none".

    Returns:
      float32 [B, S // 128], none of them negative.
    """
    levels = rms_frames(sound[..., 0], frame=FRAME, hop=HOP)
    if smoothing == "none":
        return levels
    matrix = jnp.asarray(smoothing_matrix(levels.shape[1]), jnp.float32)
    return jnp.maximum(jnp.matmul(levels, matrix, precision="highest"), 0.0)


def _loss(
    network: Network,
    config: Any,
    fps: float,
    params: Params,
    batch: Batch,
    key: Array,
    step: Array,
) -> tuple[Array, Metrics]:
    """Of a batch of clips, or of what `_given` made of one."""
    del step
    tower_key, net_key = jax.random.split(key)
    given = batch if "frames" in batch else _given(network, params, batch, key=tower_key)
    known = given["frames_mask"] & given["levels_mask"]
    apply: Any = EnvelopeNet(network.net).apply
    found = apply(
        {"params": params["envelope"]},
        given["frames"],
        deterministic=False,
        known=known,
        rngs={"dropout": net_key},
    )
    codes = quantise(given["levels"], *network.levels)
    table = target_table(network.net.classes, config.reach, config.sigma)
    targets = jnp.asarray(table)[codes]
    entropy = -(targets * jax.nn.log_softmax(found["envelope"], axis=-1)).sum(-1)
    weight = jnp.broadcast_to(known[:, None], entropy.shape).astype(jnp.float32)
    count = weight.sum()
    total = (weight * entropy).sum()
    away = jnp.abs(found["envelope"].argmax(-1).astype(jnp.int32) - codes)
    loss = total / jnp.maximum(count, 1.0)
    metrics = {
        "loss/envelope": (total, count),
        "classes right %": (100.0 * jnp.where(away == 0, weight, 0.0).sum(), count),
        "classes within 5 %": (100.0 * jnp.where(away <= 5, weight, 0.0).sum(), count),
    }
    if network.net.onset:
        onset, metrics["loss/onset"] = _onset_loss(found["onset"], given, known, fps)
        loss += config.onset * onset
    return loss, metrics | {"loss": (loss * count, count)}


def _onset_loss(
    logits: Array, batch: Batch, known: Array, fps: float
) -> tuple[Array, tuple[Array, Array]]:
    """Binary cross-entropy over the frames of clips whose onsets are known, unweighted as published."""
    labels = frame_labels(batch["onsets"], logits.shape[1], fps)
    known = known & batch["onsets_mask"]
    weight = jnp.broadcast_to(known[:, None], labels.shape).astype(jnp.float32)
    entropy = labels * jax.nn.softplus(-logits) + (1 - labels) * jax.nn.softplus(logits)
    total, count = (weight * entropy).sum(), weight.sum()
    return total / jnp.maximum(count, 1.0), (total, count)


def decode_levels(
    logits: Array, levels: tuple[int, int, float], how: str, mass: np.ndarray
) -> tuple[Array, Array]:
    """Classes and levels of an envelope.

    Args:
      logits: float32 [B, T, classes].
      levels: of the quantiser: μ, number of classes, floor.
      how: "argmax", the level of the likeliest class, as published; "median", that of the class up to
        which half of the probability lies, which costs least in E-L1 where the network is unsure.
      mass: weight that the target of each class has in all [classes]. The published targets are not
        normalised, and silence is not smoothed: a network is taught the other classes nearly three
        times as often as they occur. The median takes that back, the published argmax does not.

    Returns:
      The likeliest classes int32 [B, T], and linear RMS float32 [B, T].
    """
    codes = logits.argmax(-1).astype(jnp.int32)
    chosen = codes
    if how == "median":
        weight = jnp.log(jnp.asarray(mass, jnp.float32)).reshape((1,) * (logits.ndim - 1) + (-1,))
        below = jnp.cumsum(jax.nn.softmax(logits - weight, axis=-1), axis=-1) < 0.5
        chosen = jnp.minimum(below.sum(-1, dtype=jnp.int32), logits.shape[-1] - 1)
    return codes, jnp.asarray(class_levels(*levels))[chosen]


def _embed(network: Network, fps: float, params: Params, batch: Batch) -> dict[str, Array]:
    """The predicted envelope, and the truth to hold it against.

    Returns:
      `envelope` float32 [B, T], linear RMS at 125 Hz, and `codes` int32 [B, T], its likeliest classes;
      `truth` float32 [B, T], RMS of the sound, and `target` int32 [B, T], the classes that were to be
      found; `known` bool [B]. With an onset head also `logits` and `labels` float32 [B, frames],
      `onsets` float32 [B, K] and `onsets_known` bool [B].
    """
    apply: Any = EnvelopeNet(network.net).apply
    features = _features(network, params, batch["video"], None)
    found = apply({"params": params["envelope"]}, features, deterministic=True)
    codes, levels = decode_levels(found["envelope"], network.levels, network.decode, network.mass)
    known = batch["video_mask"] & batch["sound_mask"]
    out = {
        "envelope": levels,
        "codes": codes,
        "truth": target_levels(batch["sound"], "none"),
        "target": quantise(target_levels(batch["sound"], network.smoothing), *network.levels),
        "known": known,
    }
    if network.net.onset:
        out |= {
            "logits": found["onset"],
            "labels": frame_labels(batch["onsets"], network.net.frames, fps),
            "onsets": batch["onsets"],
            "onsets_known": known & batch["onsets_mask"],
        }
    return out


def envelope_controls(levels: np.ndarray) -> Envelope:
    """A predicted envelope as it stands in a controls file.

    Args:
      levels: float [T], linear RMS at 125 Hz: one row of what `embed` calls `envelope`.
    """
    # The frame of the first value is centred on the middle of the first hop.
    return level_envelope(levels, STEP_RATE, start=0.5 / STEP_RATE)


def _report(network: Network, found: Mapping[str, np.ndarray]) -> Report:
    rows = np.flatnonzero(found["valid"] & found["known"])
    mu, classes, floor = network.levels
    measured = measure_predicted(
        found["truth"][rows],
        found["envelope"][rows],
        found["target"][rows],
        found["codes"][rows],
        class_levels(mu, classes, floor),
        f"mu{mu}_{classes}{'_smoothed' * (network.smoothing != 'none')}",
        Taken(str(found["manifest"]), RATE, "none"),
        within=WITHIN,
    )
    return measured_report("Envelopes predicted from the frames", measured)
