"""Hand-made hostile media: small files that promise, or unpack to, far too much."""

import io
import struct
from fractions import Fraction
from typing import Any

import av
import numpy as np
import soundfile
from making_media import sound_file, tone
from mutating import encoded, png


def wav(rate: int = 16000, channels: int = 1, bits: int = 16, stated: int = 3200) -> bytes:
    """A WAV header of one's choice before 0.1 s of silence."""
    align = channels * bits // 8 & 0xFFFF
    form = struct.pack(
        "<HHIIHH", 1, channels & 0xFFFF, rate, rate * align & 0xFFFFFFFF, align, bits & 0xFFFF
    )
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form
    body += b"data" + struct.pack("<I", stated) + bytes(3200)
    return b"RIFF" + struct.pack("<I", len(body) & 0xFFFFFFFF) + body


def flac_header(data: bytes, rate: int, channels: int, samples: int) -> bytes:
    """The FLAC file with another rate, channel count and length in its STREAMINFO."""
    packed = rate << 44 | (channels - 1) << 41 | 15 << 36 | samples
    return data[:18] + packed.to_bytes(8, "big") + data[26:]


def silence(seconds: float, rate: int, channels: int) -> bytes:
    """FLAC of digital silence: about one byte for a thousand samples."""
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", rate, channels, "PCM_16", format="FLAC") as sound:
        block, left = np.zeros((rate, channels), np.int16), round(seconds * rate)
        while left > 0:
            sound.write(block[:left])
            left -= rate
    return file.getvalue()


def still_movie(side: int, frames: int, form: str = "matroska", codec: str = "libx264") -> bytes:
    """A black square film: a few hundred bytes a picture, however large the picture."""
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        stream: Any = container.add_stream(codec, rate=15)
        stream.height = stream.width = side
        stream.pix_fmt = "yuv420p"
        stream.gop_size = 10000
        stream.options = {"preset": "ultrafast"}
        black = av.VideoFrame.from_ndarray(np.zeros((side * 3 // 2, side), np.uint8), "yuv420p")
        for number in range(frames):
            black.pts, black.time_base = number, Fraction(1, 15)
            container.mux(stream.encode(black))
        container.mux(stream.encode())
    return file.getvalue()


def many_tracks(count: int) -> bytes:
    """An mp4 whose track is there `count` times."""
    data = encoded("mp4", "libx264", "", 3)
    moov = data.index(b"moov") - 4
    track = data.index(b"trak") - 4
    size = int.from_bytes(data[track : track + 4], "big")
    extra = data[track : track + size] * count
    length = int.from_bytes(data[moov : moov + 4], "big") + len(extra)
    head = data[:moov] + struct.pack(">I", length) + data[moov + 4 : track]
    return head + extra + data[track:]


def many_riff_streams(count: int) -> bytes:
    """An avi whose first stream header is there `count` times."""
    data = encoded("avi", "mjpeg", "", 3)
    start = data.index(b"LIST", data.index(b"avih"))
    size = int.from_bytes(data[start + 4 : start + 8], "little") + 8
    extra = data[start : start + size] * count
    header = data.index(b"LIST", 12)
    length = int.from_bytes(data[header + 4 : header + 8], "little") + len(extra)
    return (
        data[: header + 4]
        + struct.pack("<I", length)
        + data[header + 8 : start]
        + extra
        + data[start:]
    )


def in_box(data: bytes, name: bytes, offset: int, number: int) -> bytes:
    """The mp4 with a four-byte number at `offset` after the name of its first such box changed."""
    at = data.index(name) + 4 + offset
    return data[:at] + struct.pack(">I", number) + data[at + 4 :]


def far_apart(seconds: float) -> bytes:
    """Two blocks of sound in Matroska, hours apart: a tiny file of hours of silence."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("pcm_s16le", rate=48000, layout="mono")
        for start in (0.0, seconds):
            block = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.int16), "s16", "mono")
            block.sample_rate, block.pts = 48000, round(start * 48000)
            block.time_base = Fraction(1, 48000)
            container.mux(stream.encode(block))
        container.mux(stream.encode())
    return file.getvalue()


def gif(width: int, height: int, frames: int) -> bytes:
    """A GIF with a huge screen and many pictures of one pixel."""
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    control = b"!\xf9\x04\x04" + struct.pack("<H", 7) + b"\0\0"
    picture = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    return head + (control + picture) * frames + b";"


def y4m(header: str, frames: int = 3, size: int = 96) -> bytes:
    return b"YUV4MPEG2 " + header.encode() + b"\n" + (b"FRAME\n" + bytes(size)) * frames


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n",
    "hls key": '#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-KEY:METHOD=AES-128,URI="{target}"\n'
    "#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{target}'\nduration 2\n",
    "dash": '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT2S"><Period><AdaptationSet mimeType="video/mp4">'
    '<Representation id="1" bandwidth="1"><BaseURL>{target}</BaseURL></Representation>'
    "</AdaptationSet></Period></MPD>",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 9 RTP/AVP 0\n"
    "a=control:{target}\n",
    "asx": '<asx version="3.0"><entry><ref href="{target}"/></entry></asx>',
}


def absurd_headers() -> dict[str, bytes]:
    """Every field of the common headers that counts something, at values no honest file has."""
    film, tune = encoded("mp4", "libx264", "aac"), sound_file(tone(0.2))
    motion = encoded("avi", "mjpeg", "libmp3lame")
    sides = ((2**31 - 1, 1), (1, 2**31 - 1), (60000, 60000), (0, 0))
    files = {f"png {width}×{height}": png(width, height, b"") for width, height in sides}
    for rate in (0, 1, 10**6, 2**32 - 1):
        files[f"wav of {rate} Hz"] = wav(rate)
        files[f"flac of {rate} Hz"] = flac_header(tune, min(rate, 2**20 - 1), 1, 3200)
    for channels in (0, 3, 255, 65535):
        files[f"wav of {channels} channels"] = wav(channels=channels)
    for bits in (0, 1, 7, 64, 65535):
        files[f"wav of {bits} bits"] = wav(bits=bits)
    files["wav of 4 GB"] = wav(stated=2**32 - 1)
    files["flac of 2^36 samples"] = flac_header(tune, 16000, 1, 2**36 - 1)
    files["flac of 8 channels"] = flac_header(tune, 655350, 8, 2**36 - 1)
    for header in (
        "W99999 H99999 F25:1",
        "W2147483647 H2147483647 F25:1",
        "W-8 H-8 F25:1",
        "W16384 H4096 F25:1",
        "W8 H8 F0:0",
        "W8 H8 F1:0",
        "W8 H8 F2147483647:1",
        "W8 H8 F1:2147483647",
        "W8 H8 F25:1 A2147483647:1",
        "W8 H8 F25:1 A1:2147483647",
        "W8 H8",
        "W8 H8 F25:1 C" + "4" * 4000,
    ):
        files[f"y4m {header[:40]}"] = y4m(header)
    for name, offsets in (
        (b"mvhd", (12, 16)),
        (b"tkhd", (20, 76, 80)),
        (b"mdhd", (12, 16)),
        (b"stsz", (4, 8)),
        (b"stts", (4, 8, 12)),
        (b"stsc", (4, 8, 12)),
        (b"stco", (4, 8)),
        (b"stss", (4, 8)),
        (b"elst", (4, 8, 12)),
        (b"avc1", (8, 24)),
        (b"mp4a", (16, 24)),
    ):
        for offset in offsets:
            for number in (0, 2**24, 2**31 - 1, 2**32 - 1):
                files[f"mp4 {name.decode()}+{offset} {number}"] = in_box(film, name, offset, number)
    for name, places in (
        (b"avih", (4, 20, 24, 36, 40)),
        (b"strh", (24, 28, 36, 40, 48)),
        (b"strf", (8, 12, 20)),
    ):
        for offset in places:
            for number in (0, 0x1000000, 0xFFFFFF7F, 0xFFFFFFFF):
                files[f"avi {name.decode()}+{offset} {number}"] = in_box(
                    motion, name, offset, number
                )
    return files


def bombs() -> dict[str, bytes]:
    """Small files that unpack to a great deal."""
    film = encoded("mp4", "libx264", "")
    nested = (struct.pack(">I", 8 * (20000 - n)) + b"moov" for n in range(20000))
    return {
        "constant samples": in_box(in_box(film, b"stsz", 4, 1), b"stsz", 8, 2**26),
        "constant empty samples": in_box(in_box(film, b"stsz", 4, 0), b"stsz", 8, 2**22 - 100),
        "png of 225 Mpixel": png(15000, 15000),
        "png of 57 Mpixel": png(7500, 7500),
        "gif of 268 Mpixel": gif(16383, 16383, 50),
        "gif of 36 Mpixel, ten times": gif(6000, 6000, 10),
        "silence between": far_apart(2000.0),
        "silence far between": far_apart(360000.0),
        "flac of silence": silence(20, 96000, 8),
        "tracks": many_tracks(3000),
        "riff streams": many_riff_streams(1000),
        "large film": still_movie(2048, 30),
        "nested boxes": b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + b"".join(nested),
        "id3 of 256 MB": b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + bytes(1000),
    }
