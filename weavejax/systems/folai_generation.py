"""How Fol·AI makes sound: windows of latents under an envelope, a text and frames.

The dials are when and what, in this order: guidance goes from the base without text and frames, to the
same under control, to all. Published is the scale 1 of when: its control is in both branches of its one
scale, v_when + s (v_when,what − v_when). Equal scales are guidance by both at once.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from weavejax.dials.controls import When
from weavejax.dials.when import conditioning_curve
from weavejax.diffusion.guidance import per_dial
from weavejax.diffusion.noise import Noise, placed_noise
from weavejax.diffusion.samplers import Course, Table, begin, find_sampler, sample
from weavejax.diffusion.schedules import polyexponential
from weavejax.diffusion.windows import Windows, plan_windows, windowed
from weavejax.errors import UserError
from weavejax.systems.base import Generator, Params
from weavejax.systems.folai_networks import Networks
from weavejax.systems.sampling import Sampling

DIALS = ("when", "what")
MARGIN = 1  # latents beside those of a renewed span that are made anew with it


def check_sampling(config: Any, latents: int) -> None:
    """Raises UserError where `config.sample` cannot be carried out on windows of so many latents."""
    find_sampler(config.sampler)
    polyexponential(config.steps, config.lowest, config.highest)
    if len(config.scales) != len(DIALS):
        raise UserError(f"sample.scales needs a number for each of {', '.join(DIALS)}")
    if not 0 <= config.overlap < latents:
        raise UserError(
            f"sample.overlap is {config.overlap} latents: windows are of {latents}, so it must be "
            "from 0 to one less"
        )


def guided(
    networks: Networks, params: Params, condition: Mapping[str, Array], scales: Array
) -> Callable[[Array, Array], Array]:
    """A denoiser of windows.

    Args:
      networks: of the system.
      params: of the system.
      condition: see `Networks.conditions`; windows of which `when` is False hear no control.
      scales: of when and what [2], or [N, 2]; without a control network only that of what counts.
    """
    none = jnp.zeros_like(condition["what"])
    branches = [{**condition, "what": none}, dict(condition)]
    if networks.control:
        branches.insert(0, {**branches[0], "when": none})
    return per_dial(
        partial(networks.velocity, params), branches, scales[..., len(DIALS) + 1 - len(branches) :]
    )


def make_latents(
    networks: Networks,
    config: Any,
    denoiser: Callable[[Array, Array], Array],
    windows: Windows,
    keys: Array,
    *,
    steps: int,
) -> Array:
    """Latents [B, length, latent] by `config.sample`'s sampler.

    Args:
      networks: of the system.
      config: `config.sample`.
      denoiser: of windows, from `guided`.
      windows: over the clips.
      keys: of each clip [B]; noise belongs to places, so a longer clip begins from the same.
      steps: evaluations.
    """
    table = _table(config, steps)
    noise = _noise(networks, keys, windows)
    return sample(windowed(denoiser, windows), begin(table, noise), table, noise=noise)


def _table(config: Any, steps: int) -> Table:
    return find_sampler(config.sampler)(polyexponential(steps, config.lowest, config.highest))


def _prepare(
    networks: Networks,
    params: Params,
    request: Mapping[str, Array],
    scales: Array,
    windows: Windows,
    samples: int,
    known: tuple[Array, Array] | None,
) -> dict[str, Any]:
    hop = networks.hop
    filled = {**request, "envelope": _filled(request["envelope"], windows.length * hop, hop)}
    condition = networks.conditions(params, filled, windows)
    if scales.ndim == 2:
        scales = jnp.repeat(scales, len(windows.starts), axis=0)
    kept = None
    if known is not None:
        sound, renew = known
        beyond = windows.length * hop - samples
        clean = networks.encode(params, jnp.pad(sound, ((0, 0), (0, beyond), (0, 0))))
        kept = (clean, renewed_latents(jnp.pad(renew, ((0, 0), (0, beyond))), hop))
    return {"condition": condition, "scales": scales, "kept": kept}


def _finish(networks: Networks, params: Params, course: Course, *, samples: int) -> Array:
    return networks.decode(params, course.x)[:, :samples]


def _windows(networks: Networks, config: Any, samples: int) -> Windows:
    """Over a clip; one that is shorter than a window is made as a window."""
    length = max(-(-samples // networks.hop), networks.latents)
    return plan_windows(length, networks.latents, config.overlap)


def _noise(networks: Networks, keys: Array, windows: Windows) -> Noise:
    return placed_noise(keys, windows.length, (networks.oobleck.latent,))


def _filled(envelope: Array, samples: int, hop: int) -> Array:
    """With its last value up to the end of the last latent, and silence beyond."""
    given = envelope.shape[1]
    rest = min(-given % hop, samples - given)
    envelope = jnp.pad(envelope, ((0, 0), (0, rest), (0, 0)), mode="edge")
    return jnp.pad(envelope, ((0, 0), (0, samples - given - rest), (0, 0)))


def renewed_latents(renew: Array, hop: int) -> Array:
    """Which latents are made anew for samples bool [B, T · hop]: bool [B, T].

    Those that stand for any of the samples, and `MARGIN` to either side: the decoder hears them too.
    """
    units = renew.reshape(len(renew), -1, hop).any(2)
    padded = jnp.pad(units, ((0, 0), (MARGIN, MARGIN)))
    shifts = [padded[:, n : n + units.shape[1]] for n in range(2 * MARGIN + 1)]
    return jnp.stack(shifts).any(0)


def make_generator(networks: Networks, config: Any) -> Generator:
    """The generator of a system with a control network; `config` is `config.sample`."""

    def condition(when: When, samples: int) -> dict[str, np.ndarray]:
        if when.envelope is None:
            raise UserError(
                "the controls hold no envelope: extract one from a sound, predict it or draw it"
            )
        curve = conditioning_curve(
            when.envelope, samples, networks.rate, networks.profile, networks.channels
        )
        return {"envelope": curve}

    sampling = Sampling(
        windows=partial(_windows, networks, config),
        noise=partial(_noise, networks),
        prepare=partial(_prepare, networks),
        denoiser=lambda params, prepared: guided(
            networks, params, prepared["condition"], prepared["scales"]
        ),
    )
    return Generator(
        rate=networks.rate,
        channels=networks.channels,
        unit=networks.hop,
        when="envelope",
        dials=DIALS,
        scales=tuple(config.scales),
        steps=config.steps,
        condition=condition,
        table=partial(_table, config),
        begin=sampling.begin,
        advance=sampling.advance,
        finish=partial(_finish, networks),
    )
