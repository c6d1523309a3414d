"""Small media files of many formats, and thousands of deterministic ways to spoil them.

Run as a program it decodes spoilt files under a limit of memory and reports on each, so that a
crash of the decoder ends that process and not the tests:

    python tests/data/mutating.py SEED COUNT [absurd]
"""

import faulthandler
import io
import itertools
import json
import random
import resource
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from making_media import numbered, sound_file, tone

from weavejax.data.clip import Clip, DecodeError
from weavejax.data.example import ExampleSpec, decode_clip

FORMS: dict[str, tuple[str, str, str]] = {
    # name: container, video codec, audio codec
    "mp4": ("mp4", "libx264", "aac"),
    "webm": ("webm", "libvpx-vp9", "libopus"),
    "avi": ("avi", "mjpeg", "libmp3lame"),
    "mkv": ("matroska", "ffv1", "pcm_s16le"),
    "mov": ("mov", "mpeg4", "pcm_s16le"),
    "ts": ("mpegts", "mpeg2video", "mp2"),
    "flv": ("flv", "flv", "aac"),
    "hevc": ("mp4", "libx265", ""),
    "gif": ("gif", "gif", ""),
    "y4m": ("yuv4mpegpipe", "rawvideo", ""),
    "mp3": ("mp3", "", "libmp3lame"),
    "ogg": ("ogg", "", "libopus"),
    "m4a": ("mp4", "", "alac"),
}
PIXELS = {"mjpeg": "yuvj420p", "gif": "rgb8"}
SOUNDS = ("flac", "m4a", "mp3", "ogg", "wav")
SPEC = ExampleSpec(size=16, candidates=4, audio_frames=30)
MEMORY = 3 * 2**30  # bytes of address space that decoding may take
ABSURD = (0, 1, 2, 255, 0x7FFF, 0xFFFF, 0x10000, 0xFFFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def encoded(
    form: str, video: str, audio: str, frames: int = 12, size: tuple[int, int] = (48, 64)
) -> bytes:
    """A clip of `frames` pictures at 15 a second and of as much sound at 48 kHz."""
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        streams: list[tuple[Any, list[Any]]] = []
        if video:
            pixels = PIXELS.get(video, "yuv420p")
            stream: Any = container.add_stream(video, rate=15)
            stream.height, stream.width = size
            stream.pix_fmt = pixels
            stream.gop_size = 5
            stream.options = {
                "libx265": {"x265-params": "log-level=none:pools=none:frame-threads=1"},
                "libx264": {"preset": "ultrafast"},
                "libvpx-vp9": {"cpu-used": "8", "deadline": "realtime"},
            }.get(video, {})
            pictures = [
                av.VideoFrame.from_ndarray(
                    np.ascontiguousarray(numbered(i, size[0])[:, : size[1]]), "rgb24"
                ).reformat(format=pixels)
                for i in range(frames)
            ]
            for number, picture in enumerate(pictures):
                picture.pts, picture.time_base = number, Fraction(1, 15)
            streams.append((stream, pictures))
        if audio:
            stream = container.add_stream(audio, rate=48000, layout="stereo")
            wave = tone(frames / 15, 48000)
            planar = np.stack([wave, -0.5 * wave]).astype(np.float32)
            block = av.AudioFrame.from_ndarray(planar, "fltp", "stereo")
            block.sample_rate, block.pts, block.time_base = 48000, 0, Fraction(1, 48000)
            streams.append((stream, [block]))
        for stream, blocks in streams:
            for each in blocks:
                container.mux(stream.encode(each))
            container.mux(stream.encode())
    return file.getvalue()


def png(width: int = 64, height: int = 48, rows: bytes | None = None) -> bytes:
    """A grey PNG; its header may promise more than its rows hold."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    packed = zlib.compress(bytes(height * (width + 1)) if rows is None else rows, 9)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def specimens() -> dict[str, bytes]:
    """One small sound file or clip per format."""
    wave = np.stack([tone(0.4), -tone(0.4)], axis=1)
    lossless = {"flac": sound_file(wave), "wav": sound_file(wave, form="WAV")}
    return {name: encoded(*spec) for name, spec in FORMS.items()} | lossless | {"png": png()}


Mutation = Callable[[bytes, random.Random], bytes]


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def flip_bits(data: bytes, rng: random.Random) -> bytes:
    spoilt = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def flip_header(data: bytes, rng: random.Random) -> bytes:
    """Bits of the first kilobyte, where the counts and sizes stand."""
    spoilt = bytearray(data)
    for _ in range(rng.choice((1, 2, 4))):
        spoilt[rng.randrange(min(len(spoilt), 1024))] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def overwrite(data: bytes, rng: random.Random) -> bytes:
    start, length = rng.randrange(len(data)), rng.choice((1, 4, 16, 256, 2048))
    filling = rng.choice((b"\0", b"\xff", b"noise"))
    patch = rng.randbytes(length) if filling == b"noise" else filling * length
    return data[:start] + patch + data[start + length :]


def insert(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + rng.randbytes(rng.choice((1, 3, 100, 5000))) + data[at:]


def remove(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.choice((1, 3, 100, 1000)) :]


def repeat(data: bytes, rng: random.Random) -> bytes:
    """A stretch over and over again: nested boxes, duplicated headers."""
    at, length = rng.randrange(len(data)), rng.choice((8, 64, 512))
    return data[:at] + data[at : at + length] * rng.choice((2, 20, 200)) + data[at + length :]


def absurd_number(data: bytes, rng: random.Random) -> bytes:
    """A four-byte number of either order becomes an absurd one, near the beginning or the end."""
    near = min(len(data) - 4, 2048)
    at = rng.choice((rng.randrange(near), len(data) - 4 - rng.randrange(near)))
    order = rng.choice((">I", "<I", ">H", "<H"))
    number = struct.pack(order, rng.choice(ABSURD) & (0xFFFFFFFF if "I" in order else 0xFFFF))
    return data[:at] + number + data[at + len(number) :]


def swap(data: bytes, rng: random.Random) -> bytes:
    """Two stretches change places."""
    a, b = sorted(rng.randrange(len(data)) for _ in range(2))
    length = min(rng.choice((4, 64, 512)), b - a)
    return (
        data[:a]
        + data[b : b + length]
        + data[a + length : b]
        + data[a : a + length]
        + data[b + length :]
    )


MUTATIONS: dict[str, Mutation] = {
    each.__name__: each
    for each in (
        truncate,
        flip_bits,
        flip_header,
        overwrite,
        insert,
        remove,
        repeat,
        absurd_number,
        swap,
    )
}

TAGS = (b"avc1", b"mp4a", b"hvc1", b"mp4v", b"alac", b"sowt", b"MJPG", b"V_VP9", b"A_OPUS")
OTHER_TAGS = (b"hvc1", b"avc1", b"mp4a", b"png ", b"tscc", b"vp09", b"ap4h", b"jpeg", b"\0\0\0\0")


def wrong_tag(data: bytes, rng: random.Random) -> bytes:
    """The codec's four letters name another codec."""
    present = [tag for tag in TAGS if tag in data]
    if not present:
        return flip_header(data, rng)
    tag = rng.choice(present)
    return data.replace(tag, rng.choice(OTHER_TAGS).ljust(len(tag), b"X")[: len(tag)])


BOXES = b"tkhd mvhd mdhd stsz stts stsc stco ctts stsd elst avcC hvcC esds stss hdlr dref".split()


def absurd_box(data: bytes, rng: random.Random) -> bytes:
    """A number inside one of the tables of an mp4, or the box's own size, becomes absurd."""
    places = [at for name in BOXES if (at := data.find(name)) >= 0]
    if not places:
        return absurd_number(data, rng)
    at = rng.choice(places) + rng.choice((-4, 4, 8, 12, 16, 20, 24, 28, 80, 84, 88))
    return data[:at] + struct.pack(">I", rng.choice(ABSURD)) + data[at + 4 :]


MUTATIONS |= {"wrong_tag": wrong_tag, "absurd_box": absurd_box}


def mutants(sources: dict[str, bytes], count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """`count` spoilt files: every format in turn, every mutation in turn, each with a name."""
    names, kinds = list(sources), list(MUTATIONS)
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        name = names[number % len(names)]
        kind = kinds[number // len(names) % len(kinds)]
        spoilt = MUTATIONS[kind](sources[name], rng)
        if rng.random() < 0.2:
            spoilt = MUTATIONS[rng.choice(kinds)](spoilt, rng) if len(spoilt) > 8 else spoilt
        yield f"{number} {name} {kind}", spoilt


def clip_of(name: str, media: bytes) -> Clip:
    """The file in the field of a record where one of its format would stand."""
    return Clip(name, audio=media) if name in SOUNDS else Clip(name, video=media)


def report(samples: Iterator[tuple[str, str, bytes]]) -> Iterator[dict[str, Any]]:
    """Decodes (name, format, file) in turn; a line for each, with seconds and peak megabytes."""
    for name, form, media in samples:
        start = time.thread_time()
        try:
            decode_clip(clip_of(form, media), SPEC)
            outcome = "decoded"
        except DecodeError as error:
            outcome = f"rejected: {error}"
        except Exception as error:  # that this does not happen is what is to be shown
            outcome = f"raised {type(error).__name__}: {error}"
        seconds = time.thread_time() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        yield {"name": name, "outcome": outcome, "seconds": seconds, "megabytes": peak}


def main(seed: int, count: int, absurd: bool) -> None:
    """Prints a line of JSON for each spoilt file."""
    faulthandler.enable()
    sources = specimens()
    samples: list[tuple[str, str, bytes]] = []
    if absurd:
        import bombs  # it makes its files out of this module's

        everything = bombs.absurd_headers() | bombs.bombs()
        samples = [(name, name.split()[0], media) for name, media in everything.items()]
    spoilt = ((name, name.split()[1], media) for name, media in mutants(sources, count, seed))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for row in report(itertools.chain(samples, spoilt)):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] == ["absurd"])
