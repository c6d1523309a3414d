"""Where the controls of a clip come from: a file, a network that sees the clip, or the clip's sound."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from weavejax.dials.controls import Controls, Envelope, Onset, What, When, parse
from weavejax.dials.edits import Edit, edit_when, rounded
from weavejax.dials.onsets import EXPORT_LOGIT
from weavejax.dials.when import extract_when
from weavejax.diffusion.windows import Windows, plan_windows
from weavejax.errors import UserError
from weavejax.metrics.detection import candidates
from weavejax.ops.placement import on_mesh
from weavejax.runs.requests import Ask, frames
from weavejax.runs.restore import Trained
from weavejax.systems.envelope import STEP_RATE, envelope_controls

SYSTEMS = ("onset", "envelope")
HEARING_RATE = 44_100  # Hz, of the sound that controls are taken from
TOLERANCE = 0.1  # seconds by which the length of a controls file may be off


class Predictor:
    """A trained onset or envelope network, for clips of any length.

    Longer clips are seen in windows that overlap by half, and what is said twice is crossfaded.

    Raises:
      UserError: a run of another system.
    """

    def __init__(self, trained: Trained) -> None:
        if trained.system.name not in SYSTEMS:
            raise UserError(
                f"--when: the system {trained.system.name} predicts no controls; "
                f"give a run of {' or '.join(SYSTEMS)}"
            )
        self.trained, self.inputs = trained, trained.config.inputs
        self.width = trained.system.batch_spec["video"].shape[1]
        self.batch = trained.config.runtime.evaluate_batch
        self._embed = jax.jit(on_mesh(trained.system.embed, trained.mesh))

    def __call__(self, ask: Ask) -> When:
        """The when dial of a clip with a picture, as far as the network knows it."""
        # As in training: after its end a clip stays on its last frame.
        seen = frames(ask, self.inputs, max(float(ask.seconds), self.inputs.seconds))
        windows = plan_windows(len(seen), self.width, self.width // 2)
        return self.when(self._look(seen[windows.places]), windows, float(ask.seconds))

    def when(self, found: Mapping[str, np.ndarray], windows: Windows, seconds: float) -> When:
        """What the network said of the windows of a clip, as controls.

        Args:
          found: `envelope` [N, steps], `logits` [N, frames], or both.
          windows: N of them, over the frames of the clip.
          seconds: that the clip lasts.
        """
        onsets, envelope = None, None
        if "envelope" in found:
            envelope = self._envelope(found["envelope"], windows, seconds)
        if "logits" in found:
            onsets = self._onsets(joined(found["logits"], windows), seconds)
        return When(onsets=onsets, envelope=envelope)

    def _look(self, video: np.ndarray) -> dict[str, np.ndarray]:
        """What `embed` says of windows uint8 [N, T, H, W, 3], with nothing known but the picture."""
        parts: list[Any] = []
        for start in range(0, len(video), self.batch):
            part = video[start : start + self.batch]
            batch = {
                name: np.zeros((self.batch, *leaf.shape[1:]), leaf.dtype)
                for name, leaf in self.trained.system.batch_spec.items()
            }
            batch["video"][: len(part)] = part  # filled up: one program for all
            batch["video_mask"][: len(part)] = True
            found = jax.device_get(self._embed(self.trained.params, batch))
            wanted = ("envelope", "logits")
            parts.append({name: found[name][: len(part)] for name in wanted if name in found})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _envelope(self, levels: np.ndarray, frame_windows: Windows, seconds: float) -> Envelope:
        width = levels.shape[1]
        starts = [round(start / self.inputs.fps * STEP_RATE) for start in frame_windows.starts]
        curve = joined(levels, Windows(starts[-1] + width, width, tuple(starts)))
        return envelope_controls(curve[: max(1, math.floor(seconds * STEP_RATE))])

    def _onsets(self, logits: np.ndarray, seconds: float) -> tuple[Onset, ...]:
        found = candidates(logits, self.inputs.fps)
        sure = (found.confidence > EXPORT_LOGIT) & (found.times < seconds)
        strength = 1 / (1 + np.exp(-found.confidence[sure].astype(np.float64)))
        pairs = zip(found.times[sure].tolist(), strength.tolist(), strict=True)
        return tuple(Onset(time, certain) for time, certain in pairs)


def joined(values: np.ndarray, windows: Windows) -> np.ndarray:
    """Values of windows [N, W] as one curve [T], crossfaded where windows overlap: float64."""
    total = np.zeros(windows.length)
    np.add.at(total, windows.places, windows.weights * values)
    return total


def controls_of(
    ask: Ask, predictor: Predictor | None, edits: tuple[Edit, ...], prompt: str
) -> Controls:
    """The controls of a clip, edited.

    Args:
      ask: the clip; a controls file that it names comes before all else.
      predictor: what to ask of clips without a file; None to listen to their own sound.
      edits: of the when dial.
      prompt: a caption in place of the file's own; "" keeps that, or takes the folder's.

    Raises:
      UserError: there is nothing to take controls from, or the file is of another clip.
    """
    seconds = float(ask.seconds)
    if ask.controls is not None:
        found = _read(ask, seconds)
    elif predictor is not None and ask.film:
        found = Controls(seconds, rounded(predictor(ask), seconds))
    elif ask.heard:
        if predictor is not None:
            print(f"{ask.media} has no picture: its controls are taken from its sound", flush=True)
        wave = ask.own_sound(HEARING_RATE, stereo=False)
        found = Controls(seconds, rounded(extract_when(wave, HEARING_RATE), seconds))
    else:
        raise UserError(
            f"{ask.media} has no sound to take controls from: give a controls file, "
            "--controls FILE; a run that predicts them from the picture, --when RUN; or a file with "
            "the sound to follow, --sound FILE"
        )
    if edits:
        when = edit_when(found.when or When(), edits, seconds)
        found = replace(found, when=rounded(when, seconds))
    caption = prompt or (found.what.caption if found.what else None) or ask.caption
    if caption:
        found = replace(found, what=replace(found.what or What(), caption=caption))
    return found


def _read(ask: Ask, seconds: float) -> Controls:
    assert ask.controls is not None
    try:
        found = parse(ask.controls.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # of a controls file's own errors, too
        raise UserError(f"{ask.controls}: {error}") from error
    if abs(found.duration - seconds) > TOLERANCE:
        raise UserError(
            f"{ask.controls} is of a clip of {found.duration:.3f} s, and {ask.media} is "
            f"{seconds:.3f} s long"
        )
    return found


def check_followed(ask: Ask, controls: Controls, part: str) -> None:
    """Raises UserError where the controls lack the part of the when dial that a system follows."""
    when = controls.when or When()
    if part == "envelope" and when.envelope and not when.envelope.db:
        raise UserError(f"{ask.media}: the envelope of its controls holds no value")
    if getattr(when, part) is None:
        held = [name for name in ("onsets", "envelope") if getattr(when, name) is not None]
        raise UserError(
            f"{ask.media}: the system follows {part}, and its controls hold "
            f"{' and '.join(held) or 'nothing of when'}"
        )
