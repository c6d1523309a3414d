"""From a clip to one training or evaluation example, in two pure steps.

`decode_clip` is expensive and free of chance, so its result can be kept (`cache.py`);
`sample_example` is cheap and draws everything random. Inputs as in GRAM (arXiv 2412.11959) and its
published data loader: frames of equal segments, Kaldi mel filter bank, one chunk of it. For CLAP's
audio encoder, its own log mel spectrogram instead.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from weavejax.data.clip import Clip, DecodeError
from weavejax.data.decode import Media, decode_audio
from weavejax.data.order import record_rng
from weavejax.data.recipe import Example, Field
from weavejax.data.resize import FILTERS, bilinear
from weavejax.data.text import encode
from weavejax.errors import UserError
from weavejax.ops.fbank import kaldi_fbank
from weavejax.ops.log_mel import HOP, RATE, log_mel, repeat_pad

CROP_AREA = (0.8, 1.0)  # share of the area a random crop keeps
# Front ends: Kaldi's filter bank, or CLAP's log mel with the scale it was trained on.
KALDI, MEL_SCALES = "kaldi", {"clap": "slaney", "clap_fused": "htk"}
SHORTEST = 0.025  # seconds of sound: one window of Kaldi's filter bank
# What decoding depends on.
DECODING = (
    "size",
    "crop",
    "resize",
    "candidates",
    "front_end",
    "rate",
    "mels",
    "audio_frames",
    "chunk_candidates",
)
NORMALISING = ("mean", "std")
MEL_BLOCK = 2**15  # mel frames computed at a time: five minutes of sound take 300 MB on the way


@dataclass(frozen=True)
class ExampleSpec:
    """Shapes and constants of an example.

    Attributes:
      frames: frames per example in training, T.
      test_frames: frames in evaluation and of clips that are embedded; 0: as many as in training.
      size: side of a frame in pixels, S.
      crop: "squash" resizes to the square whatever the aspect ratio; "crop_flip" takes the
        central square, and in training a random 80–100 % of its area, mirrored half of the time.
      resize: "bilinear" without antialiasing, as GRAM's towers saw pictures; "bicubic" with it, as
        CLIP's and SigLIP's did.
      candidates: frames decoded (and cached) per clip, at the middles of equal parts.
      front_end: "kaldi", as BEATs takes it; "clap" or "clap_fused", as CLAP's encoders without
        and with feature fusion take it (at 48 kHz).
      rate: of the sound, Hz.
      mels: mel bands.
      audio_frames: mel frames (10 ms each) per chunk.
      chunks: chunks per example, C.
      chunk_candidates: chunks kept (and cached) per clip; of a longer clip, those in the middles
        of equal parts.
      text_length: caption tokens, [CLS] and [SEP] included.
      subtitle_length: subtitle tokens; 0 leaves subtitles out.
      mean: subtracted from the mel filter bank; for published CLAP weights 0.
      std: half of what it is then divided by; for published CLAP weights 0.5.
      lacking: share of the training clips that have lost one of their streams, to see what that
        costs; always the same clips and streams.
    """

    frames: int = 2
    test_frames: int = 0
    size: int = 112
    crop: str = "squash"
    resize: str = "bilinear"
    candidates: int = 8
    front_end: str = KALDI
    rate: int = 16000
    mels: int = 64
    audio_frames: int = 400
    chunks: int = 1
    chunk_candidates: int = 4
    text_length: int = 32
    subtitle_length: int = 0
    mean: float = 15.41663
    std: float = 6.55582
    lacking: float = 0.0

    def __post_init__(self) -> None:
        if self.crop not in ("squash", "crop_flip"):
            raise UserError(f"crop is {self.crop!r}: it must be 'squash' or 'crop_flip'")
        if self.resize not in FILTERS:
            raise UserError(f"resize is {self.resize!r}: it must be one of {', '.join(FILTERS)}")
        if self.front_end not in (KALDI, *MEL_SCALES):
            names = ", ".join((KALDI, *MEL_SCALES))
            raise UserError(f"front_end is {self.front_end!r}: it must be one of {names}")
        if self.front_end != KALDI and (self.rate != RATE or self.audio_frames < 2):
            raise UserError(
                f"front_end {self.front_end!r} needs a rate of {RATE} and at least 2 audio_frames, "
                f"not {self.rate} and {self.audio_frames}"
            )
        for kept, used, number in (
            ("candidates", "frames", self.frames),
            ("candidates", "test_frames", self.shown),
            ("chunk_candidates", "chunks", self.chunks),
        ):
            if not 0 < number <= getattr(self, kept):
                raise UserError(
                    f"{used} is {number}: it must be from 1 to {kept}, {getattr(self, kept)}"
                )
        if self.text_length < 2 or self.subtitle_length in (1,) or self.subtitle_length < 0:
            raise UserError("text_length and subtitle_length must leave room for [CLS] and [SEP]")
        if not 0.0 <= self.lacking <= 1.0:
            raise UserError(f"lacking is {self.lacking}: it is a share, from 0 to 1")

    @property
    def shown(self) -> int:
        """Frames of a clip in evaluation."""
        return self.test_frames or self.frames

    @property
    def stored(self) -> dict[str, Field]:
        """See `weavejax.data.recipe`. Mel values are kept in float16."""
        video = (self.candidates, self.size, self.size, 3)
        audio = (self.chunk_candidates, self.audio_frames, self.mels)
        return {
            "video": Field(video, np.dtype(np.uint8)),
            "audio": Field(audio, np.dtype(np.float16), ragged=True),
        }

    @property
    def key(self) -> dict[str, Any]:
        """See `weavejax.data.recipe`."""
        return {name: getattr(self, name) for name in DECODING + NORMALISING}

    def decode(self, clip: Clip) -> dict[str, Any]:
        """See `decode_clip`."""
        return decode_clip(clip, self)

    def sample(
        self,
        decoded: Mapping[str, Any],
        captions: tuple[str, ...],
        subtitle: str,
        tokenizer: Tokenizer | None,
        rng: np.random.Generator | None,
    ) -> Example:
        """See `sample_example`."""
        assert tokenizer is not None
        return sample_example(decoded, captions, subtitle, self, tokenizer, rng)

    def wear(self, example: Example, record: int) -> Example:
        """Without the stream that a share `lacking` of the clips has lost."""
        return lose_stream(example, self.lacking, record_rng(record)) if self.lacking else example

    def empty(self) -> Example:
        """See `empty_example`."""
        return empty_example(self)


def decode_clip(clip: Clip, spec: ExampleSpec) -> dict[str, Any]:
    """Decodes a clip to everything an example can be drawn from.

    Returns:
      `video` uint8 [candidates, S, S, 3] and `video_mask` bool; `audio` float32
      [n, audio_frames, mels], n ≤ chunk_candidates (0 when there is no sound, or less than the
      25 ms of one mel window), and `audio_mask` bool. A missing modality is zeros, mask False.

    Raises:
      DecodeError: the media is broken.
    """
    video = np.zeros((spec.candidates, spec.size, spec.size, 3), np.uint8)
    wave = decode_audio(clip.audio, spec.rate) if clip.audio else None
    has_video = False
    if clip.video:
        with Media(clip.video) as media:
            has_video = media.has_video
            if not has_video and not media.has_audio:
                raise DecodeError("no video or audio stream")
            if has_video:
                crop = "squash" if spec.crop == "squash" else "centre"
                square = (spec.size, spec.size)
                video = media.frames(
                    count=spec.candidates, size=square, crop=crop, resize=spec.resize
                )
            if wave is None and media.has_audio:
                wave = media.audio(spec.rate)
    chunks = _chunks(wave, spec)
    return {
        "video": video,
        "video_mask": has_video,
        "audio": chunks,
        "audio_mask": len(chunks) > 0,
    }


def _chunks(wave: np.ndarray | None, spec: ExampleSpec) -> np.ndarray:
    """Normalised mel chunks, float32 [n, audio_frames, mels]; none of less sound than `SHORTEST`."""
    if wave is None or len(wave) < int(spec.rate * SHORTEST):
        return np.zeros((0, spec.audio_frames, spec.mels), np.float32)
    chunks = _kaldi_chunks(wave, spec) if spec.front_end == KALDI else _clap_chunks(wave, spec)
    if len(chunks) > spec.chunk_candidates:
        chunks = chunks[_pick(len(chunks), spec.chunk_candidates, None)]
    return chunks


def _kaldi_chunks(wave: np.ndarray, spec: ExampleSpec) -> np.ndarray:
    """Consecutive chunks of the filter bank.

    As published: zeros are appended after normalisation up to the next multiple of the chunk
    length, and a sound that ends exactly on a multiple still gets one blank chunk more.
    """
    mel = _normalised(_mel(wave, spec), spec)
    padding = spec.audio_frames - len(mel) % spec.audio_frames
    return np.pad(mel, ((0, padding), (0, 0))).reshape(-1, spec.audio_frames, spec.mels)


def _clap_chunks(wave: np.ndarray, spec: ExampleSpec) -> np.ndarray:
    """Pieces of sound of one length, from its beginning to its end, evenly spread.

    As published, a short sound is repeated and padded. Of a long one the published code takes one
    such piece, at random.
    """
    samples = (spec.audio_frames - 1) * HOP
    count = math.ceil(len(wave) / samples)
    if count == 1:
        pieces = [repeat_pad(wave, samples)]
    else:
        starts = np.linspace(0, len(wave) - samples, count).round().astype(int)
        # Chosen here, not after: a spectrogram costs more than the piece.
        starts = starts[_pick(count, min(count, spec.chunk_candidates), None)]
        pieces = [wave[start : start + samples] for start in starts]
    scale = MEL_SCALES[spec.front_end]
    mels = [log_mel(piece, mels=spec.mels, scale=scale) for piece in pieces]
    return _normalised(np.stack(mels), spec)


def _normalised(mel: np.ndarray, spec: ExampleSpec) -> np.ndarray:
    return (mel - np.float32(spec.mean)) / np.float32(2 * spec.std)


def _mel(wave: np.ndarray, spec: ExampleSpec) -> np.ndarray:
    """Mel filter bank, float32 [frames, mels], of a sound of any length in bounded memory."""
    window, hop = int(spec.rate * 0.025), int(spec.rate * 0.010)
    step = MEL_BLOCK * hop
    starts = range(0, max(1, len(wave) - window + 1), step)
    blocks = [wave[start : start + step + window - hop] for start in starts]
    return np.concatenate([kaldi_fbank(b, rate=spec.rate, mels=spec.mels) for b in blocks])


def _pick(n: int, parts: int, rng: np.random.Generator | None) -> list[int]:
    """One index of each of `parts` equal segments of range(n): random, or (len + 1) // 2 - 1.

    With fewer indices than parts, indices repeat.
    """
    short, longer = divmod(n, parts)
    chosen = []
    for part in range(parts):
        start = part * short + min(part, longer)
        length = short + (part < longer)
        if length == 0:
            chosen.append(part * n // parts)
        elif rng is None:
            chosen.append(start + (length + 1) // 2 - 1)
        else:
            chosen.append(start + int(rng.integers(length)))
    return chosen


def sample_example(
    decoded: Mapping[str, Any],
    captions: tuple[str, ...],
    subtitle: str,
    spec: ExampleSpec,
    tokenizer: Tokenizer,
    rng: np.random.Generator | None,
) -> dict[str, np.ndarray]:
    """Draws one example.

    Args:
      decoded: what `decode_clip` returned.
      captions: blank ones do not count.
      subtitle: masked when blank.
      spec: shapes.
      tokenizer: of captions and subtitles.
      rng: training: a random frame of each segment, random chunks, caption, crop and mirroring.
        None: evaluation: the middle of each of `test_frames` segments, the middle chunk, the first
        caption.

    Returns:
      `video` uint8 [T, S, S, 3], `audio` float32 [C, audio_frames, mels], `text` int32
      [text_length], each with a bool `*_mask` [] that is False where the modality is missing (its
      values are then zeros); `subtitle` and its mask when the spec has a subtitle length.
    """
    count = spec.shown if rng is None else spec.frames
    frames = decoded["video"][_pick(spec.candidates, count, rng)]
    if rng is not None and spec.crop == "crop_flip":
        frames = _random_crop(frames, rng)
    audio = np.zeros((spec.chunks, spec.audio_frames, spec.mels), np.float32)
    if decoded["audio_mask"]:
        audio[:] = decoded["audio"][_pick(len(decoded["audio"]), spec.chunks, rng)]
    texts = [caption for caption in captions if caption.strip()]
    caption = texts[0 if rng is None else int(rng.integers(len(texts)))] if texts else ""
    example = {
        "video": frames,
        "video_mask": np.array(decoded["video_mask"]),
        "audio": audio,
        "audio_mask": np.array(decoded["audio_mask"]),
        **_tokens("text", caption, spec.text_length, tokenizer),
    }
    if spec.subtitle_length:
        example |= _tokens("subtitle", subtitle, spec.subtitle_length, tokenizer)
    return example


def lose_stream(
    example: dict[str, np.ndarray], share: float, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """The example, with probability `share` without one of its streams; it keeps at least one."""
    streams = [
        name for name in ("video", "audio", "subtitle") if example.get(f"{name}_mask", False)
    ]
    lost, which = rng.random() < share, int(rng.integers(max(len(streams), 1)))
    if not lost or len(streams) < 2:
        return example
    name = streams[which]
    return example | {name: np.zeros_like(example[name]), f"{name}_mask": np.array(False)}


def empty_example(spec: ExampleSpec) -> dict[str, np.ndarray]:
    """An example of evaluation's shapes with every modality missing."""
    side, mels = spec.size, (spec.chunks, spec.audio_frames, spec.mels)
    example: dict[str, np.ndarray] = {
        "video": np.zeros((spec.shown, side, side, 3), np.uint8),
        "video_mask": np.array(False),
        "audio": np.zeros(mels, np.float32),
        "audio_mask": np.array(False),
        "text": np.zeros(spec.text_length, np.int32),
        "text_mask": np.array(False),
    }
    if spec.subtitle_length:
        example["subtitle"] = np.zeros(spec.subtitle_length, np.int32)
        example["subtitle_mask"] = np.array(False)
    return example


def _tokens(key: str, text: str, length: int, tokenizer: Tokenizer) -> dict[str, Any]:
    present = bool(text.strip())
    tokens = encode(tokenizer, text, length) if present else np.zeros(length, np.int32)
    return {key: tokens, f"{key}_mask": np.array(present)}


def _random_crop(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One random square and one mirroring for all frames of a clip."""
    side = frames.shape[1]
    cut = min(side, round(side * float(np.sqrt(rng.uniform(*CROP_AREA)))))
    top, left = (int(rng.integers(side - cut + 1)) for _ in range(2))
    mirrored = bool(rng.integers(2))
    square = frames[:, top : top + cut, left : left + cut]
    if mirrored:
        square = square[:, :, ::-1]
    return np.stack([bilinear(picture, (side, side)) for picture in square])
