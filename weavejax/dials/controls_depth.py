"""Depth in a controls file: a coarse grid, one byte a value, small enough to stand in the JSON.

A value d is stored as q = round(255 · ln(d/near) / ln(far/near)), so that the relative error is
the same near and far: at most (far/near)^(1/510) - 1 (1.05 % for 0.3 to 60 m). Depth outside
[near, far] is moved to the nearer end (sky lies at `far`). Bytes are differenced along time modulo
256 (a still picture becomes zeros), then zlib, then base64.
"""

import base64
import binascii
import zlib
from dataclasses import dataclass

import numpy as np

from weavejax.dials.controls_reader import ControlsError, Reader

MAX_VALUES = 64 * 2**20
MAX_TEXT = 16 * 2**20  # characters of the packed data


@dataclass(frozen=True)
class Depth:
    """Metres along the viewing ray, on a grid over the frame.

    Attributes:
      shape: (T, h, w); frame k is at k/fps seconds.
      fps: frames a second of the depth track.
      near: metres that byte 0 stands for.
      far: metres that byte 255 stands for.
      data: base64 text of the compressed bytes.
    """

    shape: tuple[int, int, int]
    fps: float
    near: float
    far: float
    data: str

    @staticmethod
    def encode(depth: np.ndarray, fps: float, near: float, far: float) -> "Depth":
        """Packs `depth` [T, h, w] in metres (infinite for sky); see the module for the error."""
        if depth.ndim != 3 or np.isnan(depth).any():
            raise ControlsError("depth: must be [T, h, w] without NaN")
        span = np.log(far / near)
        levels = np.log(np.clip(depth.astype(np.float64), near, far) / near) / span
        codes = np.rint(255.0 * levels).astype(np.uint8)
        steps = np.diff(codes, axis=0, prepend=np.zeros_like(codes[:1]))  # wraps modulo 256
        data = base64.b64encode(zlib.compress(steps.tobytes(), 6)).decode("ascii")
        frames, height, width = depth.shape
        return Depth((frames, height, width), float(fps), float(near), float(far), data)

    def decode(self) -> np.ndarray:
        """The depth in metres, float32 [T, h, w], within the stated error of what was encoded."""
        steps = np.frombuffer(self._bytes("depth"), np.uint8).reshape(self.shape)
        codes = np.cumsum(steps, axis=0, dtype=np.uint8)
        table = self.near * (self.far / self.near) ** (np.arange(256) / 255.0)
        return np.asarray(table.astype(np.float32)[codes])

    @staticmethod
    def read(reader: Reader) -> "Depth":
        """Reads and checks the JSON object, its data included."""
        reader.keys({"shape", "fps", "near", "far", "data"})
        sides = [side.integer(1, MAX_VALUES) for side in reader["shape"].items(3)]
        if len(sides) != 3 or sides[0] * sides[1] * sides[2] > MAX_VALUES:
            raise ControlsError(
                f"{reader['shape'].path}: must be [T, h, w] with at most {MAX_VALUES} values in all"
            )
        near, far = reader["near"].number(1e-3, 1e6), reader["far"].number(1e-3, 1e6)
        if far <= near:
            raise ControlsError(f"{reader['far'].path}: must be more than near ({near:g} m)")
        fps = reader["fps"].number(1e-3, 1e4)
        depth = Depth((sides[0], sides[1], sides[2]), fps, near, far, reader["data"].text(MAX_TEXT))
        depth._bytes(reader["data"].path)
        return depth

    def _bytes(self, path: str) -> bytes:
        expected = int(np.prod(self.shape, dtype=np.int64))
        try:
            packed = base64.b64decode(self.data, validate=True)
            unpacker = zlib.decompressobj()
            # Never more than one byte beyond what the shape says: no decompression bombs.
            values = unpacker.decompress(packed, expected + 1)
        except (binascii.Error, ValueError, zlib.error) as error:
            raise ControlsError(f"{path}: is not base64 of zlib data: {error}") from error
        if len(values) != expected or not unpacker.eof or unpacker.unused_data:
            raise ControlsError(f"{path}: does not hold the {expected} bytes that the shape says")
        return values
