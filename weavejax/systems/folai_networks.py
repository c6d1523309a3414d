"""The networks of Fol·AI, and what each of them is given.

Sound and envelopes go through a frozen autoencoder (`models.oobleck`); its latents are diffused by the
transformer of Stable Audio Open (`models.stable_dit`), to which meaning and frames are tokens of
cross-attention and the window's place in time is one token in front; the control network
(`models.control_dit`) looks at the latents of the envelope.

Parameters: `oobleck/`, `dit/`, `seconds_start/` and `seconds_total/`, named as `weavejax.convert` names
those of Stable Audio Open; `text/`, `vision/` and `audio/`, the towers; `project_meaning/` and
`project_vision/`, from their widths to that of cross-attention; `control/`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array

from weavejax.dials.envelope import WINDOWS, windows_at
from weavejax.diffusion.windows import Windows, cut
from weavejax.errors import UserError
from weavejax.models import control_dit, number, oobleck, stable_dit
from weavejax.models.control_dit import ControlDit, ControlDitConfig
from weavejax.models.number import NumberConditioner, NumberConfig
from weavejax.models.oobleck import Oobleck
from weavejax.models.stable_dit import StableDit, StableDitConfig
from weavejax.ops.envelope import conditioning_envelope
from weavejax.ops.placement import split_batch
from weavejax.ops.transformer import fan_in
from weavejax.systems.base import Batch, Params, origin, under
from weavejax.systems.encoders import Tower, make_tower
from weavejax.systems.frame_towers import CAVP, make_frame_tower, run_tower, unit
from weavejax.systems.levels import draw_levels, level_factors
from weavejax.systems.meanings import PROMPTS
from weavejax.systems.oobleck import network

STAGES, MEANINGS = ("base", "control"), ("text", "clap")
SECONDS = ("seconds_start", "seconds_total")
TOWERS, PROJECTIONS = ("text", "vision", "audio"), ("project_meaning", "project_vision")
# `System.copies`: the control network starts as the first blocks of the base and its embedding; what
# lies between them starts at zero.
COPIES = {
    r"^control/(embed/.*)$": r"dit/\1",
    r"^control/(blocks\w*)/copy/(.*)$": r"dit/\1/\2",
    r"^control/(control|blocks\w*/residual)/kernel$": "",
}


class Networks:
    """The networks of a config.

    Attributes:
      controlled: whether there is a control network: the second of the two stages.
      train_towers: whether text and vision learn in the first.
      audio: CLAP's, which gives the meaning in training, or None where texts do.
      audio_first: whether a sound says what a clip means where a text does too.
      control: its sizes, or None.
      profile: "parity" or "better", of envelopes (`dials.envelope`) and latents: samples of what the
        encoder says, as published, or means.
      levels: factors of the sound that the second stage learns from, the first of them 1.
      scale: that latents are multiplied by, for the diffusion to see them with a deviation of about 1.
      rate: of the sound, Hz.
      hop: samples a latent.
      latents: of a window.
      samples: of a window.
      channels: of the sound.
      fps: frames a second.
      frames: of a window; 0 where nothing looks at them.
    """

    def __init__(self, config: Any) -> None:
        model, inputs = config.model, config.inputs
        self.controlled = _one_of("model.stage", model.stage, STAGES) == "control"
        self.profile = _one_of("model.profile", model.profile, tuple(WINDOWS))
        self.scale, self.normalise, self.flip = model.latent_scale, model.normalise, model.flip
        self.levels = level_factors(model.levels, "model.levels")
        self.train_towers, self.train_projections = model.train_towers, model.train_projections
        self.oobleck = network(model.oobleck, stereo=inputs.stereo)
        self.rate, self.hop, self.channels = inputs.rate, self.oobleck.hop, self.oobleck.audio
        self.samples = round(inputs.seconds * inputs.rate)
        self.latents = self.samples // self.hop
        self.dit, self.seconds, self.control = _sizes(model, self.oobleck.latent)
        self.text: Tower = make_tower("text", config)
        self.text_length = inputs.text_length
        self.joint = model.text.get("projection", 0)
        clap = _one_of("model.meaning", model.meaning, MEANINGS) == "clap"
        self.audio = make_tower("audio", config) if clap else None
        self.heard = (inputs.audio_frames, inputs.mels)
        self.audio_first = _one_of("sample.prompt", config.sample.prompt, PROMPTS) == "audio"
        self.vision = make_frame_tower(config) if inputs.side else None
        self.size, self.fps = inputs.size, inputs.fps
        self.frames = int(np.ceil(inputs.seconds * inputs.fps - 1e-6)) if self.vision else 0
        self._check(model.vision.get("kind"))

    def _check(self, vision: str | None) -> None:
        if self.vision and self.train_towers and not self.controlled and vision == CAVP:
            raise UserError("CAVP stays as it is: give --config.model.train_towers=False")
        if self.audio:
            self._check_clap()
        if not self.text_length:
            raise UserError("inputs.text_length is 0: the meaning of a sound is its caption's")
        if any(stride % 2 for stride in self.oobleck.strides):
            raise UserError("model.oobleck.strides must be even, for latents to stand in step")
        if not self.samples or self.samples % self.hop:
            raise UserError(
                f"inputs.seconds: a window of {self.samples} samples at {self.rate} Hz must be a "
                f"multiple of the {self.hop} samples of a latent"
            )

    def _check_clap(self) -> None:
        sizes: Any = self.audio and self.audio.network
        if not self.joint or sizes.config.projection != self.joint:
            raise UserError(
                "model.meaning 'clap' needs model.text.projection and model.audio.projection, the "
                "same width: that of CLAP's space"
            )
        if not self.heard[0]:
            raise UserError("model.meaning 'clap' listens to sound: set inputs.audio_frames")
        if self.train_towers and not self.controlled:
            raise UserError("CLAP stays as it is: give --config.model.train_towers=False")

    def init(self, key: Array) -> Params:
        """Parameters of all of them; the control network's are copies of the base's, and zeros."""
        keys = dict(
            zip(("text", "vision", "oobleck", "dit"), jax.random.split(key, 4), strict=True)
        )
        tokens = self.text.prepare(jnp.zeros((1, self.text_length), jnp.int32))
        sound = jnp.zeros((1, 2 * self.hop, self.channels))
        noisy = [jnp.zeros(x.shape, x.dtype) for x in stable_dit.inputs(self.dit)]
        made: dict[str, Any] = {
            "text": self.text.network.init(keys["text"], *tokens, deterministic=True)["params"],
            "oobleck": Oobleck(self.oobleck).init(keys["oobleck"], sound)["params"],
            "dit": StableDit(self.dit).init(keys["dit"], *noisy)["params"],
        }
        for n, name in enumerate(SECONDS):
            one = jax.random.fold_in(key, n)
            made[name] = NumberConditioner(self.seconds).init(one, jnp.zeros(1))["params"]
        if self.audio:
            blank = self.audio.prepare(jnp.zeros((1, *self.heard)))
            heard: Any = self.audio.network.init(keys["text"], *blank, deterministic=True)
            made["audio"] = heard["params"]
        widths = {"project_meaning": self.joint or self.text.width}
        if self.vision:
            made["vision"] = self.vision.init(keys["vision"])
            widths["project_vision"] = self.vision.width
        for n, (name, width) in enumerate(widths.items()):
            kernel = fan_in(
                jax.random.fold_in(key, 2 + n), (width, self.dit.cross_width), jnp.float32
            )
            made[name] = {"kernel": kernel, "bias": jnp.zeros(self.dit.cross_width)}
        if self.control:
            fresh = ControlDit(self.control).init(keys["dit"], *noisy, noisy[0])["params"]
            made["control"] = start_control(fresh, made["dit"])
        return made

    def rules(self) -> tuple[Any, ...]:
        """Sharding table."""
        towers = {"text": self.text, "vision": self.vision, "audio": self.audio}
        seen = (rule for n, tower in towers.items() if tower for rule in under(n, tower.rules))
        control = under("control", control_dit.rules(self.control)) if self.control else ()
        seconds = (rule for name in SECONDS for rule in under(name, number.rules(self.seconds)))
        return (
            *seen,
            *under("oobleck", oobleck.rules(self.oobleck)),
            *under("dit", stable_dit.rules(self.dit)),
            *seconds,
            *control,
            (r"^project_(meaning|vision)/kernel$", ("data", None)),
            (r"^project_(meaning|vision)/bias$", ()),
        )

    def frozen(self, path: str) -> bool:
        """In the first stage the autoencoder (and towers); in the second all but the control (and
        projections)."""
        part = path.split("/")[0]
        if not self.controlled:
            return part == "oobleck" or (not self.train_towers and part in TOWERS)
        return part != "control" and not (self.train_projections and part in PROJECTIONS)

    def prepared(self, sound: Array) -> Array:
        """Sound [B, S, C] as it is learnt: with a peak of 1 where `normalise` says so."""
        if not self.normalise:
            return sound
        peak = jnp.abs(sound).max((1, 2), keepdims=True)
        return sound / jnp.where(peak > 0, peak, 1.0)

    def level_numbers(self, key: Array, count: int) -> Array:
        """Which of `levels` each of `count` clips is learnt at, int32: all but the first in the
        second stage only, where an envelope tells of it."""
        return draw_levels(key, len(self.levels) if self.controlled else 1, count)

    def encode(self, params: Params, sound: Array, key: Array | None = None) -> Array:
        """Latents [B, T, latent] of sound [B, S, C].

        Args:
          params: of the system.
          sound: S a multiple of the hop.
          key: of samples, which only the parity profile takes; None = means.
        """
        return self.drawn(self.told(params, sound), key)

    def told(self, params: Params, sound: Array) -> Array:
        """What the encoder says of sound [B, S, C]: float32 [B, K, T, latent].

        K is 1 for means; 2 in the parity profile, means and deviations.
        """
        found = oobleck.encode(params["oobleck"], self.oobleck, split_batch(sound))
        both = (found.mean, found.deviation) if self.profile == "parity" else (found.mean,)
        return jnp.stack(both, axis=1)

    def drawn(self, told: Array, key: Array | None) -> Array:
        """Latents [B, T, latent] of what `told` says, scaled; `key` as in `encode`."""
        if key is None or self.profile != "parity":
            return told[:, 0] * self.scale
        mean, deviation = told[:, 0], told[:, 1]
        return (mean + deviation * jax.random.normal(key, mean.shape)) * self.scale

    def encode_envelope(self, params: Params, envelope: Array, key: Array | None = None) -> Array:
        """Latents of envelopes [B, S, C], the control [B, T, latent].

        `key` as in `encode`; None takes in the parity profile the same sample for every window.
        """
        told = self.told(params, envelope)
        if key is not None or self.profile != "parity":
            return self.drawn(told, key)
        mean, deviation = told[:, 0], told[:, 1]
        noise = jax.random.normal(jax.random.key(0), (1, *mean.shape[1:]))
        return (mean + deviation * noise) * self.scale

    def envelope(self, sound: Array) -> Array:
        """Envelope [B, S, C] of sound, as `dials.when.conditioning_curve` makes those of controls."""
        return conditioning_envelope(sound, self.profile, *windows_at(self.rate, self.profile))

    def decode(self, params: Params, latents: Array) -> Array:
        """Sound float32 [B, T · hop, C] of latents [B, T, latent]."""
        sound = oobleck.decode(params["oobleck"], self.oobleck, split_batch(latents / self.scale))
        return sound.astype(jnp.float32)

    def pooled(
        self, params: Params, batch: Batch, key: Array | None, *, training: bool
    ) -> dict[str, Array]:
        """What the towers say of text, or sound, and frames, whether a clip has them or not.

        Args:
          params: of the system.
          batch: `text`, `text_mask`; `video` [B, F, H, W, 3] of any length and `video_mask` where
            there is a vision tower; `heard` [B, audio_frames, mels] and `heard_mask` where CLAP
            listens, always in training.
          key: of dropout; None = none.
          training: the meaning is that of the sound where CLAP listens. Else it is that of the text,
            or, where that lacks or with `audio_first`, of the sound.

        Returns:
          `meaning` float32 [B, width], `frames` float32 [B, F, width], and their masks bool [B].
        """
        found = self._meaning(params, batch, key, training=training)
        if self.vision:
            other = None if key is None else jax.random.fold_in(key, 1)
            found["frames"] = self.vision.see(params["vision"], batch["video"], other)
            found["frames_mask"] = batch["video_mask"]
        return found

    def _meaning(
        self, params: Params, batch: Batch, key: Array | None, *, training: bool
    ) -> dict[str, Array]:
        """`meaning` and its mask, see `pooled`."""
        if self.audio and (training or "heard" in batch):
            given = self.audio.prepare(batch["heard"])
            heard = unit(run_tower(self.audio, params["audio"], given, None, joint=True))
            if training:
                return {"meaning": heard, "meaning_mask": batch["heard_mask"]}
        inputs = self.text.prepare(batch["text"])
        said = run_tower(self.text, params["text"], inputs, key, joint=bool(self.joint))
        # CLAP's embeddings lie on a sphere; a tower that learns with the rest may say how much.
        pooled = unit(said) if self.joint else self.text.pool(said, *inputs)
        mask = batch["text_mask"]
        if not self.audio or "heard" not in batch:
            return {"meaning": pooled.astype(jnp.float32), "meaning_mask": mask}
        listens = batch["heard_mask"] & (self.audio_first | ~mask)
        meaning = jnp.where(listens[:, None], heard, pooled)
        return {"meaning": meaning, "meaning_mask": mask | batch["heard_mask"]}

    def seen(
        self, params: Params, batch: Batch, key: Array | None, *, training: bool
    ) -> dict[str, Array]:
        """What text and frames say, as tokens of cross-attention; zeros for what a clip lacks.

        Args:
          params: of the system.
          batch: as `pooled` takes it, or what that gave.
          key: of dropout; None = none.
          training: as `pooled` takes it.

        Returns:
          `meaning` [B, 1, cross_width], `frames` [B, F, cross_width].
        """
        said = batch
        if "meaning" not in batch:
            said = self.pooled(params, batch, key, training=training)
        found = {"meaning": _project(params["project_meaning"], said["meaning"])[:, None]}
        if self.vision:
            found["frames"] = _project(params["project_vision"], said["frames"])
        return {
            name: jnp.where(said[f"{name}_mask"][:, None, None], tokens, 0.0)
            for name, tokens in found.items()
        }

    def cross(self, seen: Mapping[str, Array], windows: Windows) -> Array:
        """Tokens of every window [B · N, 1 + frames, cross_width]: the meaning, then its frames."""
        count = len(windows.starts)
        tokens = [jnp.repeat(seen["meaning"], count, axis=0)]
        if self.vision:
            frames = seen["frames"]
            first = np.rint(np.asarray(windows.starts) * self.hop * self.fps / self.rate)
            places = first.astype(np.int32)[:, None] + np.arange(self.frames, dtype=np.int32)
            chosen = frames[:, np.minimum(places, frames.shape[1] - 1)]
            tokens.append(chosen.reshape(-1, self.frames, frames.shape[2]))
        return jnp.concatenate(tokens, axis=1)

    def conditions(
        self, params: Params, request: Batch, windows: Windows, *, key: Array | None = None
    ) -> dict[str, Array]:
        """What the networks are told of every window, B · N of them.

        Args:
          params: of the system.
          request: as `seen` takes it; where there is a control, `envelope` [B, length · hop, C], or
            of one window what `told` says of it, `envelope_latent` [B, K, T, latent].
          windows: over the clips.
          key: of dropout and samples, in training; None = none.

        Returns:
          `cross` [B · N, S, cross_width], `seconds` [B · N, 2 · cross_width], `what` bool [B · N];
          with a control `control` [B · N, T, latent] and `when` bool [B · N].
        """
        towers, drawn = (None, None) if key is None else tuple(jax.random.split(key))
        # What is frozen has no dropout.
        learning = self.train_towers and not self.controlled
        dropout = towers if learning else None
        seen = self.seen(params, request, dropout, training=key is not None)
        cross = self.cross(seen, windows)
        count = len(cross)
        numbers = (0.0, self.samples / self.rate)
        row = [
            NumberConditioner(self.seconds).apply({"params": params[n]}, jnp.full(count, value))
            for n, value in zip(SECONDS, numbers, strict=True)
        ]
        found = {
            "cross": cross,
            "seconds": jnp.concatenate([jnp.asarray(x) for x in row], axis=-1),
            "what": jnp.ones(count, bool),
        }
        if self.control:
            found["when"] = jnp.ones(count, bool)
        if self.control and "envelope_latent" in request:
            found["control"] = self.drawn(request["envelope_latent"], drawn)
        elif self.control:
            envelope = request["envelope"]
            steps = envelope.reshape(len(envelope), windows.length, -1)
            pieces = cut(steps, windows).reshape(count, -1, self.channels)
            found["control"] = self.encode_envelope(params, pieces, drawn)
        return found

    def velocity(
        self, params: Params, x: Array, time: Array, condition: Mapping[str, Array]
    ) -> Array:
        """Of the diffusion, [N, T, latent].

        Without `what` the tokens of cross-attention are zeros, as published; without `when` the control
        network's residuals are, so that the base is heard as it is.
        """
        keep = condition["what"][:, None, None]
        cross = jnp.where(keep, condition["cross"], 0.0)
        given = (x, time, cross, condition["seconds"])
        residuals = None
        if self.control:
            look: Any = ControlDit(self.control).apply
            residuals = look({"params": params["control"]}, *given, condition["control"])
            zero = jnp.zeros((), residuals.dtype)
            residuals = jnp.where(condition["when"][None, :, None, None], residuals, zero)
        apply: Any = StableDit(self.dit).apply
        return apply({"params": params["dit"]}, *given, residuals)

    def flops(self) -> dict[str, float]:
        """Multiply-adds of one example's forward pass in training, counted twice."""
        tokens = 1 + self.frames
        encoder = oobleck.flops(self.oobleck, self.samples)["encoder"]
        said = self.audio.flops(0) if self.audio else self.text.flops(self.text_length)
        found = {
            "audio" if self.audio else "text": said,
            "oobleck": encoder * (1 + self.controlled),
            "dit": stable_dit.flops(self.dit, self.latents, tokens),
        }
        if self.vision:
            found["vision"] = self.frames * self.vision.flops
        if self.control:
            found["control"] = control_dit.flops(self.control, self.latents, tokens)
        return found


def _one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise UserError(f"{name} {value!r} is none of {', '.join(known)}")
    return value


def _sizes(
    model: Any, latent: int
) -> tuple[StableDitConfig, NumberConfig, ControlDitConfig | None]:
    width = model.dit.cross_width
    try:
        dit = StableDitConfig(channels=latent, global_width=2 * width, **model.dit)
        seconds = NumberConfig(width=width, **model.seconds)
        layers = model.control.layers
        control = ControlDitConfig(dit, layers) if model.stage == "control" else None
    except (TypeError, ValueError) as error:
        raise UserError(f"model.dit, model.seconds, model.control: {error}") from error
    return dit, seconds, control


def start_control(fresh: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """The control network's parameters, with the base's in the place of those that are copied.

    Args:
      fresh: those of a `ControlDit`.
      base: those of the `StableDit`.
    """
    given = flatten_dict({"dit": dict(base)}, sep="/")
    found = {}
    for path, leaf in flatten_dict(dict(fresh), sep="/").items():
        source = origin(f"control/{path}", COPIES)
        # Of a scanned stack the first blocks.
        found[path] = given[source][tuple(map(slice, leaf.shape))] if source else leaf
    return unflatten_dict(found, sep="/")


def _project(params: Mapping[str, Array], x: Array) -> Array:
    """float32 [..., width] → [..., cross_width]."""
    kernel, bias = (params[name].astype(jnp.float32) for name in ("kernel", "bias"))
    return jnp.matmul(x.astype(jnp.float32), kernel) + bias.reshape((1,) * (x.ndim - 1) + (-1,))
