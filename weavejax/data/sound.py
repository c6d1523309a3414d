"""Reading the samples of an audio stream or sound file as mono."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from weavejax.data.clip import DecodeError

TRUNCATED_SECONDS = 0.5  # a stream that ends this much before its stated end is broken
GAP_SECONDS = 0.02  # time stamps this far from the running sample count are real gaps


def read_audio(
    container: Any, stream: Any, origin: float | None, limit: float
) -> tuple[np.ndarray, int]:
    """All samples of a stream as mono float32 [S], and their rate; `origin` becomes sample 0."""
    pieces: list[np.ndarray] = []
    rate, length = 0, 0
    for frame in container.decode(stream):
        samples = _mono(frame)
        if not rate:
            rate = frame.sample_rate
            origin = _start(frame) if origin is None else origin
        if frame.sample_rate != rate:
            raise DecodeError("the sample rate changes within the stream")
        if frame.pts is not None and origin is not None:
            gap = round((frame.pts * frame.time_base - origin) * rate) - length
            if gap > 0 and (not pieces or gap > GAP_SECONDS * rate):
                if length + gap > limit * rate:
                    raise DecodeError(f"sound longer than the limit of {limit:g} s")
                pieces.append(np.zeros(gap, np.float32))
                length += gap
            elif gap < 0 and (not length or -gap > GAP_SECONDS * rate):
                samples = samples[-gap:]
        pieces.append(samples)
        length += len(samples)
        if length > limit * rate:
            raise DecodeError(f"sound longer than the limit of {limit:g} s")
    if not pieces:
        raise DecodeError("the audio stream holds no samples")
    _check_audio_end(stream, origin or 0.0, length, rate)
    return np.concatenate(pieces), rate


def _start(frame: Any) -> float:
    return 0.0 if frame.pts is None else float(frame.pts * frame.time_base)


def _check_audio_end(stream: Any, origin: float, length: int, rate: int) -> None:
    if stream.duration is None:
        return
    stated = float(((stream.start_time or 0) + stream.duration) * stream.time_base) - origin
    if stated - length / rate > TRUNCATED_SECONDS:
        raise DecodeError(f"the sound breaks off after {length / rate:.2f} s")


def _mono(frame: Any) -> np.ndarray:
    """The mean of a frame's channels: float32 [S], full scale ±1."""
    samples = frame.to_ndarray()
    channels = len(frame.layout.channels)
    if not frame.format.is_planar:
        samples = samples.reshape(-1, channels).T
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128) / 128
    elif samples.dtype.kind == "i":
        samples = samples * np.float32(2.0 ** (1 - 8 * samples.dtype.itemsize))
    return samples.mean(axis=0, dtype=np.float32)


def resample(wave: np.ndarray, source_rate: int, rate: int) -> np.ndarray:
    """Resamples mono sound float32 [S] by soxr's "HQ"; refuses values that are not finite."""
    if not np.isfinite(wave).all():
        raise DecodeError("the sound holds values that are not finite")
    if source_rate != rate:
        wave = soxr.resample(wave, source_rate, rate, quality="HQ")
    return np.ascontiguousarray(wave, np.float32)


def libsndfile_reads(media: bytes | str | Path) -> bool:
    """Whether the content (not the name) is FLAC or WAV, which libsndfile reads fastest."""
    if isinstance(media, bytes):
        head = media[:12]
    else:
        with open(media, "rb") as file:
            head = file.read(12)
    return head[:4] == b"fLaC" or (head[:4] == b"RIFF" and head[8:] == b"WAVE")


def read_sound_file(media: bytes | str | Path, limit: float) -> tuple[np.ndarray, int] | None:
    """Mono samples and rate; None when libsndfile lacks the codec (FFmpeg may have it)."""
    source = io.BytesIO(media) if isinstance(media, bytes) else str(media)
    try:
        file = soundfile.SoundFile(source)
    except soundfile.LibsndfileError:
        return None
    with file:
        if file.frames > limit * file.samplerate:
            raise DecodeError(f"sound longer than the limit of {limit:g} s")
        samples = file.read(dtype="float32", always_2d=True)
        if not file.frames or len(samples) < file.frames:
            raise DecodeError(f"the sound breaks off after {len(samples)} samples")
        # Channel by channel: NumPy's mean over a short last axis is many times slower.
        total = samples[:, 0].copy()
        for channel in range(1, samples.shape[1]):
            total += samples[:, channel]
        return total / np.float32(samples.shape[1]), file.samplerate
