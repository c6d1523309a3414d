"""Walking a video stream by time: the frame on display, rotated, at the size asked for."""

from fractions import Fraction
from typing import Any

import numpy as np
from av.video.reformatter import VideoReformatter

from weavejax.data.clip import DecodeError
from weavejax.data.opening import Allowance, check_size, prepare
from weavejax.data.resize import FILTERS, centre_window

SEEK_COST = 12  # a seek costs about as much as decoding this many frames
BLIND_SEEK_SECONDS = 10.0  # without an index of key frames, seek only over gaps as long as this
TRUNCATED_SECONDS = 0.5  # a stream that ends this much before its stated end is broken


class FrameCursor:
    """Walks a video stream in display order; seeks where that is cheaper, exactly.

    Args:
      container: opened by PyAV.
      stream: the video stream.
      allowance: what may be decoded; default that of one file.
    """

    def __init__(self, container: Any, stream: Any, allowance: Allowance | None = None) -> None:
        prepare(stream)
        self._container, self._stream = container, stream
        self._allowance = allowance or Allowance()
        self._step = _frame_step(stream)
        self._frames = container.decode(stream)
        self._may_seek = True
        self._last_pts: int | None = None
        self._shown: Any = None
        self._next: Any = self._read()
        if self._next is None:
            raise DecodeError("the video stream holds no frame")
        self._first = stream.start_time if stream.start_time is not None else self._next.pts

    def at(self, seconds: float) -> Any:
        """The frame on display; the first before the beginning, the last after the end."""
        # The tolerance (1 µs) takes in times that were computed as n / fps in floating point.
        target = self._first + int((seconds + 1e-6) / self._stream.time_base)
        if self._seek_pays(target):
            self._seek(target)
        while self._next is not None and (self._shown is None or self._next.pts <= target):
            self._shown, self._next = self._next, self._read()
        if self._next is None:
            self._check_end(target)
        return self._shown

    def _read(self) -> Any:
        frame = next(self._frames, None)
        if frame is None:
            return None
        self._allowance.picture(frame.width, frame.height)
        if frame.pts is None:  # streams without time stamps: constant rate
            guess = 0 if self._last_pts is None else self._last_pts + self._step
            frame.pts = frame.dts if frame.dts is not None else guess
        self._last_pts = frame.pts
        return frame

    def _seek_pays(self, target: int) -> bool:
        if not self._may_seek or self._next is None:
            return False
        ahead = (target - self._next.pts) / self._step
        if ahead <= SEEK_COST:
            return False
        index = self._stream.index_entries
        found = index.search_timestamp(target, backward=True) if len(index) else -1
        if found < 0:
            return ahead * self._step * self._stream.time_base > BLIND_SEEK_SECONDS
        return (index[found].timestamp - self._next.pts) / self._step > SEEK_COST

    def _seek(self, target: int) -> None:
        second = int(1 / self._stream.time_base)
        for pts in (target, target - second):  # indexes hold decoding times: one may be too late
            self._container.seek(max(pts, self._first), stream=self._stream, backward=True)
            self._frames = self._container.decode(self._stream)
            self._shown, self._next = None, self._read()
            if self._next is not None and self._next.pts <= target:
                return
        self._may_seek = False
        self._container.seek(self._first, stream=self._stream, backward=True)
        self._frames = self._container.decode(self._stream)
        self._next = self._read()

    def _check_end(self, target: int) -> None:
        if self._stream.duration is None:
            return
        end = self._shown.pts + max(self._step, self._shown.duration or 0)
        wanted = min(target, self._first + self._stream.duration)
        missing = (wanted - end) * self._stream.time_base
        if missing > TRUNCATED_SECONDS:
            have = float((end - self._first) * self._stream.time_base)
            raise DecodeError(f"the video breaks off after {have:.2f} s")


def _frame_step(stream: Any) -> int:
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    return max(1, round(1 / (rate * stream.time_base)))


def usual_rate(rate: Fraction, count: int, tolerance: Fraction) -> Fraction:
    """The frame rate that is meant, where time stamps are too coarse to say it exactly.

    Args:
      rate: as the file has it, frames a second.
      count: frames.
      tolerance: seconds by which rounded time stamps may change the length of all of them.

    Returns:
      the nearest of whole and half frames a second and of those over 1.001; the rate itself where none
      is as near as rounding can explain.
    """
    usual = {
        Fraction(round(rate * 2), 2),
        Fraction(round(rate * Fraction(1001, 1000)) * 1000, 1001),
    }
    # 24 and 24/1.001 are never taken for each other, however short the clip.
    near = [u for u in usual if u and abs(u / rate - 1) < Fraction(4, 10_000)]
    near = [u for u in near if abs(count / u - count / rate) <= tolerance]
    return min(near, key=lambda u: abs(u - rate), default=rate)


def clockwise(frame: Any) -> int:
    """Quarter turns the display matrix asks for, in degrees clockwise: 0, 90, 180 or 270."""
    return round(-frame.rotation / 90) % 4 * 90


def displayed_shape(frame: Any, stream: Any) -> tuple[float, float]:
    """Height and width as displayed: pixel aspect applied to the stored width, then rotation.

    Raises:
      DecodeError: an aspect that makes the picture vanish, or larger than `check_size` allows.
    """
    aspect = stream.sample_aspect_ratio or Fraction(1)
    height, width = float(frame.height), float(frame.width * aspect)
    check_size(width, height)
    return (width, height) if clockwise(frame) in (90, 270) else (height, width)


def picture(
    frame: Any,
    stream: Any,
    reformatter: VideoReformatter,
    size: tuple[int, int] | None,
    crop: str,
    resize: str,
) -> np.ndarray:
    """A frame as displayed, at the size asked for: uint8 [h, w, 3]; see `decode_frames`.

    The reformatter converts to RGB; sharing one among frames saves most of its cost.
    """
    image = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
    turns = clockwise(frame) // 90
    if turns:
        image = np.rot90(image, -turns)
    shape = displayed_shape(frame, stream)
    if size is None:
        size = (max(1, round(shape[0])), max(1, round(shape[1])))
    elif crop == "centre":
        scaled, window = centre_window(shape, size[0])
        return FILTERS[resize](image, scaled, (window[0], window[1], size[0], size[1]))
    return FILTERS[resize](image, size)
