"""Where a batch of pairs lies on a mesh, how clips reach every anchor, and the walk over blocks."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import PartitionSpec

from weavejax.losses.tiles import Stats, merge
from weavejax.ops.placement import BATCH_AXES

GATHERED_BYTES = 2**26  # of clips on every device, beyond which "auto" takes the ring


class Place(NamedTuple):
    """Where the batch lies: mesh axes, how many shards, and which exchange."""

    mesh: Any
    axes: tuple[str, ...]
    ways: int
    ring: bool


def find_place(exchange: str, leaves: Sequence[Array], size: int) -> Place:
    """Of the mesh in the context.

    Args:
      exchange: "gather", "ring" or "auto" (gather while that is at most 64 MiB a device).
      leaves: what has to travel, arrays of the whole batch.
      size: of the batch; one that does not divide over the mesh stays on every device whole.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(axis for axis in BATCH_AXES if axis in mesh.shape)
    ways = math.prod(mesh.shape[axis] for axis in axes)
    if ways == 1 or size % ways:
        return Place(None, (), 1, False)
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    ring = exchange == "ring" or (exchange == "auto" and held > GATHERED_BYTES)
    return Place(mesh, axes, ways, ring)


def spread(place: Place, local: Callable[..., Any], inputs: str, outputs: str) -> Any:
    """`local` on every device: arguments marked b are split along the batch, the others whole."""
    if place.mesh is None:
        return local
    specs = {"b": PartitionSpec(place.axes), ".": PartitionSpec()}
    return jax.shard_map(
        local,
        mesh=place.mesh,
        in_specs=tuple(specs[mark] for mark in inputs),
        out_specs=tuple(specs[mark] for mark in outputs),
        check_vma=False,
    )


def sweep_blocks(
    size: int, block: Callable[..., Any], common: Any, *sides: Any
) -> tuple[Any, Any, Any]:
    """Runs over all pairs of blocks of rows and columns.

    Args:
      size: of a block.
      block: (common, row inputs, row results, column inputs, column results), all but `common` of
        one block → (common, row results, column results).
      common: what every pair of blocks changes.
      sides: row inputs, row results, column inputs, column results: pytrees with a leading dimension.
        They are filled up with zeros (False: not usable) to whole blocks.
    """
    rows_in, rows_out, cols_in, cols_out = sides
    numbers = [len(jax.tree.leaves(side)[0]) for side in (rows_out, cols_out)]
    lengths = [min(size, number) for number in numbers]
    rows = _blocks((rows_in, rows_out), lengths[0])
    cols = _blocks((cols_in, cols_out), lengths[1])

    def row(carry: Any, xs: Any) -> tuple[Any, Any]:
        common, cols_out = carry
        row_in, row_out = xs

        def column(carry: Any, xs: Any) -> tuple[Any, Any]:
            common, row_out = carry
            common, row_out, col_out = block(common, row_in, row_out, *xs)
            return (common, row_out), col_out

        (common, row_out), cols_out = lax.scan(column, (common, row_out), (cols[0], cols_out))
        return (common, cols_out), row_out

    (common, cols_out), rows_out = lax.scan(row, (common, cols[1]), rows)
    return common, _whole(rows_out, numbers[0]), _whole(cols_out, numbers[1])


def _blocks(side: Any, length: int) -> Any:
    def cut(x: Array) -> Array:
        padded = jnp.pad(x, [(0, -len(x) % length)] + [(0, 0)] * (x.ndim - 1))
        return padded.reshape(-1, length, *x.shape[1:])

    return jax.tree.map(cut, side)


def _whole(side: Any, number: int) -> Any:
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:number], side)


def global_numbers(place: Place, size: int) -> Array:
    """Global numbers of this device's pairs, int32 [size]."""
    start = lax.axis_index(place.axes) * size if place.axes else 0
    return jnp.arange(size, dtype=jnp.int32) + start


def gather(place: Place, shard: Any) -> Any:
    """Every device's shard, one after the other, on every device."""
    return jax.tree.map(lambda x: lax.all_gather(x, place.axes, tiled=True), shard)


def hand_on(place: Place, shard: Any) -> Any:
    """The shard to the next device, and that of the one before in its place."""
    circle = [(n, (n + 1) % place.ways) for n in range(place.ways)]
    return jax.tree.map(lambda x: lax.ppermute(x, place.axes, circle), shard)


def merge_views(place: Place, cols: Stats, size: int) -> Stats:
    """Of statistics of all columns over one device's rows: of its own columns over all rows."""

    def exchanged(x: Array) -> Array:
        return lax.all_to_all(x.reshape(place.ways, size), place.axes, 0, 0)

    views = jax.tree.map(exchanged, cols)
    first, rest = jax.tree.map(lambda x: x[0], views), jax.tree.map(lambda x: x[1:], views)
    return lax.scan(lambda so_far, view: (merge(so_far, view), None), first, rest)[0]
