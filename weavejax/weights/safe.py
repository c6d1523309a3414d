"""Reading and writing safetensors files, which hold numbers only, and refusing pickles.

A safetensors file is eight bytes (little-endian length of the header), a JSON header {name:
{"dtype", "shape", "data_offsets"}}, and the values (huggingface/safetensors, README, "Format"). The
header is checked in full before anything of the size it states is allocated; arrays are maps of
the file, read when they are used.
"""

import json
import math
import os
import stat
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from weavejax.errors import UserError
from weavejax.weights.pickles import refuse_pickle

__all__ = ["SafeFile", "Tensor", "open_safetensors", "refuse_pickle", "save_safetensors"]

DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(kind)
    for name, kind in {
        "BOOL": np.bool_,
        "U8": np.uint8,
        "I8": np.int8,
        "U16": "<u2",
        "I16": "<i2",
        "U32": "<u4",
        "I32": "<i4",
        "U64": "<u8",
        "I64": "<i8",
        "F16": "<f2",
        "F32": "<f4",
        "F64": "<f8",
        "C64": "<c8",
        "BF16": ml_dtypes.bfloat16,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
        "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
        "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
        "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    }.items()
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}

MAX_HEADER = 100_000_000  # bytes; the same bound as the safetensors library
MAX_TENSORS = 1_000_000
MAX_DIMENSIONS = 32
MAX_NAME = 1024
METADATA = "__metadata__"


@dataclass(frozen=True)
class Tensor:
    """What the header says of one array; `start` and `end` are bytes within the file."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    end: int


class SafeFile(Mapping[str, np.ndarray]):
    """The arrays of a safetensors file by name, read-only: views of one map of the file.

    Attributes:
      tensors: dtype, shape and place of each array; reading it touches no values.
      metadata: the texts stored beside the arrays.
    """

    def __init__(
        self, path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
    ) -> None:
        self.path, self.tensors, self.metadata = path, dict(tensors), dict(metadata)

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self.tensors[name]
        if tensor.start == tensor.end:  # nothing can be mapped of no bytes
            return np.zeros(tensor.shape, tensor.dtype)
        return self._bytes[tensor.start : tensor.end].view(tensor.dtype).reshape(tensor.shape)

    @cached_property
    def _bytes(self) -> np.ndarray:
        """All of the file, once: a map for each array would use up the process' open files."""
        try:
            content = np.memmap(self.path, np.uint8, "r")
            if len(content) == max(tensor.end for tensor in self.tensors.values()):
                return content
            raise ValueError(f"{len(content)} bytes")
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path} has changed or gone since it was opened") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def open_safetensors(path: str | Path) -> SafeFile:
    """Opens a safetensors file after checking all of its header.

    Raises:
      UserError: missing, a Python pickle, or not exactly what the format asks for: the line names
        the array.
    """
    path = Path(path)
    refuse_pickle(path)
    try:
        size = path.stat().st_size
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path} is not a file of weights")
        with path.open("rb") as file:
            head = file.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else -1
            if not 2 <= length <= min(MAX_HEADER, size - 8):
                raise UserError(f"{path} is not a safetensors file, or it is cut short")
            header = file.read(length)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    try:
        tensors, metadata = _read_header(header, 8 + length, size)
    except _FaultyHeader as error:
        raise UserError(f"{path} is not a sound safetensors file: {error}") from error
    return SafeFile(path, tensors, metadata)


def save_safetensors(
    path: str | Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes arrays as a safetensors file, whole or not at all; the same arrays, the same bytes.

    Raises:
      UserError: a dtype the format does not have, a name or text it does not allow, a full disk.
    """
    path = Path(path)
    header, ordered = _header_of(arrays, metadata or {})
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            for name in ordered:
                file.write(_plain_bytes(arrays[name]))
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def _header_of(
    arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> tuple[bytes, list[str]]:
    """The header, padded to eight bytes, and the order of the arrays: widest values first."""
    for name, array in arrays.items():
        if array.dtype.newbyteorder("<") not in NAMES:
            raise UserError(f"the array {name!r} is {array.dtype}: safetensors cannot hold that")
    ordered = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    header: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    at = 0
    for name in ordered:
        array = arrays[name]
        dtype = NAMES[array.dtype.newbyteorder("<")]
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    try:
        _read_header(text, 8 + len(text), 8 + len(text) + at)
    except _FaultyHeader as error:
        raise UserError(f"these arrays make no sound safetensors file: {error}") from error
    return text, ordered


def _plain_bytes(array: np.ndarray) -> memoryview:
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return little.reshape(-1).view(np.uint8).data


class _FaultyHeader(ValueError):
    """Says what is wrong with a header, in one line."""


def _read_header(text: bytes, start: int, size: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The arrays and the metadata that the header of a file of `size` bytes states."""
    header = _parse(text)
    metadata = _metadata(header.pop(METADATA, {}))
    if len(header) > MAX_TENSORS:
        raise _FaultyHeader(f"it states {len(header)} arrays, at most {MAX_TENSORS}")
    tensors = {name: _tensor(name, entry, start, size) for name, entry in header.items()}
    at = start
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if tensor.start != at:
            what = "overlaps another" if tensor.start < at else "leaves a gap before it"
            raise _FaultyHeader(f"the array {_shown(name)} {what}")
        at = tensor.end
    if at != size:
        raise _FaultyHeader(f"its arrays end at byte {at} and the file at {size}")
    return tensors, metadata


def _parse(text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            raise _FaultyHeader("a name stands twice in its header")
        return values

    try:
        header = json.loads(text.decode(), object_pairs_hook=unique)
    except _FaultyHeader:
        raise
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested without end
        raise _FaultyHeader("its header is not JSON") from error
    if not isinstance(header, dict):
        raise _FaultyHeader("its header is not a JSON object")
    return header


def _metadata(entry: Any) -> dict[str, str]:
    if not isinstance(entry, dict) or not all(isinstance(v, str) for v in entry.values()):
        raise _FaultyHeader("its metadata is not texts by name")
    return entry


def _tensor(name: str, entry: Any, start: int, size: int) -> Tensor:
    shown = f"the array {_shown(name)}"
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise _FaultyHeader(f"{shown} has an impossible name")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _FaultyHeader(f"{shown} needs dtype, shape and data_offsets, and nothing else")
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise _FaultyHeader(f"{shown} has the unknown dtype {_shown(entry['dtype'])}")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _whole_numbers(shape) or len(shape) > MAX_DIMENSIONS:
        raise _FaultyHeader(f"{shown} has no shape of whole numbers")
    if not _whole_numbers(offsets) or len(offsets) != 2:
        raise _FaultyHeader(f"{shown} has no two data_offsets")
    begin, end = start + offsets[0], start + offsets[1]
    if not begin <= end <= size:
        raise _FaultyHeader(f"{shown} lies outside the file")
    if math.prod(shape) * dtype.itemsize != end - begin:
        raise _FaultyHeader(f"{shown} has {end - begin} bytes, which its shape and dtype do not")
    return Tensor(dtype, tuple(shape), begin, end)


def _whole_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**63 for v in values)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "…"
