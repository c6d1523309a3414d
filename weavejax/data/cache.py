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

from weavejax.data.recipe import Recipe
from weavejax.errors import UserError

VERSION = 2  # raise when the meaning of what a recipe decodes changes
BLOCK = 2**20


class DecodedCache:
    """A memo of `Recipe.decode` for one source. Picklable: worker processes map it anew.

    `get` returns values as rounded as they are kept the first time too: a run is the same to the bit
    however full the cache was.

    Args:
      directory: parent of all caches; made when absent.
      fingerprint: of the source.
      spec: only what decoding depends on enters the key.
      rows: number of records.

    Raises:
      UserError: the disk cannot hold it; all space is taken at once, here.
    """

    def __init__(self, directory: str | Path, fingerprint: str, spec: Recipe, rows: int) -> None:
        about = {
            "source": fingerprint,
            "rows": rows,
            "spec": dict(spec.key),
            "version": VERSION,
            # Another decoder may give other pixels.
            "libraries": {"av": av.__version__, "soxr": soxr.__version__},
        }
        text = json.dumps(about, sort_keys=True)
        self.path = Path(directory) / hashlib.sha256(text.encode()).hexdigest()[:16]
        self._fields = dict(spec.stored)
        # How many rows of each field there are, and a checksum that says they were all written.
        header = np.dtype([("crc", "<u4"), *((name, "<u4") for name in self._fields)])
        self._shapes: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
            name: ((rows, *field.shape), field.dtype) for name, field in self._fields.items()
        }
        self._shapes["rows"] = ((rows,), header)
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

    def get(self, row: int, decode: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The decoded clip of record `row`, from the cache or else by `decode` (then stored)."""
        stored = self._read(row)
        if stored is None:
            self._write(row, decode())
            stored = self._view(row, self._counts(row))
        return stored

    def _counts(self, row: int) -> dict[str, int]:
        entry = self._map("rows")[row]
        return {name: int(entry[name]) for name in self._fields}

    def _view(self, row: int, counts: dict[str, int]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, field in self._fields.items():
            there = counts[name] > 0
            # Where a whole array is missing the checksum does not cover its bytes: do not show them.
            blank = not there and not field.ragged
            found[name] = (
                np.zeros(field.shape, field.dtype)
                if blank
                else self._map(name)[row, : counts[name]]
            )
            found[f"{name}_mask"] = there
        return found

    def _read(self, row: int) -> dict[str, Any] | None:
        stated, counts = int(self._map("rows")[row]["crc"]), self._counts(row)
        if not stated or any(counts[n] > field.shape[0] for n, field in self._fields.items()):
            return None
        decoded = self._view(row, counts)
        return decoded if self._checksum(row, counts, decoded) == stated else None

    def _write(self, row: int, decoded: dict[str, Any]) -> None:
        counts = {}
        for name in self._fields:
            counts[name] = len(decoded[name]) if decoded[f"{name}_mask"] else 0
            self._map(name)[row, : counts[name]] = decoded[name][: counts[name]]
        entry = self._map("rows")[row : row + 1]
        for name, count in counts.items():
            entry[name] = count
        entry["crc"] = self._checksum(row, counts, self._view(row, counts))

    def _checksum(self, row: int, counts: dict[str, int], decoded: dict[str, Any]) -> int:
        """CRC-32 over the row number, the counts and the values; never 0, which marks an empty row."""
        crc = zlib.crc32(np.array([row, *counts.values()], "<i8").tobytes())
        for name, count in counts.items():
            if count:
                crc = zlib.crc32(np.ascontiguousarray(decoded[name]).data, crc)
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
