"""The device mesh: `replica` (across slices or nodes) × `data` (FSDP) × `model` (tensor)."""

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from weavejax.errors import UserError

AXES = ("replica", "data", "model")
BATCH_AXES = ("replica", "data")


def make_mesh(shape: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Builds the mesh of a run.

    Args:
      shape: size of each of `AXES`; one of them may be −1 (whatever is left over).
      devices: defaults to all devices of the job.

    Raises:
      UserError: unknown axis, or the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    unknown = sorted(set(shape) - set(AXES))
    if unknown:
        raise UserError(f"unknown mesh axes {unknown}; a mesh has the axes {', '.join(AXES)}")
    sizes = [int(shape.get(axis, 1)) for axis in AXES]
    text = " × ".join(f"{axis} {size}" for axis, size in zip(AXES, sizes, strict=True))
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise UserError(f"mesh {text}: sizes are positive, and one of them may be -1 (the rest)")
    known = math.prod(size for size in sizes if size > 0)
    if -1 in sizes:
        sizes[sizes.index(-1)] = len(devices) // known
    if math.prod(sizes) != len(devices):
        raise UserError(f"mesh {text} does not fit {len(devices)} {devices[0].platform} device(s)")
    return Mesh(_arrange(sizes, devices), AXES)


def _arrange(sizes: Sequence[int], devices: Sequence[jax.Device]) -> np.ndarray:
    """Devices on the mesh: on TPU so that neighbours on an axis are neighbours in the torus."""
    if devices[0].platform != "tpu":
        return np.asarray(devices).reshape(sizes)
    slices = {getattr(device, "slice_index", 0) for device in devices}
    if len(slices) == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    if sizes[0] % len(slices):
        raise UserError(
            f"{len(slices)} slices need a replica axis that is a multiple of {len(slices)}, "
            f"so that only gradients cross between them; it is {sizes[0]}"
        )
    return mesh_utils.create_hybrid_device_mesh(
        (sizes[0] // len(slices), *sizes[1:]),
        (len(slices), 1, 1),
        devices,
        allow_split_physical_axes=True,
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading dimension is split over `replica` and `data`."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def check_batch(size: int, mesh: Mesh) -> None:
    """Raises UserError unless a global batch of `size` divides over the mesh."""
    ways = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if size < 1 or size % ways:
        near = max(ways, round(size / ways) * ways)
        raise UserError(
            f"a batch of {size} does not divide over {ways} batch shards "
            f"(mesh {dict(mesh.shape)}); {near} would"
        )


def batch_rows(size: int, mesh: Mesh) -> tuple[int, ...]:
    """Rows of a global batch that this process's devices hold, ascending.

    Processes that share a batch shard (a model axis across hosts) hold the same rows.
    """
    places = batch_sharding(mesh).addressable_devices_indices_map((size,))
    parts = [index[0] for index in places.values() if index is not None]
    return tuple(sorted({row for part in parts for row in range(size)[part]}))


def put_batch(batch: Mapping[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """This process's rows of the global batch (see `batch_rows`) → global arrays on the mesh."""
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in batch.items()
    }
