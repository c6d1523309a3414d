"""What is made goes to disk: a sound as WAV, and with the picture it was made for as a film.

The picture's packets are copied as they are, so that nothing of it is lost; the sound beside it is AAC.
The WAV holds the samples exactly, as 32-bit floats. A file appears when it is complete.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile

from weavejax.data.decode import Media
from weavejax.errors import UserError
from weavejax.ops.resample import resample

# Suffix → FFmpeg's name of the container.
FORMS = {".mp4": "mp4", ".m4a": "mp4", ".mov": "mov", ".mkv": "matroska"}
BLOCK = 2**14  # samples encoded between two looks at the picture
COMMON_RATE = 48_000  # Hz, where AAC does not know the sound's own


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name to write under; the file is at `path` once the block ends, or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_sound(path: Path, wave: np.ndarray, rate: int) -> None:
    """A WAV file of 32-bit floats.

    Args:
      path: of the file.
      wave: float32 [S] or [S, channels]; beyond ±1 nothing is cut off.
      rate: Hz.
    """
    with whole(path) as partial:
        soundfile.write(partial, np.float32(wave), rate, subtype="FLOAT", format="WAV")


def write_film(path: Path, wave: np.ndarray, rate: int, film: Path | None) -> None:
    """A film with this sound and no other, or the sound alone.

    The sound begins with the first displayed frame, as `decode` reads it.

    Args:
      path: of the file, of a suffix in `FORMS`; may be that of `film`.
      wave: float32 [S, 1] or [S, 2] in [-1, 1].
      rate: Hz.
      film: where the picture comes from; None for sound alone.

    Raises:
      UserError: the picture's codec cannot stand in that container.
    """
    if film is not None:
        check_film(path, film)
    form = FORMS[path.suffix.lower()]
    options = {} if form == "matroska" else {"movflags": "faststart"}
    with whole(path) as partial, av.open(str(partial), "w", format=form, options=options) as out:
        if film is None:
            _write(out, None, _Track(wave, rate))
            return
        with Media(film) as media:
            _write(out, media, _Track(wave, rate))


def check_film(path: Path, film: Path) -> None:
    """Raises UserError unless the picture of `film` can be copied into a file of that name."""
    suffix = path.suffix.lower()
    if suffix not in FORMS:
        raise UserError(f"{path}: films are written as {', '.join(FORMS)}")
    with Media(film) as media, io.BytesIO() as file:
        stream, _ = media.packets()
        try:
            with av.open(file, "w", format=FORMS[suffix]) as out:
                out.add_stream_from_template(stream)
                out.start_encoding()
        except (av.FFmpegError, ValueError) as error:
            raise UserError(
                f"{film}: its picture ({stream.codec_context.name}) cannot stand in {suffix}; "
                "give --out a name that ends in .mkv"
            ) from error


class _Track:
    """The sound, encoded bit by bit as the picture goes on."""

    def __init__(self, wave: np.ndarray, rate: int) -> None:
        known = av.Codec("aac", "w").audio_rates or ()
        if rate not in known:
            wave, rate = resample(wave, rate, COMMON_RATE), COMMON_RATE
        self.planes = np.ascontiguousarray(np.float32(wave).T)
        self.rate, self.sent = rate, 0
        self.layout = "mono" if len(self.planes) == 1 else "stereo"
        self.stream: Any = None

    def join(self, out: Any) -> None:
        """Becomes a stream of the file."""
        self.stream = out.add_stream("aac", rate=self.rate, layout=self.layout)
        # AAC's own limit is 6 bits a sample of each channel.
        self.stream.bit_rate = len(self.planes) * min(128_000, 4 * self.rate)

    def until(self, seconds: float) -> Iterator[Any]:
        """Packets of what was not yet encoded, up to a time or a little beyond."""
        total = self.planes.shape[1]
        while self.sent < total and self.sent <= seconds * self.rate:
            part = np.ascontiguousarray(self.planes[:, self.sent : self.sent + BLOCK])
            frame = av.AudioFrame.from_ndarray(part, "fltp", self.layout)
            frame.sample_rate, frame.pts = self.rate, self.sent
            frame.time_base = Fraction(1, self.rate)
            self.sent += part.shape[1]
            yield from self.stream.encode(frame)
            if self.sent == total:
                yield from self.stream.encode()


def _write(out: Any, media: Media | None, track: _Track) -> None:
    if media is not None:
        source, packets = media.packets()
        picture = out.add_stream_from_template(source)
        track.join(out)
        start = source.start_time or 0
        for packet in _timed(list(packets)):
            packet.pts, packet.dts = packet.pts - start, packet.dts - start
            # Side by side in the file, so that a player need not jump to and fro.
            for sound in track.until(float(packet.dts * packet.time_base)):
                out.mux(sound)
            packet.stream = picture
            out.mux(packet)
    else:
        track.join(out)
    for sound in track.until(float("inf")):
        out.mux(sound)


def _timed(packets: list[Any]) -> list[Any]:
    """The packets, each with both its time stamps: containers may leave one of them out."""
    for packet in packets:
        if packet.pts is None:  # AVI: nothing is reordered
            packet.pts = packet.dts
    if any(packet.dts is None for packet in packets):
        # Matroska: in decoding order no time may fall, nor lie after that of display.
        ordered = sorted(packet.pts for packet in packets)
        late = max(time - packet.pts for time, packet in zip(ordered, packets, strict=True))
        for time, packet in zip(ordered, packets, strict=True):
            packet.dts = time - late
    return packets
