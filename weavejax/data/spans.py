"""Cutting a clip out of a longer film or sound: decoded and encoded again, exact to the frame.

Copying packets would be cheaper but starts at the key frame before, with picture and sound apart by
as much as two seconds.
"""

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile

from weavejax.data.clip import DecodeError
from weavejax.data.decode import Media, VideoInfo, decode_audio, probe

USUAL_FPS, MOST_FPS = 25.0, 60.0
GOP = 12  # a key frame every half second or so: reading a few frames of a clip stays cheap
# Without x264's macroblock tree: with it the same pictures give other bytes now and then.
QUALITY = {"preset": "veryfast", "crf": "20", "x264-params": "mbtree=0:rc-lookahead=0"}


def cut_video(file: Path, span: tuple[float, float], side: int = 0) -> tuple[bytes, bytes]:
    """The span of a film.

    Args:
      file: with a video stream, or with sound alone.
      span: start and end in seconds; an end beyond that of the file is brought forward.
      side: the shorter side of the pictures is brought down to this many pixels; 0 leaves it.

    Returns:
      The pictures as mp4 (H.264, constant frame rate, even sides) and the sound as FLAC (mono, at
      its own rate); b"" for what the file does not have.

    Raises:
      DecodeError: broken, or over before the span starts.
    """
    with Media(file) as media:
        info = media.info()
        length = (info.video.duration if info.video else None) or info.duration
        start, end = span[0], min(span[1], length or span[1])
        if end <= start:
            raise DecodeError(
                f"it is over at {length:.2f} s, before the clip starts at {start:g} s"
            )
        video = _encode(media, info.video, start, end, side) if info.video else b""
        audio = b""
        if info.audio:
            audio = _flac(media.audio(info.audio.rate), info.audio.rate, (start, end))
    return video, audio


def cut_audio(file: Path, span: tuple[float, float]) -> bytes:
    """The span of a sound file as FLAC (mono, at its own rate); raises as `cut_video`."""
    info = probe(file)
    if info.audio is None:
        raise DecodeError("no audio stream")
    return _flac(decode_audio(file, info.audio.rate), info.audio.rate, span)


def _encode(media: Media, info: VideoInfo, start: float, end: float, side: int) -> bytes:
    fps = min(info.fps or USUAL_FPS, MOST_FPS)
    count = max(1, round((end - start) * fps))
    shrunk = min(1.0, side / min(info.height, info.width)) if side else 1.0
    height, width = (max(2, round(n * shrunk / 2) * 2) for n in (info.height, info.width))
    # The middle of each frame's time: a start that rounding puts before a frame's own would give
    # the frame before.
    times = (start + (number + 0.5) / fps for number in range(count))
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=_rate(fps))
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.gop_size, stream.max_b_frames = GOP, 0
        stream.codec_context.thread_count = 1  # more would make the bytes depend on the machine
        stream.options = QUALITY
        for image in media.pictures(times, (height, width)):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return target.getvalue()


def _rate(fps: float) -> Fraction:
    return Fraction(fps).limit_denominator(1001)  # 30000/1001 stays what it is


def _flac(wave: np.ndarray, rate: int, span: tuple[float, float]) -> bytes:
    first, last = (round(seconds * rate) for seconds in span)
    part = wave[first:last]
    if not len(part):
        raise DecodeError(f"the sound is over before the clip starts at {span[0]:g} s")
    target = io.BytesIO()
    soundfile.write(target, part, rate, format="FLAC", subtype="PCM_16")
    return target.getvalue()
