"""What the frozen networks of Fol·AI give of a clip, and training on that alone.

In the second stage, and in a first one without `model.train_towers`, the autoencoder and the towers
stay as they are, so what they say of a clip can be made once (`weavejax.extract`), for both. Kept is
the clip as evaluation takes it: its first caption, the middle of its frames, its sound the right way
up. Latents are kept unscaled; in the parity profile with their deviations, so that every step draws
samples of its own, as it would from the sound.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array

from weavejax.dials.envelope import windows_at
from weavejax.errors import UserError
from weavejax.systems.base import Batch, Latents, Params
from weavejax.systems.folai_networks import Networks
from weavejax.systems.latents import KIND, make_latents

# Entries of `config.model` that they depend on; a scale is put to latents afterwards.
MODEL = ("profile", "normalise", "levels", "oobleck", "meaning", "text", "vision")


def known_sound(batch: Batch) -> Array:
    """Sound [B, S, C], silent where a clip has none, so that nothing can overflow."""
    return jnp.where(batch["sound_mask"][:, None, None], batch["sound"], 0.0)


def extract(networks: Networks, params: Params, batch: Batch) -> dict[str, Array]:
    """What the frozen networks give: float32, each with a presence mask bool [B].

    Returns:
      `latent` and `envelope_latent` [B, levels · K, T, latent], what `Networks.told` says at each of
      the levels; `meaning` [B, width]; and `frames` [B, F, width] where there is a vision tower.
    """
    sound = networks.prepared(known_sound(batch))
    factors = jnp.asarray(networks.levels, jnp.float32)

    def at_each(sound: Array) -> Array:
        told = jax.lax.map(lambda factor: networks.told(params, factor * sound), factors)
        return rearrange(told, "v b k t c -> b (v k) t c")

    return {
        "latent": at_each(sound),
        "latent_mask": batch["sound_mask"],
        "envelope_latent": at_each(networks.envelope(sound)),
        "envelope_latent_mask": batch["sound_mask"],
        **networks.pooled(params, batch, None, training=True),
    }


def at_levels(networks: Networks, params: Params, batch: Batch, key: Array) -> dict[str, Array]:
    """A batch of what `extract` gave, each clip at one of the levels, drawn as from sound itself."""
    del params
    chosen = networks.level_numbers(key, len(batch["latent"]))[:, None, None, None, None]

    def at_one(told: Array) -> Array:
        told = rearrange(told, "b (v k) t c -> b v k t c", v=len(networks.levels))
        return jnp.take_along_axis(told, chosen, axis=1)[:, 0]

    return {**batch, **{name: at_one(batch[name]) for name in ("latent", "envelope_latent")}}


def training_latents(networks: Networks, config: Any) -> Latents:
    """How a stage trains on what `extract` gave; the first looks at no envelopes.

    Raises:
      UserError: the config asks for it, and for what only sound can have.
    """
    if config.inputs.kind == KIND and networks.flip:
        raise UserError(
            "model.flip turns sound upside down, and latents are kept of sound as it is: give "
            "--config.model.flip=False"
        )
    kinds = 2 if networks.profile == "parity" else 1
    latents = (kinds * len(networks.levels), networks.latents, networks.oobleck.latent)
    arrays: dict[str, tuple[int, ...]] = {
        "latent": latents,
        "envelope_latent": latents,
        "meaning": (networks.joint or networks.text.width,),
    }
    parts = ["oobleck", "audio" if networks.audio else "text"]
    if networks.vision:
        arrays["frames"] = (networks.frames, networks.vision.width)
        parts.append("vision")
    sections = {"model": (*MODEL, *(("audio",) if networks.audio else ()))}
    made = make_latents(config, arrays, parts, sections, unused=("onsets",))
    # No entry of a config, so told apart by what they are: envelopes of other windows are others.
    windows = list(windows_at(networks.rate, networks.profile))
    return replace(made, key={**made.key, "envelope.windows": windows})
