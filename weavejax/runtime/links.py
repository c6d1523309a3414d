"""How fast the devices of a job talk to each other, and whether each hears whom it should."""

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import Array, lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "link"
Function = Callable[[Array], Array]


@dataclass(frozen=True)
class Shift:
    """What passing a number `distance` places along the ring gave.

    Attributes:
      distance: end point i sends to end point i + distance.
      seconds: of one hop, as each process saw it in the fastest of several calls, by process: what
        else runs on a machine makes calls slower, a bad link makes all of them so.
      wrong: (sender, receiver) of every number that came from elsewhere.
    """

    distance: int
    seconds: tuple[float, ...]
    wrong: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Collective:
    """One collective over all devices, timed.

    Attributes:
      name: "all-reduce" or "all-gather".
      nbytes: of the reduced array on each device; of the gathered result.
      seconds: median of the slowest process.
      algorithm: nbytes / seconds.
      bus: what each link carries: algorithm × 2(n − 1)/n or × (n − 1)/n, so that it can be held
        against the hardware's figure whatever the number of devices (as nccl-tests does).
    """

    name: str
    nbytes: int
    seconds: float
    algorithm: float
    bus: float


def end_points() -> list[jax.Device]:
    """One device of each process; all devices of a process on its own."""
    if jax.process_count() == 1:
        return jax.devices()
    first: dict[int, jax.Device] = {}
    for device in jax.devices():
        first.setdefault(device.process_index, device)
    return [first[process] for process in sorted(first)]


def ring_shifts(devices: Sequence[jax.Device], *, rounds: int = 4, repeats: int = 5) -> list[Shift]:
    """Passes numbers between all pairs: every distance 1 … n − 1 along the ring.

    All processes call it together.

    Args:
      devices: end points, at least one in each process.
      rounds: times around the ring in one timed call: hops amortise the cost of starting it.
      repeats: timed calls; the fastest counts.
    """
    count = len(devices)
    mesh = Mesh(np.asarray(devices), (AXIS,))
    numbers = _spread(mesh, np.arange(count, dtype=np.int32))
    hops = rounds * count + 1  # a multiple of the ring and one: the same place as a single hop
    out = []
    for distance in range(1, count):
        pairs = tuple((i, (i + distance) % count) for i in range(count))
        function = _mapped(mesh, functools.partial(_hop, pairs=pairs, hops=hops))
        received = _local(function(numbers))
        wrong = [
            ((place - distance) % count, place)
            for place, value in received.items()
            if value != (place - distance) % count
        ]
        seconds = min(_timed(function, numbers, repeats)) / hops
        out.append(Shift(distance, gather(seconds), tuple(wrong)))
    return out


def collectives(
    devices: Sequence[jax.Device], sizes: Sequence[int], *, repeats: int = 5
) -> list[Collective]:
    """Times all-reduce and all-gather over `devices`; all processes call it together.

    Args:
      devices: at least two, at least one in each process.
      sizes: bytes, as `Collective.nbytes`; rounded up to a multiple of 4 × devices.
      repeats: timed calls after a warm-up; the median counts.
    """
    count = len(devices)
    mesh = Mesh(np.asarray(devices), (AXIS,))
    kinds: dict[str, tuple[Function, int, float]] = {
        # local function, elements of its input out of those counted, links' share
        "all-reduce": (lambda x: lax.psum(x, AXIS), 1, 2 * (count - 1) / count),
        "all-gather": (
            lambda x: lax.all_gather(x, AXIS, tiled=True),
            count,
            (count - 1) / count,
        ),
    }
    out = []
    for size in sizes:
        elements = -(-size // (4 * count)) * count
        for name, (local, divisor, share) in kinds.items():
            function = _mapped(mesh, local)
            array = _spread(mesh, np.ones(count * elements // divisor, np.float32))
            seconds = max(gather(statistics.median(_timed(function, array, repeats))))
            rate = 4 * elements / seconds
            out.append(Collective(name, 4 * elements, seconds, rate, rate * share))
    return out


def gather(value: float) -> tuple[float, ...]:
    """The number of each process, on all of them."""
    if jax.process_count() == 1:
        return (value,)
    found = multihost_utils.process_allgather(np.asarray(value, np.float32))
    return tuple(float(each) for each in np.ravel(found))


def gather_text(text: str) -> list[str]:
    """The text of each process, on all of them."""
    if jax.process_count() == 1:
        return [text]
    data = np.frombuffer(text.encode(), np.uint8)
    longest = int(max(gather(len(data))))
    rows = multihost_utils.process_allgather(np.pad(data, (0, longest - len(data))))
    return [bytes(row).rstrip(b"\0").decode() for row in np.reshape(rows, (-1, longest))]


def _hop(x: Array, pairs: Sequence[tuple[int, int]], hops: int) -> Array:
    return lax.fori_loop(0, hops, lambda _, y: lax.ppermute(y, AXIS, pairs), x)


def _mapped(mesh: Mesh, local: Function) -> Function:
    spec = PartitionSpec(AXIS)
    # Unchecked: a sum is the same on all devices, and each keeps its own copy all the same.
    split = jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    return jax.jit(split)


def _spread(mesh: Mesh, values: np.ndarray) -> Array:
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    return jax.make_array_from_callback(values.shape, sharding, lambda part: values[part])


def _local(array: Array) -> dict[int, int]:
    """Place → value, of the places in this process."""
    return {
        int(s.index[0].start or 0): int(np.asarray(s.data)[0]) for s in array.addressable_shards
    }


def _timed(function: Function, array: Any, repeats: int) -> list[float]:
    """Seconds of every call after a warm-up."""
    jax.block_until_ready(function(array))  # compiles, and opens connections
    jax.block_until_ready(function(array))
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(function(array))
        seconds.append(time.perf_counter() - began)
    return seconds
