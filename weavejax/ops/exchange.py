"""Rows of a batch that is split over devices, by their numbers: only the chosen rows travel."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import PartitionSpec

from weavejax.ops.placement import BATCH_AXES


class _Route(NamedTuple):
    """How one device's requests reach their owners.

    Attributes:
      owner: device that holds each row asked for, int32 [N].
      offset: its place there, int32 [N].
      place: rank of the request among those to the same owner, int32 [N].
      rounds: exchanges needed, the same on all devices, int32 [].
    """

    owner: Array
    offset: Array
    place: Array
    rounds: Array


def take_rows(x: Array, index: Array) -> Array:
    """x[index], where both are split over the batch axes of the mesh in the context.

    Indexing a split array makes the partitioner gather all of it on every device. Here every device
    asks the owners for the rows it needs, in rounds of at most ceil(N/devices) rows to and from each
    other device: as a rule one or two rounds, more only if many ask the same owner. Memory
    stays that of the result. Differentiable in `x`: gradients go back the same way and are added up.

    Args:
      x: [B, ...].
      index: int32 [N], N and B multiples of the number of devices along the batch axes.

    Returns:
      [N, ...], split like `index`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(axis for axis in BATCH_AXES if axis in mesh.shape)
    ways = math.prod(mesh.shape[axis] for axis in axes)
    if ways == 1 or len(x) % ways or len(index) % ways:
        return x[index]
    split = PartitionSpec(axes)

    def spread(local: Any) -> Any:
        return jax.shard_map(
            partial(local, axes=axes, ways=ways, held=len(x) // ways),
            mesh=mesh,
            in_specs=(split, split),
            out_specs=split,
            check_vma=False,
        )

    @jax.custom_vjp
    def take(x: Array, index: Array) -> Array:
        return spread(_fetch)(x, index)

    def forward(x: Array, index: Array) -> tuple[Array, Array]:
        return take(x, index), index

    def backward(index: Array, bar: Array) -> tuple[Array, None]:
        return spread(_give_back)(bar, index), None

    take.defvjp(forward, backward)
    return take(x, index)


def _route(index: Array, axes: tuple[str, ...], ways: int, held: int) -> tuple[_Route, int]:
    share = -(-len(index) // ways)
    owner, offset = index // held, index % held
    asked = owner[:, None] == jnp.arange(ways, dtype=owner.dtype)[None, :]
    place = jnp.where(asked, jnp.cumsum(asked.astype(jnp.int32), axis=0) - 1, 0).sum(1)
    most = lax.pmax(place.max(), axes)
    return _Route(owner, offset, place, most // share + 1), share


def _slots(route: _Route, share: int, number: Array) -> tuple[Array, Array]:
    """Where each request stands in a round: its slot among ways·share, and whether it has its turn."""
    turn = route.place // share == number
    return route.owner * share + route.place % share, turn


def _fetch(x: Array, index: Array, *, axes: tuple[str, ...], ways: int, held: int) -> Array:
    route, share = _route(index, axes, ways, held)
    swap = partial(_swap, axes=axes, ways=ways)

    def turn(number: Array, out: Array) -> Array:
        slot, mine = _slots(route, share, number)
        asked = (
            jnp.zeros(ways * share, jnp.int32).at[_only(slot, mine)].set(route.offset, mode="drop")
        )
        rows = swap(x[swap(asked)])
        return jnp.where(_like(mine, out), rows[slot], out)

    out = jnp.zeros((len(index), *x.shape[1:]), x.dtype)
    return _rounds(route, turn, out)


def _give_back(bar: Array, index: Array, *, axes: tuple[str, ...], ways: int, held: int) -> Array:
    route, share = _route(index, axes, ways, held)
    swap = partial(_swap, axes=axes, ways=ways)

    def turn(number: Array, total: Array) -> Array:
        slot, mine = _slots(route, share, number)
        slot = _only(slot, mine)
        rows = jnp.zeros((ways * share, *bar.shape[1:]), bar.dtype).at[slot].set(bar, mode="drop")
        where = jnp.full(ways * share, held, jnp.int32).at[slot].set(route.offset, mode="drop")
        return total.at[swap(where)].add(swap(rows), mode="drop")

    return _rounds(route, turn, jnp.zeros((held, *bar.shape[1:]), bar.dtype))


def _rounds(route: _Route, turn: Any, start: Array) -> Array:
    def body(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        number, value = carry
        return number + 1, turn(number, value)

    first = (jnp.zeros((), jnp.int32), start)
    return lax.while_loop(lambda carry: carry[0] < route.rounds, body, first)[1]


def _swap(x: Array, *, axes: tuple[str, ...], ways: int) -> Array:
    """The n-th part of every device's array to device n."""
    parts = x.reshape(ways, -1, *x.shape[1:])
    return lax.all_to_all(parts, axes, 0, 0).reshape(x.shape)


def _only(slot: Array, mine: Array) -> Array:
    """Slots of those that have their turn; the others point past the end, where nothing is written."""
    return jnp.where(mine, slot, jnp.iinfo(slot.dtype).max)


def _like(mask: Array, x: Array) -> Array:
    return mask.reshape(-1, *(1,) * (x.ndim - 1))
