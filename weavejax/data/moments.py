"""Examples of systems that ask when: frames at a steady rate, sound, and when onsets are.

Times in an example are seconds from the beginning of its window. Augmentation of the frames is what
the published onset network has (SyncFusion, arXiv 2310.15247), as far as it is geometry: one random
crop for all frames of a window. Colour is the system's affair, on the device.

For a condition that is heard an example can hold a part of its sound as CLAP's audio encoder takes it:
for SyncFusion's one hit, what sounds from an onset to the next; for Fol·AI's all of it. A short sound
is repeated as often as it fits, as CLAP was trained; the published code of SyncFusion first fills a
batch's hits up to the longest with silence, and repeats that too.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from weavejax.data.clip import Clip, DecodeError
from weavejax.data.decode import Media, decode_audio
from weavejax.data.recipe import Example, Field
from weavejax.data.text import encode
from weavejax.dials import controls
from weavejax.errors import UserError
from weavejax.ops import log_mel, onset_strength
from weavejax.ops.resample import resample

LABELS = ("controls", "sound")
LISTENS = ("hit", "window")
FULL_SCALE = 2**15 - 1  # sound is kept as 16-bit integers
NO_TIME = -1.0  # fills up the list of onsets


@dataclass(frozen=True)
class MomentSpec:
    """Shapes and constants of an example.

    Attributes:
      seconds: of a window.
      fps: frames a second.
      side: of the square that frames are brought to, pixels; 0 leaves pictures out.
      size: of the square that is shown: at random in training, the middle in evaluation.
      rate: of the sound, Hz; 0 leaves sound out.
      stereo: two channels of sound, not their mean.
      onsets: the most that a window can hold; 0 leaves them out.
      labels: where onsets come from: the clip's "controls", or its "sound".
      delta: of onsets in the sound: how clearly they stand out (`ops.onset_strength`).
      text_length: caption tokens; 0 leaves captions out.
      shift: seconds by which a training window begins later than it would, at most and at random, as
        far as the clip has sound. (The published code moves all windows of a clip together, by at most
        what is left of it after the last.)
      audio_frames: of the mel spectrogram of what is `heard`, 10 ms each; 0 leaves it out.
      mels: its bands.
      listens: what is heard: one "hit", or all of the "window".
    """

    seconds: float = 2.0
    fps: float = 15.0
    side: int = 128
    size: int = 112
    rate: int = 44_100
    stereo: bool = True
    onsets: int = 64
    labels: str = "controls"
    delta: float = onset_strength.DELTA
    text_length: int = 0
    shift: float = 0.0
    audio_frames: int = 0
    mels: int = 64
    listens: str = "hit"

    def __post_init__(self) -> None:
        if not self.seconds > 0 or not self.fps > 0:
            raise UserError("seconds and fps must be above 0")
        if self.side and not 0 < self.size <= self.side:
            raise UserError(f"size is {self.size}: it must be from 1 to side, {self.side}")
        if self.labels not in LABELS:
            raise UserError(f"labels is {self.labels!r}: it must be one of {', '.join(LABELS)}")
        if not self.side and not self.rate:
            raise UserError("side and rate are both 0: neither pictures nor sound are left")
        if self.shift < 0 or (self.shift and (self.side or not self.rate)):
            raise UserError("shift must not be below 0, and needs sound without pictures")
        if self.listens not in LISTENS:
            raise UserError(f"listens is {self.listens!r}: it must be one of {', '.join(LISTENS)}")
        onsets = self.onsets or self.listens == "window"
        if self.audio_frames and not (self.audio_frames > 1 and self.rate and onsets):
            raise UserError("audio_frames, of a hit, must be above 1, with a rate and onsets")

    @property
    def frames(self) -> int:
        """Of a window."""
        return math.ceil(self.seconds * self.fps - 1e-6)

    @property
    def samples(self) -> int:
        """Of a window."""
        return round(self.seconds * self.rate)

    @property
    def held(self) -> float:
        """Seconds that are decoded of a clip: a window, wherever it is shifted."""
        return self.seconds + self.shift

    @property
    def channels(self) -> int:
        """Of the sound."""
        return 2 if self.stereo else 1

    @property
    def stored(self) -> dict[str, Field]:
        """See `weavejax.data.recipe`."""
        found = {}
        if self.side:
            shape = (self.frames, self.side, self.side, 3)
            found["video"] = Field(shape, np.dtype(np.uint8))
        if self.rate:
            heard = (round(self.held * self.rate), self.channels)
            found["sound"] = Field(heard, np.dtype(np.int16), ragged=True)
        if self.onsets:
            found["onsets"] = Field((self.onsets + 1,), np.dtype(np.float32), ragged=True)
        return found

    @property
    def key(self) -> dict[str, Any]:
        """See `weavejax.data.recipe`."""
        kept = ("seconds", "fps", "side", "rate", "stereo", "onsets", "labels", "delta", "shift")
        return {name: getattr(self, name) for name in kept}

    def decode(self, clip: Clip) -> dict[str, Any]:
        """Frames, sound and onsets of the window that begins at `clip.start`, `held` seconds of it.

        Returns:
          `video` uint8 [frames, side, side, 3]; `sound` int16 [S, channels], shorter where the clip
          ends; `onsets` float32 [n + 1], the first of them `NO_TIME`, so that a window without onsets
          is told from one of which nothing is known; and their masks.

        Raises:
          DecodeError: the media is broken, or has more onsets than there is room for.
        """
        found: dict[str, Any] = {}
        wave = self._sound(clip) if self.rate or self.labels == "sound" else None
        if self.side:
            found["video"] = self._video(clip)
        if self.rate:
            kept = None if wave is None else wave[: round(self.held * self.rate)]
            found["sound"] = kept if kept is None or len(kept) else None
        if self.onsets:
            found["onsets"] = self._onsets(clip, wave)
        made: dict[str, Any] = {}
        for name, field in self.stored.items():
            value = found[name]
            blank = np.zeros((0,) * field.ragged + field.shape[field.ragged :], field.dtype)
            made[name] = blank if value is None else value
            made[f"{name}_mask"] = value is not None
        return made

    def _video(self, clip: Clip) -> np.ndarray | None:
        if not clip.video:
            return None
        with Media(clip.video) as media:
            if not media.has_video:
                return None
            if clip.start >= media.video_seconds() > 0:
                return None
            # In the middle of its span each frame is the one on display, whatever the rounding.
            times = [clip.start + (k + 0.5) / self.fps for k in range(self.frames)]
            return media.frames(times, size=(self.side, self.side))

    def _sound(self, clip: Clip) -> np.ndarray | None:
        """Everything from the start of the window on: int16 [S, channels]."""
        rate = self.rate or onset_strength.RATE
        wave = decode_audio(clip.audio, rate, stereo=self.stereo) if clip.audio else None
        if wave is None and clip.video:
            with Media(clip.video) as media:
                wave = media.audio(rate, stereo=self.stereo) if media.has_audio else None
        if wave is None:
            return None
        wave = wave[round(clip.start * rate) :].reshape(-1, self.channels)
        return np.rint(np.clip(wave, -1.0, 1.0) * FULL_SCALE).astype(np.int16)

    def _onsets(self, clip: Clip, wave: np.ndarray | None) -> np.ndarray | None:
        """Times in the window, after a leading `NO_TIME`."""
        times = self._told(clip) if self.labels == "controls" else self._heard(wave)
        if times is None:
            return None
        inside = times[(times >= 0) & (times < self.held)]
        if len(inside) > self.onsets:
            raise DecodeError(f"{len(inside)} onsets in {self.held:g} s; room for {self.onsets}")
        return np.concatenate([[NO_TIME], np.sort(inside)]).astype(np.float32)

    def _told(self, clip: Clip) -> np.ndarray | None:
        if not clip.controls:
            return None
        try:
            when = controls.parse(clip.controls).when
        except UserError as error:
            raise DecodeError(f"its controls: {error}") from error
        if when is None or when.onsets is None:
            return None
        return np.array([onset.time for onset in when.onsets], np.float64) - clip.start

    def _heard(self, wave: np.ndarray | None) -> np.ndarray | None:
        if wave is None or not len(wave):
            return None
        rate = self.rate or onset_strength.RATE
        mono = wave[: round(self.held * rate)].mean(1) / FULL_SCALE
        found = resample(mono, rate, onset_strength.RATE)
        return onset_strength.detect_onsets(found, delta=self.delta) / onset_strength.RATE

    def sample(
        self,
        decoded: Mapping[str, Any],
        captions: tuple[str, ...],
        subtitle: str,
        tokenizer: Tokenizer | None,
        rng: np.random.Generator | None,
    ) -> Example:
        """Draws one example.

        Returns:
          `video` uint8 [frames, size, size, 3], `sound` float32 [samples, channels] in [-1, 1],
          `onsets` float32 [onsets], seconds, filled up with `NO_TIME`; `heard` float32 [audio_frames,
          mels], in dB, of an onset that is drawn, in evaluation the first, or of all of the window;
          `text` int32 [text_length];
          each with a bool `*_mask` [], as far as the spec has them.
        """
        del subtitle
        example, first = self.empty(), self._shifted(decoded, rng)
        if self.side and decoded["video_mask"]:
            example["video"] = self._crop(decoded["video"], rng)
        if self.rate and decoded["sound_mask"]:
            sound = decoded["sound"][first : first + self.samples]
            example["sound"][: len(sound)] = sound.astype(np.float32) / FULL_SCALE
        if self.onsets and decoded["onsets_mask"]:
            times = decoded["onsets"][1:]
            if self.shift:
                times = times - np.float32(first / self.rate)
                times = times[(times >= 0) & (times < self.seconds)]
            example["onsets"][: len(times)] = times
        for name in self.stored:
            example[f"{name}_mask"] = np.array(bool(decoded[f"{name}_mask"]))
        if self.audio_frames and decoded["sound_mask"]:
            heard = min(len(decoded["sound"]) - first, self.samples)
            example |= self._listened(example["sound"][:heard], example.get("onsets"), rng)
        if self.text_length:
            texts = [text for text in captions if text.strip()]
            if texts:
                assert tokenizer is not None
                chosen = texts[0 if rng is None else int(rng.integers(len(texts)))]
                example["text"] = encode(tokenizer, chosen, self.text_length)
            example["text_mask"] = np.array(bool(texts))
        return example

    def _shifted(self, decoded: Mapping[str, Any], rng: np.random.Generator | None) -> int:
        """By how many samples the window begins later."""
        if not self.shift or rng is None or not decoded["sound_mask"]:
            return 0
        return int(rng.integers(max(len(decoded["sound"]) - self.samples, 0) + 1))

    def _listened(
        self, sound: np.ndarray, onsets: np.ndarray | None, rng: np.random.Generator | None
    ) -> Example:
        """`heard` and its mask; nothing where no onset is followed by sound."""
        spans = [(0, len(sound))]
        if self.listens == "hit":
            assert onsets is not None
            starts = (onsets[onsets >= 0] * self.rate).astype(int)
            ends = np.minimum(np.append(starts[1:], len(sound)), len(sound))[: len(starts)]
            spans = [(a, b) for a, b in zip(starts, ends, strict=True) if a < b]
        if not spans:
            return {}
        start, end = spans[0 if rng is None else int(rng.integers(len(spans)))]
        mel = self.heard(sound[start:end].mean(1), self.rate)
        return {} if mel is None else {"heard": mel, "heard_mask": np.array(True)}

    def heard(self, wave: np.ndarray, rate: int) -> np.ndarray | None:
        """`heard` of a sound [S]: float32 [audio_frames, mels]; None of no sound at all."""
        wave = resample(wave, rate, log_mel.RATE)
        if not len(wave):
            return None
        room = (self.audio_frames - 1) * log_mel.HOP
        return log_mel.log_mel(log_mel.repeat_pad(wave[:room], room), mels=self.mels)

    def _crop(self, frames: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        room = self.side - self.size
        top, left = (room // 2 if rng is None else int(rng.integers(room + 1)) for _ in range(2))
        return frames[:, top : top + self.size, left : left + self.size]

    def wear(self, example: Example, record: int) -> Example:
        """As it is."""
        del record
        return example

    def empty(self) -> Example:
        """An example with everything missing."""
        example: Example = {}
        if self.side:
            example["video"] = np.zeros((self.frames, self.size, self.size, 3), np.uint8)
        if self.rate:
            example["sound"] = np.zeros((self.samples, self.channels), np.float32)
        if self.onsets:
            example["onsets"] = np.full(self.onsets, NO_TIME, np.float32)
        if self.audio_frames:
            example["heard"] = np.zeros((self.audio_frames, self.mels), np.float32)
        if self.text_length:
            example["text"] = np.zeros(self.text_length, np.int32)
        return example | {f"{name}_mask": np.array(False) for name in list(example)}
