"""The order of training records: a pure function of (seed, global index)."""

import hashlib
import struct

import grain
import numpy as np

ENDLESS = 2**48  # records: no run reads this many


def record_order(n: int, seed: int, epochs: int | None = None) -> grain.MapDataset:
    """Record indices in training order.

    Global index g is the position in this order; each epoch of n is a permutation of all records,
    and no two epochs share one by design. Any slice, host count or worker count sees the same
    order, because it is never drawn in sequence.

    Args:
      n: number of records.
      seed: of the shuffle.
      epochs: how many; default without end.
    """
    if epochs is None:
        # Not repeat(None): its length is sys.maxsize, which overflows once it is batched.
        epochs = ENDLESS // n
    return grain.MapDataset.range(n).seed(seed).shuffle().repeat(epochs)


def example_rng(seed: int, index: int) -> np.random.Generator:
    """The random generator of global index `index`: augmentation is a pure function of both."""
    return np.random.Generator(np.random.Philox(key=_digest(seed, index, -1)))


def replacement(seed: int, index: int, attempt: int, n: int) -> int:
    """The record that stands in for a broken one at global index `index`."""
    return _digest(seed, index, attempt) % n


def record_rng(record: int) -> np.random.Generator:
    """The random generator of a record: the same in every run, epoch and seed."""
    return np.random.Generator(np.random.Philox(key=_digest(record)))


def _digest(*numbers: int) -> int:
    packed = struct.pack(f"<{len(numbers)}q", *numbers)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=16).digest(), "little")
