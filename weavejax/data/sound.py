"""Reading the samples of an audio stream or sound file as mono, or as stereo."""

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from weavejax.data.clip import DecodeError
from weavejax.data.opening import Allowance, check_sound, open_file, prepare

TRUNCATED_SECONDS = 0.5  # a stream that ends this much before its stated end is broken
GAP_SECONDS = 0.02  # time stamps this far from the running sample count are real gaps
BLOCK = 2**17  # samples resampled at a time


class SoundSink:
    """Collects sound as it is decoded and resamples it on the way, in little memory.

    By soxr's "HQ", which delays nothing; block by block gives the same bits as all at once.

    Args:
      source_rate: of what comes in, Hz.
      rate: of the result, Hz.
      limit: longest sound accepted, seconds.
      stereo: samples are [S, 2] instead of [S].

    Attributes:
      length: samples put in so far.
    """

    def __init__(self, source_rate: int, rate: int, limit: float, stereo: bool) -> None:
        self.source_rate, self.length = source_rate, 0
        self._limit, self._more = limit, (2,) if stereo else ()
        self._waiting: list[np.ndarray] = []
        self._waiting_length = 0
        self._done: list[np.ndarray] = []
        same = source_rate == rate
        channels = 2 if stereo else 1
        self._stream = (
            None if same else soxr.ResampleStream(source_rate, rate, channels, quality="HQ")
        )

    def put(self, samples: np.ndarray) -> None:
        """Adds float32 [S] or [S, 2]; refuses what is beyond the limit or (in the end) not finite."""
        self.check_length(len(samples))
        self.length += len(samples)
        self._waiting.append(samples)
        self._waiting_length += len(samples)
        if self._waiting_length >= BLOCK:
            self._flush(last=False)

    def put_silence(self, count: int) -> None:
        """Adds zeros."""
        self.check_length(count)
        for start in range(0, count, BLOCK):
            self.put(np.zeros((min(BLOCK, count - start), *self._more), np.float32))

    def check_length(self, more: int) -> None:
        """Refuses `more` samples if they would lead beyond the limit."""
        if self.length + more > self._limit * self.source_rate:
            raise DecodeError(f"sound longer than the limit of {self._limit:g} s")

    def _flush(self, last: bool) -> None:
        empty = np.zeros((0, *self._more), np.float32)
        block = np.concatenate([empty, *self._waiting])
        self._waiting, self._waiting_length = [], 0
        if not np.isfinite(block).all():
            raise DecodeError("the sound holds values that are not finite")
        if self._stream is not None:
            block = self._stream.resample_chunk(block, last=last)
        self._done.append(block)

    def result(self) -> np.ndarray:
        """All of it at the rate asked for: float32 [S] or [S, 2], contiguous."""
        self._flush(last=True)
        return np.concatenate(self._done)


def read_audio(
    container: Any,
    stream: Any,
    origin: float | None,
    rate: int,
    limit: float,
    allowance: Allowance,
    *,
    stereo: bool = False,
) -> np.ndarray:
    """All samples of a stream as mono float32 [S] at `rate` Hz, or as stereo [S, 2].

    Args:
      container: opened by PyAV, at its beginning.
      stream: the audio stream.
      origin: time of sample 0 in the file's own seconds; None for the first sample there is.
      rate: of the result.
      limit: longest sound accepted, seconds.
      allowance: what may be decoded.
      stereo: two channels; see `mixed`.
    """
    prepare(stream)
    sink: SoundSink | None = None
    for frame in container.decode(stream):
        allowance.samples(frame.samples, len(frame.layout.channels), frame.sample_rate)
        samples = mixed(_samples(frame), stereo)
        if sink is None:
            sink = SoundSink(frame.sample_rate, rate, limit, stereo)
            origin = _start(frame) if origin is None else origin
        if frame.sample_rate != sink.source_rate:
            raise DecodeError("the sample rate changes within the stream")
        if frame.pts is not None and origin is not None:
            offset = frame.pts * frame.time_base - origin
            gap = round(offset * sink.source_rate) - sink.length
            if gap > 0 and (not sink.length or gap > GAP_SECONDS * sink.source_rate):
                sink.put_silence(gap)
            elif gap < 0 and (not sink.length or -gap > GAP_SECONDS * sink.source_rate):
                samples = samples[-gap:]
        sink.put(samples)
    if sink is None:
        raise DecodeError("the audio stream holds no samples")
    _check_audio_end(stream, origin or 0.0, sink.length, sink.source_rate)
    return sink.result()


def _start(frame: Any) -> float:
    return 0.0 if frame.pts is None else float(frame.pts * frame.time_base)


def _check_audio_end(stream: Any, origin: float, length: int, rate: int) -> None:
    if stream.duration is None:
        return
    stated = float(((stream.start_time or 0) + stream.duration) * stream.time_base) - origin
    if stated - length / rate > TRUNCATED_SECONDS:
        raise DecodeError(f"the sound breaks off after {length / rate:.2f} s")


def _samples(frame: Any) -> np.ndarray:
    """A frame's samples: float32 [S, C], full scale ±1."""
    samples = frame.to_ndarray()
    channels = len(frame.layout.channels)
    if not frame.format.is_planar:
        samples = samples.reshape(-1, channels).T
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128) / 128
    elif samples.dtype.kind == "i":
        samples = samples * np.float32(2.0 ** (1 - 8 * samples.dtype.itemsize))
    return samples.T.astype(np.float32, copy=False)


def libsndfile_reads(media: bytes | str | Path) -> bool:
    """Whether the content (not the name) is FLAC or WAV, which libsndfile reads fastest."""
    with open_file(media) as file:
        head = file.read(12)
    return head[:4] == b"fLaC" or (head[:4] == b"RIFF" and head[8:] == b"WAVE")


def read_sound_file(
    media: bytes | str | Path, rate: int, limit: float, *, stereo: bool = False
) -> np.ndarray | None:
    """Samples [S] or [S, 2] at `rate` Hz; None when libsndfile lacks the codec (FFmpeg may not)."""
    allowance = Allowance()
    with open_file(media) as opened:
        try:
            file = soundfile.SoundFile(opened)
        except soundfile.LibsndfileError:
            return None
        with file:
            check_sound(file.samplerate, file.channels)
            sink = SoundSink(file.samplerate, rate, limit, stereo)
            sink.check_length(file.frames)
            while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
                allowance.samples(len(block), file.channels, file.samplerate)
                sink.put(mixed(block, stereo))
            if not file.frames or sink.length < file.frames:
                raise DecodeError(f"the sound breaks off after {sink.length} samples")
    return sink.result()


def mixed(samples: np.ndarray, stereo: bool) -> np.ndarray:
    """[S, C] → the mean of the channels [S], or two channels [S, 2].

    Two are kept as they are; one, or the mean of more than two, stands in both.
    """
    if stereo and samples.shape[1] == 2:
        return samples
    # One by one: NumPy's mean over a short axis is many times slower.
    total = samples[:, 0].copy()
    for channel in range(1, samples.shape[1]):
        total += samples[:, channel]
    mono = total / np.float32(samples.shape[1])
    return np.stack([mono, mono], axis=1) if stereo else mono
