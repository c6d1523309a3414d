"""Frames by time and mono sound out of whatever media file a user has, through PyAV.

Times are seconds from the first displayed frame of the chosen video stream; the sound of the same
file is moved, by padding or cutting its beginning, so that its sample 0 is that instant.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

from weavejax.data.clip import DecodeError
from weavejax.data.frames import FrameCursor, clockwise, displayed_shape, picture, usual_rate
from weavejax.data.opening import Allowance, open_container, open_file, prepare, readable
from weavejax.data.sound import libsndfile_reads, read_audio, read_sound_file

MAX_SECONDS = 3600.0
# What broken data leads to besides FFmpeg's own errors: numbers beyond 64 bits, divisions by a
# rate of zero, memory that is refused.
BROKEN = (
    av.FFmpegError,
    soundfile.SoundFileError,
    OSError,
    ValueError,
    RuntimeError,
    ArithmeticError,
    MemoryError,
)

__all__ = [
    "AudioInfo",
    "DecodeError",
    "Media",
    "MediaInfo",
    "VideoInfo",
    "decode_audio",
    "decode_frames",
    "probe",
]


@dataclass(frozen=True)
class VideoInfo:
    """A video stream: `width` and `height` in pixels as displayed, `rotation` in degrees clockwise.

    Duration and start are seconds, None where the file does not say.
    """

    index: int
    codec: str
    width: int
    height: int
    fps: float | None
    rotation: int
    duration: float | None


@dataclass(frozen=True)
class AudioInfo:
    """An audio stream; `rate` in Hz."""

    index: int
    codec: str
    rate: int
    channels: int
    layout: str
    duration: float | None


@dataclass(frozen=True)
class MediaInfo:
    """What a media file holds: the streams used, and how many others there are.

    `duration` is seconds, None when the file does not say; `more_video` and `more_audio` count the
    streams that are not used; `still` is true for a single picture.
    """

    format: str
    duration: float | None
    video: VideoInfo | None
    audio: AudioInfo | None
    more_video: int
    more_audio: int
    still: bool

    def __str__(self) -> str:
        parts = []
        if self.video:
            v = self.video
            rate = f" {v.fps:.5g} fps" if v.fps else ""
            turned = f" rotated {v.rotation}°" if v.rotation else ""
            parts.append(f"video #{v.index} {v.codec} {v.width}×{v.height}{rate}{turned}")
        if self.audio:
            a = self.audio
            parts.append(f"audio #{a.index} {a.codec} {a.rate} Hz {a.layout}")
        unused = [
            f"{n} more {kind}"
            for n, kind in ((self.more_video, "video"), (self.more_audio, "audio"))
            if n
        ]
        if unused:
            many = self.more_video + self.more_audio > 1
            parts[-1] += f"; {', '.join(unused)} stream{'s' * many} unused"
        return ", ".join(parts) or "no video or audio stream"


@contextmanager
def _decoding() -> Iterator[None]:
    """Turns what FFmpeg and libsndfile raise on bad data into DecodeError."""
    try:
        yield
    except DecodeError:
        raise
    except BROKEN as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DecodeError(reason) from error


class Media:
    """An opened media file; use as a context manager.

    Args:
      media: the file's bytes, or its path.

    Raises:
      DecodeError: empty, or not one of the formats that are read; see `opening`.
    """

    def __init__(self, media: bytes | str | Path) -> None:
        self._allowance = Allowance()
        with ExitStack() as undo, _decoding():
            self._file = undo.enter_context(open_file(media))
            self._container = undo.enter_context(open_container(self._file, self._allowance))
            streams = self._container.streams
            videos = [s for s in streams.video if not s.disposition & Disposition.attached_pic]
            self._video = _best(self._container, "video", videos)
            self._audio = _best(self._container, "audio", list(streams.audio))
            self._counts = (len(videos), len(streams.audio))
            undo.pop_all()

    def __enter__(self) -> "Media":
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()
        self._file.close()

    @property
    def has_video(self) -> bool:
        return self._video is not None

    @property
    def has_audio(self) -> bool:
        return self._audio is not None

    @property
    def still(self) -> bool:
        """A picture file rather than a moving picture."""
        name = self._container.format.name
        return name.endswith("_pipe") or name == "image2"

    def info(self) -> MediaInfo:
        """Describes the streams in use; decodes one frame, because that holds the rotation."""
        container, video, audio = self._container, self._video, self._audio
        return MediaInfo(
            format=container.format.name,
            duration=None if container.duration is None else container.duration / av.time_base,
            audio=_audio_info(audio) if audio is not None else None,
            video=self._video_info() if video is not None else None,
            more_video=max(0, self._counts[0] - 1),
            more_audio=max(0, self._counts[1] - 1),
            still=self.still,
        )

    def _video_info(self) -> VideoInfo:
        stream = self._video
        frame = FrameCursor(self._container, stream, self._allowance).at(0)
        height, width = displayed_shape(frame, stream)
        rate = stream.average_rate or stream.guessed_rate
        described = VideoInfo(
            index=stream.index,
            codec=stream.codec_context.name,
            width=round(width),
            height=round(height),
            fps=float(rate) if rate else None,
            rotation=clockwise(frame),
            duration=_stream_seconds(stream),
        )
        self._reopen()
        return described

    def _reopen(self) -> None:
        """Back to the very beginning: exact for every format, unlike a seek."""
        chosen = [None if s is None else s.index for s in (self._video, self._audio)]
        self._container.close()  # its streams must not be touched after this
        self._container = open_container(self._file, self._allowance)
        streams = self._container.streams
        self._video, self._audio = (None if i is None else streams[i] for i in chosen)

    def frames(
        self,
        times: Sequence[float] | None = None,
        *,
        count: int | None = None,
        size: tuple[int, int] | None = None,
        crop: str = "squash",
        resize: str = "bilinear",
    ) -> np.ndarray:
        """Decodes the frames on display at given times; see `decode_frames`."""
        if self._video is None:
            raise DecodeError("no video stream")
        if (times is None) == (count is None):
            raise TypeError("give either times or count")
        with _decoding():
            if count is not None:
                duration = self.video_seconds()
                times = [(i + 0.5) / count * duration for i in range(count)]
            assert times is not None
            return self._frames_at(times, size, crop, resize)

    def pictures(self, times: Iterable[float], size: tuple[int, int]) -> Iterator[np.ndarray]:
        """The frames on display at ascending times, uint8 [height, width, 3] one by one.

        For films that would not fit into memory as `frames`.
        """
        if self._video is None:
            raise DecodeError("no video stream")
        with _decoding():
            self._reopen()
            cursor = FrameCursor(self._container, self._video, self._allowance)
            reformatter = VideoReformatter()
            for time in times:
                yield picture(cursor.at(time), self._video, reformatter, size, "squash", "bilinear")

    def _frames_at(
        self, times: Sequence[float], size: tuple[int, int] | None, crop: str, resize: str
    ) -> np.ndarray:
        cursor = FrameCursor(self._container, self._video, self._allowance)
        reformatter = VideoReformatter()
        pictures: list[np.ndarray | None] = [None] * len(times)
        last_frame, last_picture = None, None
        for position in sorted(range(len(times)), key=lambda i: times[i]):
            frame = cursor.at(times[position])
            if frame is not last_frame:
                last_frame = frame
                last_picture = picture(frame, self._video, reformatter, size, crop, resize)
            pictures[position] = last_picture
        return np.stack([picture for picture in pictures if picture is not None])

    def video_seconds(self) -> float:
        """Length of the video stream, read from its packets where no header states it.

        The container's own duration will not do: in Matroska it counts from time 0, and it is that
        of the longest stream.
        """
        stated = _stream_seconds(self._video)
        if stated:
            return stated
        start = end = None
        for packet in self._container.demux(self._video):
            self._allowance.check_time()
            if packet.pts is not None:
                after = packet.pts + (packet.duration or 0)
                start = packet.pts if start is None else min(start, packet.pts)
                end = after if end is None else max(end, after)
        self._reopen()
        return _seconds(end - start, self._video) if start is not None and end is not None else 0.0

    def length(self) -> Fraction:
        """Exact seconds of the clip: of its picture, or of its sound where there is no picture.

        Frames over frame rate (`frames.usual_rate`) where these are steady, so that a container that
        rounds its time stamps (Matroska, to 1 ms) does not change the length; else what the time
        stamps say.

        Raises:
          DecodeError: a single picture, broken data, or nothing to see or hear.
        """
        if self._video is None:
            rate = self._audio.codec_context.sample_rate if self._audio is not None else 0
            return Fraction(len(self.audio(rate)), rate or 1)
        if self.still:
            raise DecodeError("a single picture, which has no length")
        with _decoding():
            shown = []
            for packet in self._container.demux(self._video):
                self._allowance.check_time()
                if packet.size and not packet.is_discard:
                    shown.append((packet.pts, packet.duration or 0))
            rate = Fraction(self._video.average_rate or self._video.guessed_rate or 25)
            base = self._video.time_base
            self._reopen()
        if not shown:
            raise DecodeError("the video stream holds no frame")
        steady, stamps = len(shown) / rate, [each for each in shown if each[0] is not None]
        if not stamps:
            return steady
        (first, _), (last, lasting) = min(stamps), max(stamps)
        stamped = (last - first) * base + (lasting * base if lasting else 1 / rate)
        if abs(steady - stamped) >= 1 / (2 * rate):
            return Fraction(stamped)
        return len(shown) / usual_rate(rate, len(shown), 2 * base)

    def packets(self) -> tuple[Any, Iterator[Any]]:
        """The video stream as it is stored, and its packets from the first on, in decoding order."""
        if self._video is None:
            raise DecodeError("no video stream")
        self._reopen()
        found = self._container.demux(self._video)
        return self._video, (packet for packet in found if packet.size)

    def audio(self, rate: int, *, limit: float = MAX_SECONDS, stereo: bool = False) -> np.ndarray:
        """Decodes the sound; see `decode_audio`."""
        if self._audio is None:
            raise DecodeError("no audio stream")
        with _decoding():
            if self._video is not None and not self.still:
                origin = _seconds(self._video.start_time, self._video)
            else:
                origin = None
            self._reopen()  # frames may have been read before
            return read_audio(
                self._container, self._audio, origin, rate, limit, self._allowance, stereo=stereo
            )


def _best(container: Any, kind: str, streams: list[Any]) -> Any:
    """FFmpeg's choice of stream unless that is a cover picture; None when there is none.

    Streams whose codec is not read come last: only if there is no other is one chosen, so that the
    clip counts as broken, not as silent or blind.
    """
    best = container.streams.best(kind)
    usable = [s for s in streams if readable(s)] or streams
    preferred = [s for s in usable if best is not None and s.index == best.index]
    return next(iter(preferred or usable), None)


def _seconds(ticks: int | None, stream: Any) -> float:
    return float((ticks or 0) * stream.time_base)


def _stream_seconds(stream: Any) -> float | None:
    return _seconds(stream.duration, stream) if stream.duration else None


def _audio_info(stream: Any) -> AudioInfo:
    prepare(stream)  # refuses what would not be decoded either
    context = stream.codec_context
    layout = context.layout.name  # WAV files need not say what their channels are for
    return AudioInfo(
        index=stream.index,
        codec=context.name,
        rate=context.sample_rate,
        channels=context.channels,
        layout="mono" if context.channels == 1 else layout,
        duration=_stream_seconds(stream),
    )


def probe(media: bytes | str | Path) -> MediaInfo:
    """Describes a media file and the streams that would be used.

    Raises:
      DecodeError: no known format, or its first frame cannot be decoded.
    """
    with Media(media) as opened, _decoding():
        return opened.info()


def decode_frames(
    media: bytes | str | Path,
    times: Sequence[float] | None = None,
    *,
    count: int | None = None,
    size: tuple[int, int] | None = None,
    crop: str = "squash",
    resize: str = "bilinear",
) -> np.ndarray:
    """Decodes the frames on display at given times.

    A frame is on display from its time stamp to the next frame's; times before the first or after
    the last frame give those. Rotation is applied.

    Args:
      media: the file's bytes, or its path.
      times: seconds from the first displayed frame, in any order.
      count: instead of `times`: the middles of that many equal parts of the video.
      size: height and width in pixels; default the displayed size (square pixels).
      crop: "squash" ignores the aspect ratio; "centre" keeps it: shorter side to `size`, then the
        central square.
      resize: "bilinear" without antialiasing, or "bicubic" with it; see `weavejax.data.resize`.

    Returns:
      uint8 [T, height, width, 3], RGB.

    Raises:
      DecodeError: no video stream, broken data, or pictures beyond 16384 a side or 64 Mpixel.
    """
    with Media(media) as opened:
        return opened.frames(times, count=count, size=size, crop=crop, resize=resize)


def decode_audio(
    media: bytes | str | Path, rate: int, *, limit: float = MAX_SECONDS, stereo: bool = False
) -> np.ndarray:
    """Decodes the best audio stream, mixed down to mono by the mean of its channels.

    Sample 0 is the first displayed frame of the file's video stream, or the first sample when
    there is no video. Resampled by soxr ("HQ": no delay). FLAC and WAV go through libsndfile.

    Args:
      media: the file's bytes, or its path.
      rate: sampling rate of the result in Hz.
      limit: longest sound accepted, in seconds.
      stereo: two channels instead; see `weavejax.data.sound.mixed`.

    Returns:
      float32 [S], or [S, 2] in stereo, full scale ±1 (lossy codecs may overshoot a little).

    Raises:
      DecodeError: no audio stream, broken data, values that are not finite, or beyond the limit.
    """
    with _decoding():
        known = libsndfile_reads(media)
        wave = read_sound_file(media, rate, limit, stereo=stereo) if known else None
        if wave is not None:
            return wave
    with Media(media) as opened:
        return opened.audio(rate, limit=limit, stereo=stereo)
