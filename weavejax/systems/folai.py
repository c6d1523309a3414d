"""Fol·AI: stereo sound whose level follows a given envelope, of a given meaning, by latent diffusion.

Gramaccioni et al., "Stable-V2A" (Fol·AI), arXiv 2412.15023: a ControlNet on Stable Audio Open
(arXiv 2407.14358). The envelope stands at the rate of the waveform and goes through the same frozen
autoencoder as the sound (`dials.envelope`), so control and latents are in step by themselves. What is
to be heard is said by a text and by frames, tokens of cross-attention (`systems.folai_networks`).

Two stages, `config.model.stage`. "base" trains the diffusion transformer on latents with what it is
told by, without a control: where the published weights of Stable Audio Open are at hand it is not
needed. Its towers learn with it, or stay as they came (`model.train_towers`). "control" keeps all of
that as it is and trains the control network, which starts as a copy of the base that puts out nothing:
at its first step the base sounds as it did.

Ours, in the place of what is published: the projections of text and frames are trained in the second
stage too (`model.train_projections`; in the published code they were random and stayed so); the
profile "better" of envelopes and latents; and control is left out now and then (`loss.drop.when`). A
clip without control is one for the base alone, with no say of the control network: that is what the
dial when is measured from in guidance (`systems.folai_generation`), and such clips keep the
projections fit for it. Where levels count (`model.normalise` False) the second stage hears clips
louder and quieter than they are, too (`model.levels`), so that the envelope alone says how loud.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from weavejax.diffusion.schedules import TIMES, add_noise, velocity
from weavejax.diffusion.windows import plan_windows
from weavejax.errors import UserError
from weavejax.losses.denoising import denoising_loss, draw_kept, noised
from weavejax.metrics.envelopes import measure_envelopes
from weavejax.metrics.report import Histogram, Report, Table, measured_report
from weavejax.metrics.response import (
    gains_db,
    lags_seconds,
    measure_gain,
    measure_lag,
    measure_skill,
)
from weavejax.models import vit
from weavejax.systems.base import Batch, Metrics, Params, System
from weavejax.systems.folai_features import (
    at_levels,
    extract,
    known_sound,
    training_latents,
)
from weavejax.systems.folai_generation import check_sampling, guided, make_generator, make_latents
from weavejax.systems.folai_networks import COPIES, Networks
from weavejax.systems.levels import at_level

HEADLINES = {
    "base": "denoising/skill",
    "control": "controlled/control_skill_16k_rms512_128",
}
# How an envelope is changed to see whether the sound follows: twice the level, and later.
LOUDER = 20 * float(np.log10(2.0))  # dB
LATER = 0.1  # seconds: less than half the time between two steps or blows, or early looks like late
LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)  # times at which the base's error is taken
SOUNDS = ("controlled", "doubled", "delayed", "uncontrolled")


def build(config: Any) -> System:
    """The system of a config: `config.model`, `.loss`, `.sample`, `.inputs`, `.batch`.

    Raises:
      UserError: unknown choices, or shapes that do not fit.
    """
    networks = Networks(config)
    if config.loss.times not in TIMES:
        raise UserError(f"loss.times {config.loss.times!r} is none of {', '.join(TIMES)}")
    check_sampling(config.sample, networks.latents)
    rate = networks.rate
    evaluators: dict[str, Callable[[Mapping[str, np.ndarray]], Report]] = {
        "uncontrolled": partial(_sound_report, rate, "Sound without an envelope")
    }
    if networks.control:
        evaluators |= {
            "controlled": partial(_control_report, rate, "controlled", "of the truth"),
            "doubled": _doubled_report,
            "delayed": partial(_delayed_report, rate),
        }
    else:
        evaluators["denoising"] = _denoising_report
    # Where autoencoder and towers stay as they are, what they give can be kept.
    still = networks.controlled or not networks.train_towers
    latents = training_latents(networks, config) if still else None
    flops = networks.flops()
    if latents and latents.chosen:
        flops = {part: count for part, count in flops.items() if part not in latents.parts}
    return System(
        name="folai",
        batch_spec=_batch_spec(networks, config.batch),
        init=networks.init,
        loss=partial(_loss, networks, config.loss),
        embed=partial(_embed if networks.control else _embed_base, networks, config.sample),
        rules=networks.rules(),
        evaluators=evaluators,
        flops=flops,
        headline=HEADLINES[config.model.stage],
        generator=make_generator(networks, config.sample) if networks.control else None,
        told={"predicted": partial(_control_report, rate, "predicted", "that was predicted")},
        frozen=networks.frozen,
        passed=frozenset({"dit"}),
        resize={r"^vision/position$": vit.resize_position},
        copies=COPIES,
        features=partial(extract, networks) if still else None,
        latents=latents,
    )


def _batch_spec(networks: Networks, batch: int) -> dict[str, jax.ShapeDtypeStruct]:
    spec: dict[str, tuple[tuple[int, ...], Any]] = {
        "sound": ((networks.samples, networks.channels), jnp.float32),
        "sound_mask": ((), jnp.bool_),
        "text": ((networks.text_length,), jnp.int32),
        "text_mask": ((), jnp.bool_),
    }
    if networks.audio:
        spec["heard"] = (networks.heard, jnp.float32)
        spec["heard_mask"] = ((), jnp.bool_)
    if networks.vision:
        size = networks.size
        spec["video"] = ((networks.frames, size, size, 3), jnp.uint8)
        spec["video_mask"] = ((), jnp.bool_)
    return {
        name: jax.ShapeDtypeStruct((batch, *shape), dtype) for name, (shape, dtype) in spec.items()
    }


def _loss(
    networks: Networks, config: Any, params: Params, batch: Batch, key: Array, step: Array
) -> tuple[Array, Metrics]:
    """The v-objective on latents, over clips with sound; a batch of clips, or of `extract`'s arrays."""
    del step
    keys = jax.random.split(key, 5)
    heard = at_levels if "latent" in batch else _heard
    request = heard(networks, params, batch, keys[0])
    clean = networks.drawn(request["latent"], keys[2])
    asked = noised(keys[1], clean, TIMES[config.times])
    window = plan_windows(networks.latents, networks.latents, 0)
    condition = networks.conditions(params, request, window, key=keys[3])
    keep = draw_kept(keys[4], len(clean), dict(config.drop))
    condition = {**condition, **{dial: keep[dial] for dial in keep if dial in condition}}
    predicted = networks.velocity(params, asked.x, asked.time, condition)
    known = request["latent_mask"].astype(jnp.float32)
    total, weight = denoising_loss(predicted, asked.target, weight=known)
    return total / jnp.maximum(weight, 1.0), {"loss": (total, weight)}


def _heard(networks: Networks, params: Params, batch: Batch, key: Array) -> dict[str, Array]:
    """A batch of clips with what the encoder says of its sound and, for a control, the envelope."""
    sound = networks.prepared(known_sound(batch))
    sound = at_level(sound, networks.levels, networks.level_numbers(key, len(sound)))
    if networks.flip:
        # Upside down sounds the same.
        flipped = jax.random.bernoulli(key, 0.5, (len(sound), 1, 1))
        sound = jnp.where(flipped, -sound, sound)
    found = {**batch, "latent": networks.told(params, sound), "latent_mask": batch["sound_mask"]}
    return found | ({"envelope": networks.envelope(sound)} if networks.control else {})


def _keys(count: int) -> Array:
    """The same for every clip's place in the batch, at every evaluation."""
    numbers = jnp.arange(count, dtype=jnp.int32)
    return jax.vmap(partial(jax.random.fold_in, jax.random.key(0)))(numbers)


def _delayed(envelope: Array, rate: int) -> Array:
    """[B, S, C] later by `LATER`; silence moves in."""
    late = round(LATER * rate)
    return jnp.pad(envelope, ((0, 0), (late, 0), (0, 0)))[:, : envelope.shape[1]]


def _embed(networks: Networks, config: Any, params: Params, batch: Batch) -> dict[str, Array]:
    """Four sounds of every clip from the same noise, all channels mixed: float32 [B, S] each.

    Returns:
      `controlled`, under the envelope of the truth; `doubled`, under twice its level; `delayed`, under
      the same 0.1 s later; `uncontrolled`, without; of a batch with `told_envelope` [B, S, C]
      `predicted`, under that; `truth`; and `known` bool [B].
    """
    told = [batch[name] for name in ("told_envelope",) if name in batch]
    names = (*SOUNDS[:-1], *["predicted"] * len(told), SOUNDS[-1])
    count, sounds = len(batch["text"]), len(names)
    truth = networks.prepared(known_sound(batch))
    envelope = networks.envelope(truth)
    window = plan_windows(networks.latents, networks.latents, 0)
    once = networks.conditions(params, {**batch, "envelope": envelope}, window)
    changed = jnp.stack([2.0 * envelope, _delayed(envelope, networks.rate), *told], 1)
    others = networks.encode_envelope(params, changed.reshape(-1, *envelope.shape[1:]))
    others = others.reshape(count, sounds - 2, *others.shape[1:])
    first = once["control"][:, None]
    # A clip's sounds beside each other, so that they stay on its device.
    control = jnp.concatenate([first, others, first], 1).reshape(-1, *first.shape[2:])
    condition = {name: jnp.repeat(each, sounds, axis=0) for name, each in once.items()}
    heard = jnp.asarray([name != "uncontrolled" for name in names])
    condition |= {"control": control, "when": jnp.tile(heard, count)}
    keys = jnp.repeat(_keys(count), sounds, axis=0)
    made = _mixed(networks, config, params, condition, keys).reshape(count, sounds, -1)
    found = {name: made[:, n] for n, name in enumerate(names)}
    return found | {"truth": truth.mean(2), "known": batch["sound_mask"]}


def _mixed(
    networks: Networks, config: Any, params: Params, condition: Mapping[str, Array], keys: Array
) -> Array:
    """Sounds of one window under these conditions, channels mixed: float32 [N, S]."""
    window = plan_windows(networks.latents, networks.latents, 0)
    scales = jnp.asarray(tuple(config.scales), jnp.float32)
    denoiser = guided(networks, params, condition, scales)
    latents = make_latents(networks, config, denoiser, window, keys, steps=config.steps)
    return networks.decode(params, latents).mean(2)


def _embed_base(networks: Networks, config: Any, params: Params, batch: Batch) -> dict[str, Array]:
    """What the base makes of text and frames, and how far it is off on noised latents.

    Returns:
      `uncontrolled` and `truth` float32 [B, S]; `error`, mean squared error of v, and `power`, mean
      square of v, over the times `LEVELS`, float32 [B]; `known` bool [B].
    """
    truth = networks.prepared(known_sound(batch))
    window = plan_windows(networks.latents, networks.latents, 0)
    condition = networks.conditions(params, batch, window)
    count, times = len(truth), jnp.asarray(LEVELS)
    keys = _keys(count)
    clean = networks.encode(params, truth)
    noise = jax.vmap(lambda key: jax.random.normal(key, clean.shape[1:]))(keys)
    clean, noise = (jnp.repeat(x, len(LEVELS), axis=0) for x in (clean, noise))
    time = jnp.tile(times, count)
    target = velocity(clean, noise, time)
    told = {name: jnp.repeat(each, len(LEVELS), axis=0) for name, each in condition.items()}
    predicted = networks.velocity(params, add_noise(clean, noise, time), time, told)
    off = predicted.astype(jnp.float32) - target

    def mean(square: Array) -> Array:
        return square.reshape(count, -1).mean(1)

    return {
        "uncontrolled": _mixed(networks, config, params, condition, keys),
        "truth": truth.mean(2),
        "error": mean(jnp.square(off)),
        "power": mean(jnp.square(target)),
        "known": batch["sound_mask"],
    }


def _sounds(found: Mapping[str, np.ndarray], *names: str) -> list[list[np.ndarray]]:
    rows = np.flatnonzero(found["valid"] & found["known"])
    return [list(found[name][rows]) for name in names]


def _sound_report(rate: int, title: str, found: Mapping[str, np.ndarray]) -> Report:
    truth, made = _sounds(found, "truth", "uncontrolled")
    return measured_report(title, measure_envelopes(truth, made, rate, str(found["manifest"])))


def _control_report(rate: int, name: str, whose: str, found: Mapping[str, np.ndarray]) -> Report:
    truth, made, without = _sounds(found, "truth", name, "uncontrolled")
    manifest = str(found["manifest"])
    skill = measure_skill(truth, made, without, rate, manifest)
    measured = measure_envelopes(truth, made, rate, manifest)
    return measured_report(f"Sound under the envelope {whose}", [skill, *measured])


def _doubled_report(found: Mapping[str, np.ndarray]) -> Report:
    before, after = _sounds(found, "controlled", "doubled")
    gains = gains_db(before, after)
    measured = measure_gain(gains, LOUDER, str(found["manifest"]))
    report = measured_report("Under twice the envelope: how much louder", [measured])
    title = f"Under twice the envelope, {LOUDER:.1f} dB more"
    return _drawn(report, "louder", title, "louder than under the envelope itself, dB", gains)


def _delayed_report(rate: int, found: Mapping[str, np.ndarray]) -> Report:
    before, after = _sounds(found, "controlled", "delayed")
    lags = lags_seconds(before, after, rate)
    measured = measure_lag(lags, LATER, rate, str(found["manifest"]))
    title = f"Under the envelope {LATER:g} s later"
    report = measured_report(f"{title}: how much later", [measured])
    return _drawn(report, "later", title, "later than under the envelope itself, seconds", lags)


def _drawn(report: Report, name: str, title: str, label: str, values: np.ndarray) -> Report:
    """With a histogram of a value a clip, of those that have one."""
    known = values[np.isfinite(values)]
    if not len(known):
        return report
    return replace(report, histograms={name: Histogram(title, label, {"clips": known})})


def _denoising_report(found: Mapping[str, np.ndarray]) -> Report:
    """`error` of v, and `skill`, 1 − error / mean square of v: the share that is predicted."""
    rows = np.flatnonzero(found["valid"] & found["known"])
    if not len(rows):
        return Report({"error": float("nan"), "skill": float("nan")})
    error, power = (float(found[name][rows].mean(dtype=np.float64)) for name in ("error", "power"))
    scalars = {"error": error, "skill": 1 - error / power}
    row = [len(rows), *(f"{value:.4f}" for value in (error, power, scalars["skill"]))]
    table = Table("Noised latents", ["n", "squared error of v", "of 0", "skill"], [row])
    return Report(scalars, [table])
