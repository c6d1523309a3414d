"""SyncFusion: sound whose hits fall on given onsets, of a given meaning, by diffusion on the waveform.

Comunità et al., "SyncFusion: Multimodal Onset-synchronized Video-to-Audio Foley Synthesis", ICASSP
2024, arXiv 2310.15247. A UNet on the waveform itself (`models.waveform_unet`) predicts the velocity;
it sees the onset track, a unit impulse a hit, at every level, and the meaning as one token. The
onsets are drawn by hand, annotated, or found by the onset network (`systems.onset`).

The meaning is CLAP's embedding, as published, or, where there is no CLAP, comes from a text encoder
that learns with the rest (`systems.meanings`).

Ours: meaning and onsets are left out now and then in training, so that what and when each have a scale
of guidance (`diffusion.guidance`). With `drop.when` at 0 and a scale of 1 for when it is the published
guidance. Its training code never leaves the meaning out: what stands for none there is as it was drawn.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from weavejax.dials.controls import When
from weavejax.diffusion.guidance import per_dial
from weavejax.diffusion.noise import clip_noise
from weavejax.diffusion.samplers import Course, Denoiser, find_sampler
from weavejax.diffusion.schedules import TIMES, linear
from weavejax.diffusion.windows import Windows, cut, plan_windows
from weavejax.errors import UserError
from weavejax.losses.denoising import denoising_loss, draw_kept, noised
from weavejax.metrics.envelopes import measure_envelopes
from weavejax.metrics.onsets import measure_onsets
from weavejax.metrics.report import Report, measured_report
from weavejax.models import waveform_unet, waveform_unet_names
from weavejax.models.waveform_unet import WaveformUNet, WaveformUNetConfig
from weavejax.systems.base import Batch, Generator, Metrics, Params, System, under
from weavejax.systems.meanings import make_meaning
from weavejax.systems.sampling import Sampling

HEADLINE = "controlled/onset_f1_sound_50ms_annotated"
DIALS = ("when", "what")
TOGETHER = 32  # windows that the network looks at at once


class Networks:
    """The networks of a config: those that give the meaning, and the UNet."""

    def __init__(self, config: Any) -> None:
        section = config.model.unet
        sizes = {n: tuple(v) if isinstance(v, (list, tuple)) else v for n, v in section.items()}
        self.unet = WaveformUNetConfig(**cast(dict[str, Any], sizes))
        self.said = make_meaning(config)
        self.rate, self.samples = (
            config.inputs.rate,
            round(config.inputs.seconds * config.inputs.rate),
        )
        self.length = -(-self.samples // self.unet.multiple) * self.unet.multiple
        self.onsets = config.inputs.onsets
        self.gain = config.model.gain

    def init(self, key: Array) -> Params:
        """Parameters of all of them."""
        keys = jax.random.split(key)
        sound = jnp.zeros((1, self.unet.multiple, 1))
        embedding = jnp.zeros((1, self.unet.tokens, self.unet.embedding))
        unet: Any = WaveformUNet(self.unet).init(
            keys[1], sound, jnp.zeros(1), embedding, jnp.ones(1, bool), sound
        )
        return {**self.said.init(keys[0]), "network": unet["params"]}

    def meaning(self, params: Params, batch: Batch, key: Array | None) -> Array:
        """The condition's token [B, 1, embedding]; `key` None: as generation takes it."""
        return self.said.token(params, batch, key)

    def padded(self, sound: Array) -> Array:
        """[B, S, C] with silence up to `room(S)`."""
        after = self.room(sound.shape[1]) - sound.shape[1]
        return jnp.pad(sound, ((0, 0), (0, after), (0, 0)))

    def room(self, samples: int) -> int:
        """Length of the state of a clip: what the UNet takes of windows ends in silence as learnt."""
        return max(samples, self.samples) + self.length - self.samples

    def windows(self, samples: int, overlap: float) -> Windows:
        """Over the state of a clip; `overlap` in seconds, but at most half a window."""
        places = min(round(overlap * self.rate), self.length // 2)
        return plan_windows(self.room(samples), self.length, places)

    def velocity(
        self, params: Params, x: Array, time: Array, condition: Mapping[str, Array]
    ) -> Array:
        """Of the UNet under `meaning` [B, 1, E], `what` bool [B] and `track` [B, L, 1]."""
        apply: Any = WaveformUNet(self.unet).apply
        given = (condition["meaning"], condition["what"], condition["track"])
        return apply({"params": params["network"]}, x, time, *given)

    def rules(self) -> tuple[Any, ...]:
        """Sharding table."""
        return (*self.said.rules(), *under("network", waveform_unet.rules(self.unet)))


def build(config: Any) -> System:
    """The system of a config: `config.model`, `.loss`, `.sample`, `.inputs`, `.batch`."""
    _check(config)
    networks = Networks(config)
    inputs = config.inputs
    spec = {
        "sound": ((networks.samples, 1), jnp.float32),
        "sound_mask": ((), jnp.bool_),
        "onsets": ((inputs.onsets,), jnp.float32),
        "onsets_mask": ((), jnp.bool_),
        **networks.said.spec(),
    }
    report = partial(_report, inputs.rate)
    return System(
        name="syncfusion",
        batch_spec={
            name: jax.ShapeDtypeStruct((config.batch, *shape), dtype)
            for name, (shape, dtype) in spec.items()
        },
        init=networks.init,
        loss=partial(_loss, networks, config.loss),
        embed=partial(_embed, networks, config.sample),
        rules=networks.rules(),
        evaluators={
            "controlled": partial(report, "generated", "Sound from onsets and meaning"),
            "uncontrolled": partial(report, "uncontrolled", "The same model without onsets"),
        },
        generator=make_generator(networks, config.sample),
        told={"predicted": partial(report, "predicted", "Sound from predicted onsets and meaning")},
        flops={
            **networks.said.flops(),
            "network": waveform_unet_names.flops(networks.unet, networks.length),
        },
        frozen=networks.said.frozen,
        headline=HEADLINE,
    )


def _check(config: Any) -> None:
    if config.inputs.stereo:
        raise UserError("inputs.stereo: the waveform network is of one channel")
    if config.loss.times not in TIMES:
        raise UserError(f"loss.times {config.loss.times!r} is none of {', '.join(TIMES)}")
    find_sampler(config.sample.sampler)
    if len(config.sample.scales) != len(DIALS):
        raise UserError(f"sample.scales needs a number for each of {', '.join(DIALS)}")


def impulse_track(onsets: Array, samples: int, rate: int) -> Array:
    """1 at sample ⌊t · rate⌋ of every onset, else 0.

    Args:
      onsets: seconds [B, K]; negative ones are no onsets.
      samples: length of the track.
      rate: Hz.

    Returns:
      float32 [B, samples, 1].
    """
    place = jnp.where(onsets >= 0, jnp.floor(onsets * rate), samples).astype(jnp.int32)
    rows = jnp.broadcast_to(jnp.arange(len(onsets), dtype=jnp.int32)[:, None], place.shape)
    track = jnp.zeros((len(onsets), samples)).at[rows, place].set(1.0, mode="drop")
    return track[..., None]


def after_first(sound: Array, onsets: Array, rate: int) -> Array:
    """The sound with silence before its first onset, as published; as it is without onsets."""
    first = jnp.where(onsets >= 0, onsets, jnp.inf).min(1)
    first = jnp.where(jnp.isfinite(first), first, 0.0)
    time = jnp.arange(sound.shape[1], dtype=jnp.float32)[None] / rate
    return jnp.where((time >= first[:, None])[..., None], sound, 0.0)


def _loss(
    networks: Networks, config: Any, params: Params, batch: Batch, key: Array, step: Array
) -> tuple[Array, Metrics]:
    del step
    noise_key, keep_key, text_key = jax.random.split(key, 3)
    sound = after_first(batch["sound"], batch["onsets"], networks.rate) * networks.gain
    asked = noised(noise_key, networks.padded(sound), TIMES[config.times])
    keep = draw_kept(keep_key, len(sound), dict(config.drop))
    track = networks.padded(impulse_track(batch["onsets"], networks.samples, networks.rate))
    condition = {
        "meaning": networks.meaning(params, batch, text_key),
        "what": keep["what"] & networks.said.known(batch, training=True),
        "track": jnp.where(keep["when"][:, None, None], track, 0.0),
    }
    predicted = networks.velocity(params, asked.x, asked.time, condition)
    known = (batch["sound_mask"] & batch["onsets_mask"]).astype(jnp.float32)
    total, weight = denoising_loss(predicted, asked.target, weight=known)
    return total / jnp.maximum(weight, 1.0), {"loss": (total, weight)}


def generate(
    networks: Networks,
    config: Any,
    params: Params,
    batch: Batch,
    keys: Array,
    *,
    scales: Array | None = None,
    samples: int | None = None,
    steps: int | None = None,
    known: tuple[Array, Array] | None = None,
) -> Array:
    """Sound for onsets and meanings, of any length.

    Clips longer than the network's are made in windows that overlap by `config.overlap` seconds and
    agree there at every step (`diffusion.windows`), each with its piece of the onset track.

    Args:
      networks: of the system.
      config: `config.sample`: sampler, steps, scales of when and what, overlap of windows.
      params: of the system.
      batch: `onsets` [B, K], `text` [B, L], `text_mask` [B]; to CLAP a sound as well or instead,
        `heard` [B, T, M] and `heard_mask` [B].
      keys: of each clip [B].
      scales: of when and what, [2] or [B, 2], in place of the config's.
      samples: of the sound; None for the network's own.
      steps: in place of the config's.
      known: sound [B, samples, 1], and where to make it anew, bool [B, samples]; elsewhere it stays.

    Returns:
      float32 [B, samples, 1].
    """
    samples = networks.samples if samples is None else samples
    return make_generator(networks, config).sample(
        params, batch, keys, scales, samples=samples, steps=steps, known=known
    )


def make_generator(networks: Networks, config: Any) -> Generator:
    """The generator of the system; `config` is `config.sample`."""
    overlap = config.get("overlap", networks.length / networks.rate / 4)
    sampling = Sampling(
        windows=lambda samples: networks.windows(samples, overlap),
        noise=lambda keys, windows: clip_noise(keys, (windows.length, 1)),
        prepare=partial(_prepare, networks),
        denoiser=partial(_denoiser, networks, config),
    )
    return Generator(
        rate=networks.rate,
        channels=1,
        unit=1,
        when="onsets",
        dials=DIALS,
        scales=tuple(config.scales),
        steps=config.steps,
        condition=partial(_condition, networks),
        table=lambda steps: find_sampler(config.sampler)(linear(steps)),
        begin=sampling.begin,
        advance=sampling.advance,
        finish=partial(_finish, networks),
    )


def _prepare(
    networks: Networks,
    params: Params,
    batch: Batch,
    scales: Array,
    windows: Windows,
    samples: int,
    known: tuple[Array, Array] | None,
) -> dict[str, Any]:
    conditions, scales = _conditions(networks, params, batch, windows, samples, scales)
    kept = None
    if known is not None:
        clean, renew = (networks.padded(x) for x in (known[0] * networks.gain, known[1][..., None]))
        kept = (clean, renew[..., 0])
    return {"conditions": conditions, "scales": scales, "kept": kept}


def _denoiser(
    networks: Networks, config: Any, params: Params, prepared: Mapping[str, Any]
) -> Denoiser:
    conditions = prepared["conditions"]
    together = config.get("together", TOGETHER) * len(conditions)
    network = _in_parts(partial(networks.velocity, params), together)
    return per_dial(network, conditions, prepared["scales"])


def _finish(networks: Networks, params: Params, course: Course, *, samples: int) -> Array:
    del params
    return course.x[:, :samples] / networks.gain


def _conditions(
    networks: Networks,
    params: Params,
    batch: Batch,
    windows: Windows,
    samples: int,
    scales: Array,
) -> tuple[list[dict[str, Array]], Array]:
    """From nothing to all, of every window [B · N], and the scales that go with them."""
    number = len(windows.starts)
    whole = networks.padded(impulse_track(batch["onsets"], samples, networks.rate))
    track = cut(whole, windows)
    meaning = jnp.repeat(networks.meaning(params, batch, None), number, axis=0)
    what = jnp.repeat(networks.said.known(batch, training=False), number, axis=0)
    none = jnp.zeros_like(what)
    steps = [(jnp.zeros_like(track), none), (track, none), (track, what)]
    conditions = [{"meaning": meaning, "what": w, "track": t} for t, w in steps]
    return conditions, scales if scales.ndim == 1 else jnp.repeat(scales, number, axis=0)


def _in_parts(network: Any, most: int) -> Any:
    """The network on at most so many windows at once, one part after the other."""

    def in_parts(x: Array, time: Array, condition: Any) -> Array:
        if len(x) <= most:
            return cast(Array, network(x, time, condition))
        number = -(-len(x) // most)
        size = -(-len(x) // number)

        def split(leaf: Array) -> Array:
            """[N, ...] → [number, size, ...], filled up with the first ones."""
            filled = jnp.concatenate([leaf, leaf[: number * size - len(leaf)]])
            return filled.reshape(number, size, *leaf.shape[1:])

        parts = jax.tree.map(split, (x, time, condition))
        found: Array = jax.lax.map(lambda part: network(*part), parts)
        return found.reshape(-1, *found.shape[2:])[: len(x)]

    return in_parts


def _condition(networks: Networks, when: When, samples: int) -> dict[str, np.ndarray]:
    """`onsets` float32 [K], K the same for all clips of that length.

    Raises:
      UserError: there are more than K.
    """
    windows = -(-samples // networks.samples)
    filled = np.full(networks.onsets * windows, -1.0, np.float32)
    times = [onset.time for onset in when.onsets or () if onset.time * networks.rate < samples]
    if len(times) > len(filled):
        raise UserError(
            f"{len(times)} onsets in {samples / networks.rate:.2f} s: the network has learnt of at "
            f"most {networks.onsets} in {networks.samples / networks.rate:g} s"
        )
    filled[: len(times)] = times
    return {"onsets": filled}


def _embed(networks: Networks, config: Any, params: Params, batch: Batch) -> dict[str, Array]:
    """`generated` and `uncontrolled` sounds [B, S], the `truth`, and the `onsets` asked for.

    Of a batch with `told_onsets` [B, K] also `predicted`, the sound under these. The same noise for
    every clip's place in the batch, at every evaluation.
    """
    numbers = jnp.arange(len(batch["text"]), dtype=jnp.int32)
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(0)))(numbers)
    make = partial(generate, networks, config, params)
    silent = {**batch, "onsets": jnp.full_like(batch["onsets"], -1.0)}
    found = {
        "generated": make(batch, keys)[..., 0],
        "uncontrolled": make(silent, keys)[..., 0],
        "truth": after_first(batch["sound"], batch["onsets"], networks.rate)[..., 0],
        "onsets": batch["onsets"],
        "known": batch["sound_mask"] & batch["onsets_mask"],
    }
    if "told_onsets" in batch:
        found["predicted"] = make({**batch, "onsets": batch["told_onsets"]}, keys)[..., 0]
    return found


def _report(rate: int, name: str, title: str, found: Mapping[str, np.ndarray]) -> Report:
    rows = np.flatnonzero(found["valid"] & found["known"])
    truth, made = list(found["truth"][rows]), list(found[name][rows])
    annotated = [found["onsets"][row][found["onsets"][row] >= 0] for row in rows]
    manifest = str(found["manifest"])
    measured = measure_onsets(truth, made, rate, manifest, annotated=annotated)
    return measured_report(title, measured + measure_envelopes(truth, made, rate, manifest))
