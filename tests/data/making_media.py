"""Small media files with known content, made in memory."""

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np
import soundfile

from weavejax.data.clip import Clip
from weavejax.errors import UserError

BITS, BLOCK = 8, 8
TICKS = Fraction(1, 90000)


def numbered(number: int, height: int = 48) -> np.ndarray:
    """A picture that shows a number as eight black or white columns: uint8 [height, 64, 3]."""
    bits = [255 * (number >> bit & 1) for bit in range(BITS)]
    row = np.repeat(np.array(bits, np.uint8), BLOCK)
    return np.ascontiguousarray(np.broadcast_to(row[None, :, None], (height, BITS * BLOCK, 3)))


def read_number(picture: np.ndarray) -> int:
    levels = picture.mean(axis=(0, 2)).reshape(BITS, -1).mean(axis=1)
    return sum(1 << bit for bit, level in enumerate(levels) if level > 127)


def quadrants(height: int = 48, width: int = 64) -> np.ndarray:
    """Red, green / blue, white: tells every rotation and mirroring apart."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2] = 255, 0, 0
    picture[: height // 2, width // 2 :] = 0, 255, 0
    picture[height // 2 :, : width // 2] = 0, 0, 255
    picture[height // 2 :, width // 2 :] = 255, 255, 255
    return picture


def movie(
    pictures: list[np.ndarray],
    times: list[Fraction] | Fraction = Fraction(15),
    *,
    form: str = "mp4",
    codec: str = "libx264",
    gop: int = 12,
    rotation: int = 0,
    aspect: Fraction | None = None,
    sound: np.ndarray | None = None,
    sound_rate: int = 16000,
    sound_start: float = 0.0,
    video_start: float = 0.0,
    copies: int = 1,
) -> bytes:
    """A media file. `times` is a frame rate, or the time stamp of each picture in seconds."""
    stamps = [i / times for i in range(len(pictures))] if isinstance(times, Fraction) else times
    rate = times if isinstance(times, Fraction) else Fraction(15)
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        streams = []
        for _ in range(copies):
            stream: Any = container.add_stream(codec, rate=rate)
            stream.height, stream.width = pictures[0].shape[:2]
            stream.pix_fmt = "yuv420p"
            stream.gop_size = gop
            stream.codec_context.time_base = TICKS
            if codec == "libx264":
                stream.options = {"crf": "10", "preset": "veryfast"}
            if aspect is not None:
                stream.codec_context.sample_aspect_ratio = aspect
            if rotation:
                stream.set_display_rotation(rotation)
            streams.append(stream)
        audio: Any = None
        if sound is not None:
            lossless = "pcm_s16le" if form in ("matroska", "mov") else "aac"
            audio = container.add_stream(lossless, rate=sound_rate, layout="mono")
        for stream in streams:
            for picture, stamp in zip(pictures, stamps, strict=True):
                frame = av.VideoFrame.from_ndarray(picture, "rgb24")
                frame.pts, frame.time_base = round((stamp + video_start) / TICKS), TICKS
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        if sound is not None and audio is not None:
            samples = np.round(sound * 32767).astype(np.int16)[None]
            block = av.AudioFrame.from_ndarray(samples, "s16", "mono")
            block.sample_rate = sound_rate
            block.pts, block.time_base = round(sound_start * sound_rate), Fraction(1, sound_rate)
            container.mux(audio.encode(block))
            container.mux(audio.encode())
    return file.getvalue()


def counting_movie(count: int = 30, rate: Fraction = Fraction(15), **options: object) -> bytes:
    return movie([numbered(i) for i in range(count)], rate, **options)  # type: ignore[arg-type]


def sound_file(samples: np.ndarray, rate: int = 16000, form: str = "FLAC") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form)
    return file.getvalue()


def tone(seconds: float = 2.0, rate: int = 16000, hertz: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


class ListSource:
    """Clips from a list; the records in `broken` raise when read."""

    fingerprint = "list"

    def __init__(self, clips: list[Clip], broken: frozenset[int] = frozenset()) -> None:
        self._clips, self._broken = clips, broken

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> Clip:
        if index in self._broken:
            raise RuntimeError(f"record {index} does not match its checksum")
        return self._clips[index]

    def id(self, index: int) -> str:
        return self._clips[index].id

    def text(self, index: int) -> tuple[tuple[str, ...], str]:
        return self._clips[index].captions, self._clips[index].subtitle

    def captions(self) -> list[str]:
        return [caption for clip in self._clips for caption in clip.captions]


class FailingSource(ListSource):
    """A source whose storage reports something the user can mend."""

    def text(self, index: int) -> tuple[tuple[str, ...], str]:
        raise UserError("the disk is gone")


def small_clips(count: int) -> list[Clip]:
    """Distinct clips of one second: 15 numbered frames and a tone."""
    video = counting_movie(15)
    return [
        Clip(
            f"clip{i}",
            video,
            sound_file(tone(1.0, hertz=200 + 40 * i)),
            (f"tone number {i}", f"a tone of {200 + 40 * i} hertz"),
        )
        for i in range(count)
    ]
