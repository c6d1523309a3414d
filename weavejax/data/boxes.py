"""The tables of an mp4 (ISO 14496-12) that FFmpeg unpacks before anything is decoded.

A table may state in four bytes that it describes four thousand million samples of one size; FFmpeg
then makes an index of 24 bytes for each. So the statements are added up first.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO

from weavejax.data.clip import DecodeError

MAX_ENTRIES = 4 * 2**20  # samples of all tracks: 18 hours at 60 pictures a second; 100 MB of index
MAX_HEADER = 256 * 2**20  # bytes of all boxes besides the media
MEDIA = (b"mdat", b"free", b"skip", b"wide")


def check_tables(file: BinaryIO) -> None:
    """Refuses an mp4 whose tables state more than 4 million samples; leaves the file at its start.

    Raises:
      DecodeError: they do, or the boxes besides the media take more than 256 MiB.
    """
    file.seek(0)
    head = file.read(12)
    if head[4:8] in (b"ftyp", b"moov", b"styp", b"moof", b"pnot", *MEDIA):
        entries = size = 0
        for box in _headers(file):
            size += len(box)
            if size > MAX_HEADER:
                raise DecodeError(f"headers of more than {MAX_HEADER} bytes")
            entries += _entries(box)
            if entries > MAX_ENTRIES:
                raise DecodeError(f"its tables state more than {MAX_ENTRIES} samples")
    file.seek(0)


def _headers(file: BinaryIO) -> Iterator[bytes]:
    """The boxes at the top that are not media; where the nesting is broken, all that follows."""
    end = file.seek(0, 2)
    at = 0
    while at + 8 <= end:
        file.seek(at)
        head = file.read(16)
        size, name = int.from_bytes(head[:4], "big"), head[4:8]
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        if size < 8 or at + size > end:
            size = end - at
        if name not in MEDIA:
            file.seek(at)
            yield file.read(min(size, MAX_HEADER + 1))
        at += size


def _entries(box: bytes) -> int:
    """Index entries that the tables ask for, wherever in the box they stand."""
    total = sum(_count(box, at + 8) for at in _places(box, b"trun"))
    for track in box.split(b"trak")[1:]:
        if not _plain_sound(track):
            total += sum(_count(track, at + 12) for at in _places(track, b"stsz"))
            total += sum(_count(track, at + 12) for at in _places(track, b"stz2"))
    return total


def _plain_sound(track: bytes) -> bool:
    """Uncompressed sound: each sample a tick long. FFmpeg indexes it by chunks, not samples."""
    handler, times = track.find(b"hdlr"), track.find(b"stts")
    return (
        min(handler, times) >= 0
        and track[handler + 12 : handler + 16] == b"soun"
        and _count(track, times + 8) == 1
        and _count(track, times + 16) == 1
        and track.count(b"stts") == track.count(b"hdlr") == 1
    )


def _places(box: bytes, name: bytes) -> Iterator[int]:
    at = box.find(name)
    while at >= 0:
        yield at
        at = box.find(name, at + 4)


def _count(box: bytes, at: int) -> int:
    return struct.unpack(">I", box[at : at + 4])[0] if at + 4 <= len(box) else 0
