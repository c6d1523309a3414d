"""Weights that every run of the parity tests makes alike, so that recordings need not hold them."""

import json
import math
import re
import zlib
from collections.abc import Mapping

import numpy as np

SCALE = re.compile(r"((norm\d?|\bbn)\.weight|gamma|running_var)$")  # around one
GAIN = re.compile(r"weight_g$")


def weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """A state dict with these keys: every array, biases and norms included, has random values."""
    return {key: array(key, tuple(shape)) for key, shape in shapes.items()}


def array(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Float32 values that depend on the key alone: integer hashes, the same everywhere.

    Matrices and kernels keep the size of what they are applied to.
    """
    mixed = np.arange(math.prod(shape), dtype=np.uint32) * np.uint32(2654435761)
    mixed ^= np.uint32(zlib.crc32(key.encode()))
    for shift, factor in ((16, 2246822507), (13, 3266489909)):
        mixed ^= mixed >> np.uint32(shift)
        mixed *= np.uint32(factor)
    mixed ^= mixed >> np.uint32(16)
    uniform = mixed.astype(np.float64) / 2**31 - 1
    if SCALE.search(key):
        values = 1 + 0.3 * uniform
    elif GAIN.search(key):
        # Kept below one, for what an activation's sine is taken of must stay small.
        values = 0.4 + 0.1 * uniform
    elif len(shape) < 2:
        values = 0.3 * uniform
    else:
        values = uniform * math.sqrt(3 / math.prod(shape[1:]))
    return values.reshape(shape).astype(np.float32)


def pack(shapes: Mapping[str, tuple[int, ...]]) -> np.ndarray:
    """Keys and shapes as an array that a recording can hold."""
    text = json.dumps({key: list(shape) for key, shape in shapes.items()})
    return np.frombuffer(zlib.compress(text.encode(), 9), np.uint8)


def unpack(packed: np.ndarray) -> dict[str, tuple[int, ...]]:
    """The inverse of `pack`."""
    found = json.loads(zlib.decompress(packed.tobytes()))
    return {key: tuple(shape) for key, shape in found.items()}
