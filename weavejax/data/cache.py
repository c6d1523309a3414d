"""Decoded clips kept on disk, so that a clip is decoded once and not once per epoch.

One memory-mapped file per field, one row per record, shared by all processes. A row counts only if
the CRC-32 written after it matches, so a kill at any moment and a flipped bit both lead to decoding
again, never to wrong data.
"""

import errno
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import soxr

from weavejax.data.example import ExampleSpec
from weavejax.errors import UserError

VERSION = 1  # raise when the meaning of `decode_clip`'s result changes
DECODING = (
    "size",
    "crop",
    "resize",
    "candidates",
    "front_end",
    "rate",
    "mels",
    "audio_frames",
    "chunk_candidates",
)
NORMALISING = ("mean", "std")
BLOCK = 2**20
ROW = np.dtype([("crc", "<u4"), ("video", "?"), ("chunks", "<u2")], align=True)


class DecodedCache:
    """A memo of `decode_clip` for one source and one spec. Picklable: worker processes map it anew.

    Mel values are stored as float16, and `get` returns them so rounded the first time too: a run
    is the same to the bit however full the cache was.

    Args:
      directory: parent of all caches; made when absent.
      fingerprint: of the source.
      spec: only what decoding depends on enters the key.
      rows: number of records.

    Raises:
      UserError: the disk cannot hold it; all space is taken at once, here.
    """

    def __init__(
        self, directory: str | Path, fingerprint: str, spec: ExampleSpec, rows: int
    ) -> None:
        decoding = {name: getattr(spec, name) for name in DECODING + NORMALISING}
        about = {
            "source": fingerprint,
            "rows": rows,
            "spec": decoding,
            "version": VERSION,
            # Another decoder may give other pixels.
            "libraries": {"av": av.__version__, "soxr": soxr.__version__},
        }
        text = json.dumps(about, sort_keys=True)
        self.path = Path(directory) / hashlib.sha256(text.encode()).hexdigest()[:16]
        self._shapes: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
            "video": ((rows, spec.candidates, spec.size, spec.size, 3), np.dtype(np.uint8)),
            "audio": (
                (rows, spec.chunk_candidates, spec.audio_frames, spec.mels),
                np.dtype(np.float16),
            ),
            "rows": ((rows,), ROW),
        }
        self._maps: dict[str, np.memmap] = {}
        self._allocate(text)

    def _allocate(self, about: str) -> None:
        sizes = {
            k: int(np.prod(shape)) * dtype.itemsize for k, (shape, dtype) in self._shapes.items()
        }
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for name, size in sizes.items():
                _reserve(self.path / name, size)
            (self.path / "about.json").write_text(about)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise UserError(f"cannot write the cache {self.path}: {error.strerror}") from error
            free = shutil.disk_usage(self.path).free
            raise UserError(
                f"the cache {self.path} needs {sum(sizes.values()) / 1e9:.3g} GB and the disk has "
                f"{free / 1e9:.3g} GB free: name another cache directory, keep fewer candidates, "
                "or run without a cache"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}

    def _map(self, name: str) -> np.memmap:
        if name not in self._maps:
            shape, dtype = self._shapes[name]
            self._maps[name] = np.memmap(self.path / name, dtype, "r+", shape=shape)
        return self._maps[name]

    def _row_of(self, name: str) -> tuple[tuple[int, ...], np.dtype]:
        shape, dtype = self._shapes[name]
        return shape[1:], dtype

    def get(self, row: int, decode: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The decoded clip of record `row`, from the cache or else by `decode` (then stored)."""
        stored = self._read(row)
        if stored is None:
            self._write(row, decode())
            stored = self._view(row, *self._header(row))
        return stored

    def _header(self, row: int) -> tuple[bool, int]:
        entry = self._map("rows")[row]
        return bool(entry["video"]), int(entry["chunks"])

    def _view(self, row: int, has_video: bool, chunks: int) -> dict[str, Any]:
        # Where there is no video the checksum does not cover its bytes: do not hand them out.
        video = self._map("video")[row] if has_video else np.zeros(*self._row_of("video"))
        return {
            "video": video,
            "video_mask": has_video,
            "audio": self._map("audio")[row, :chunks],
            "audio_mask": chunks > 0,
        }

    def _read(self, row: int) -> dict[str, Any] | None:
        stated = int(self._map("rows")[row]["crc"])
        has_video, chunks = self._header(row)
        if not stated or chunks > self._shapes["audio"][0][1]:
            return None
        decoded = self._view(row, has_video, chunks)
        return decoded if _checksum(row, decoded) == stated else None

    def _write(self, row: int, decoded: dict[str, Any]) -> None:
        chunks = len(decoded["audio"])
        entry = self._map("rows")[row : row + 1]
        self._map("video")[row] = decoded["video"]
        self._map("audio")[row, :chunks] = decoded["audio"]
        entry["video"], entry["chunks"] = decoded["video_mask"], chunks
        entry["crc"] = _checksum(row, self._view(row, bool(decoded["video_mask"]), chunks))


def _checksum(row: int, decoded: dict[str, Any]) -> int:
    """CRC-32 over the row number, the masks and the values; never 0, which marks an empty row."""
    header = np.array([row, decoded["video_mask"], len(decoded["audio"])], "<i8").tobytes()
    crc = zlib.crc32(header)
    if decoded["video_mask"]:
        crc = zlib.crc32(np.ascontiguousarray(decoded["video"]).data, crc)
    crc = zlib.crc32(np.ascontiguousarray(decoded["audio"]).data, crc)
    return crc or 1


def _reserve(path: Path, size: int) -> None:
    """Makes the file with all its blocks, so that no later write can find the disk full.

    Writing to a mapped hole on a full disk kills the process (SIGBUS); this fails with ENOSPC.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        before = os.fstat(descriptor).st_size
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, size)
            else:  # macOS: writing the zeros takes the blocks as well
                os.lseek(descriptor, before, os.SEEK_SET)
                for start in range(before, size, BLOCK):
                    os.write(descriptor, bytes(min(BLOCK, size - start)))
        except OSError:
            os.ftruncate(descriptor, before)  # give back what was taken in vain
            raise
    finally:
        os.close(descriptor)
