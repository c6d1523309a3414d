"""Oobleck, the autoencoder of Stable Audio Open, trained on sound alone.

Evans et al., Stable Audio Open, arXiv 2407.14358; stable-audio-tools' ``training/autoencoders.py`` and
``stable_audio_2_0_vae.json``. Sound goes through a sample of its latents and back; the loss is that of
`losses.spectral` plus the divergence of the latents from the standard normal distribution. Beside them
two terms of other weights than the published 0, for want of the published discriminator: the difference
of the levels, and of the waveforms, which a sound needs whose phases are to be kept. Ours, too: clips
are heard louder and quieter than they are (`loss.levels`), for a sound at another level to come back at
that level.

The network is the same at any size. Its parameters stand under `oobleck/`, as in the files that
`weavejax.convert` makes of the published weights, and a system of diffusion puts them under the same
prefix: `config.init.parts.oobleck` takes either (`runs.initial`). `models.oobleck.encode` and `decode`
are what it calls.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from weavejax.errors import UserError
from weavejax.losses import spectral
from weavejax.metrics.reconstruction import measure_reconstruction
from weavejax.metrics.report import Report, Table, measured_report
from weavejax.models import oobleck
from weavejax.models.oobleck import Oobleck, OobleckConfig, decode, encode
from weavejax.ops.placement import split_batch
from weavejax.systems.base import Batch, Metrics, Params, System, under
from weavejax.systems.levels import at_level, draw_levels, level_factors

PART = "oobleck"  # where its parameters stand
HEADLINE = "sound/envelope_correlation_16k_rms512_128"


def network(model: Any, *, stereo: bool) -> OobleckConfig:
    """The sizes that `config.model` names.

    Raises:
      UserError: they are no autoencoder's.
    """
    sizes = {**model, "multiples": tuple(model.multiples), "strides": tuple(model.strides)}
    try:
        return OobleckConfig(audio=1 + stereo, **sizes)
    except (TypeError, ValueError) as error:
        raise UserError(f"config.model: {error}") from error


def build(config: Any) -> System:
    """The system of a config: `config.model`, `config.loss`, `config.inputs`, `config.batch`."""
    inputs = config.inputs
    sizes = network(config.model, stereo=inputs.stereo)
    samples = round(inputs.seconds * inputs.rate)
    _check(sizes, config.loss, samples)
    spec = {
        "sound": ((samples, sizes.audio), jnp.float32),
        "sound_mask": ((), jnp.bool_),
    }
    return System(
        name="oobleck",
        batch_spec={
            name: jax.ShapeDtypeStruct((config.batch, *shape), dtype)
            for name, (shape, dtype) in spec.items()
        },
        init=partial(_init, sizes),
        loss=partial(_loss, sizes, config.loss),
        embed=partial(_embed, sizes),
        rules=under(PART, oobleck.rules(sizes)),
        evaluators={"sound": partial(_sound_report, inputs.rate), "latents": _latent_report},
        flops=oobleck.flops(sizes, samples),
        headline=HEADLINE,
    )


def _check(sizes: OobleckConfig, loss: Any, samples: int) -> None:
    level_factors(loss.levels, "loss.levels")
    if not samples:
        raise UserError("inputs.rate is 0: an autoencoder of sound needs sound")
    length = sizes.samples(sizes.latents(samples))
    if sizes.latents(samples) < 1 or length > samples:
        raise UserError(
            f"inputs.seconds: {samples} samples are too few for strides {sizes.strides}"
        )
    wrong = [size for size in loss.sizes if size < 4 or size % 4 or size // 2 >= length]
    if wrong or not loss.sizes:
        raise UserError(
            f"loss.sizes {tuple(loss.sizes)}: each must be divisible by 4 and below {2 * length}"
        )


def _init(sizes: OobleckConfig, key: Array) -> Params:
    made: Any = Oobleck(sizes).init(key, jnp.zeros((1, 2 * sizes.hop, sizes.audio)))
    return {PART: made["params"]}


def _loss(
    sizes: OobleckConfig, config: Any, params: Params, batch: Batch, key: Array, step: Array
) -> tuple[Array, Metrics]:
    """Means over the clips that have sound."""
    del step
    known = batch["sound_mask"]
    # A clip without sound is digital silence here whatever it holds, so that nothing can overflow.
    sound = jnp.where(known[:, None, None], batch["sound"], 0.0)
    factors = level_factors(config.levels, "loss.levels")
    sound = at_level(sound, factors, draw_levels(key, len(factors), len(sound)))
    latents = encode(params[PART], sizes, split_batch(sound))
    made = decode(params[PART], sizes, split_batch(latents.sample(key)))
    truth, made = sound[:, : made.shape[1]], split_batch(made.astype(jnp.float32))
    parts = {
        "spectral": spectral.stereo_spectral_distance(
            truth, made, tuple(config.sizes), config.epsilon
        ),
        "waveform": spectral.waveform_distance(truth, made),
        "level": spectral.level_distance(truth, made),
        "divergence": spectral.divergence(latents.mean, latents.deviation),
    }
    total = sum(config[name] * value for name, value in parts.items())
    found = {"loss": total, **{f"loss/{name}": value for name, value in parts.items()}}
    found["latents/deviation"] = latents.deviation.mean((1, 2))
    found["latents/RMS"] = jnp.sqrt(jnp.square(latents.mean).mean((1, 2)) + spectral.EPSILON)
    metrics = {name: spectral.masked_mean(value, known) for name, value in found.items()}
    whole, count = metrics["loss"]
    return whole / jnp.maximum(count, 1.0), metrics


def _embed(sizes: OobleckConfig, params: Params, batch: Batch) -> dict[str, Array]:
    """`made` and `truth` float32 [B, S, C], the sound through the means of its latents and as it was;
    `mean` and `deviation` float32 [B, T, latent]; `known` [B].
    """
    latents = encode(params[PART], sizes, split_batch(batch["sound"]))
    made = decode(params[PART], sizes, split_batch(latents.mean)).astype(jnp.float32)
    return {
        "made": made,
        "truth": batch["sound"][:, : made.shape[1]],
        "mean": latents.mean,
        "deviation": latents.deviation,
        "known": batch["sound_mask"],
    }


def _sound_report(rate: int, found: Mapping[str, np.ndarray]) -> Report:
    rows = np.flatnonzero(found["valid"] & found["known"])
    truth, made = (list(found[name][rows]) for name in ("truth", "made"))
    measured = measure_reconstruction(truth, made, rate, str(found["manifest"]))
    return measured_report("Sound through the latents and back", measured)


class Latents(NamedTuple):
    """What samples of latents are like, over clips and time.

    Attributes:
      mean: of each channel, float64 [C].
      deviation: standard deviation of each channel about its mean, float64 [C].
      noise: of the bottleneck, root mean square of its deviations, float64 [C].
      overall: standard deviation of all values together; diffusion wants latents divided by it.
    """

    mean: np.ndarray
    deviation: np.ndarray
    noise: np.ndarray
    overall: float


def latent_statistics(mean: np.ndarray, deviation: np.ndarray) -> Latents:
    """Of what the encoder says, [N, T, C] each, by the law of total variance: nothing is drawn."""
    centre = mean.mean((0, 1), dtype=np.float64)
    noise = np.square(deviation, dtype=np.float64).mean((0, 1))
    spread = np.square(mean - centre).mean((0, 1)) + noise
    overall = np.sqrt(spread.mean() + centre.var())
    return Latents(centre, np.sqrt(spread), np.sqrt(noise), float(overall))


def _latent_report(found: Mapping[str, np.ndarray]) -> Report:
    rows = np.flatnonzero(found["valid"] & found["known"])
    if not len(rows):
        return Report({"std": float("nan")})
    every = latent_statistics(found["mean"][rows], found["deviation"][rows])
    scalars = {"std": every.overall, "scale": 1.0 / every.overall}
    scalars |= {f"channel {n}/std": float(value) for n, value in enumerate(every.deviation)}
    columns = ["channel", "mean", "std", "of it noise"]
    values = zip(every.mean, every.deviation, every.noise, strict=True)
    table = [[str(n), *(f"{v:.3f}" for v in row)] for n, row in enumerate(values)]
    table.append(["all", f"{every.mean.mean():.3f}", f"{every.overall:.3f}", "–"])
    return Report(scalars, [Table("Latents", columns, table)])
