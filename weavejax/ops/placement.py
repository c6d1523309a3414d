"""Where activations live on a device mesh."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec

BATCH_AXES = ("replica", "data")


def split_batch(x: jax.Array) -> jax.Array:
    """Keeps the leading dimension split over `replica` and `data`, the others whole.

    Parameters are split over `data` too (FSDP), along dimensions that the products contract. Left
    to itself the partitioner may then keep the parameters where they are and give every device the
    whole batch, with all-reduces of activations. With the batch pinned between blocks it gathers
    parameters instead, one layer at a time.

    The mesh is that of the context (`jax.sharding.use_abstract_mesh`). Without one, or when the
    batch does not divide over it (shape inference with a batch of one), nothing changes.

    Args:
      x: [N, ...].
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(axis for axis in BATCH_AXES if axis in mesh.shape)
    if not axes or x.shape[0] % math.prod(mesh.shape[axis] for axis in axes):
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(axes, *(None,) * (x.ndim - 1)))


def on_mesh(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """The function, to be traced where `split_batch` knows the mesh: for use inside `jax.jit`."""

    @functools.wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args, **kwargs)

    return traced
