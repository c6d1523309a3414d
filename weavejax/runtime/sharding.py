"""Sharding of parameters by ordered path rules.

A rule is `(regex, spec)`: the regex is searched in the "/"-joined path of a leaf, the first match
wins, and the spec names a mesh axis (or None) per dimension *from the right*, so that the leading
axis of scanned layers needs no second table. Nothing is replicated by accident: an unmatched leaf,
a rule that matches nothing, a dimension that does not divide and an axis named twice are errors
that name the leaf.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from weavejax.errors import UserError
from weavejax.runtime import tree

Rule = tuple[str, tuple[str | None, ...]]
REPLICATED_ALARM = 4 << 20  # bytes of one replicated leaf above which the table says so


def partition_specs(params: Any, mesh: Mesh, rules: Sequence[Rule]) -> Any:
    """The PartitionSpec of every leaf.

    Args:
      params: nested dict of arrays or shapes.
      mesh: its axis sizes must divide the dimensions they are laid on.
      rules: ordered; first match wins.

    Raises:
      UserError: everything that is wrong with the table, all at once.
    """
    wrong: list[str] = []
    used: set[int] = set()

    def spec_of(path: str, leaf: Any) -> PartitionSpec:
        for number, (pattern, spec) in enumerate(rules):
            if re.search(pattern, path):
                used.add(number)
                wrong.extend(_misfits(path, leaf.shape, spec, mesh))
                return PartitionSpec(*(None,) * (len(leaf.shape) - len(spec)), *spec)
        wrong.append(f"{path} {tuple(leaf.shape)}: no sharding rule matches")
        return PartitionSpec()

    specs = tree.map_with_path(spec_of, params)
    wrong += [
        f"rule {pattern!r} matches no parameter that an earlier rule left"
        for number, (pattern, _) in enumerate(rules)
        if number not in used
    ]
    if wrong:
        raise UserError("sharding: " + "; ".join(wrong))
    return specs


def _misfits(
    path: str, shape: tuple[int, ...], spec: tuple[str | None, ...], mesh: Mesh
) -> list[str]:
    leaf = f"{path} {tuple(shape)}"
    named = [axis for axis in spec if axis is not None]
    if len(spec) > len(shape):
        return [f"{leaf}: spec {spec} has more dimensions than the leaf"]
    if len(set(named)) < len(named):
        return [f"{leaf}: spec {spec} names a mesh axis twice"]
    unknown = [axis for axis in named if axis not in mesh.shape]
    if unknown:
        return [f"{leaf}: spec {spec} names {unknown}, which the mesh {dict(mesh.shape)} lacks"]
    out = []
    for size, axis in zip(shape[len(shape) - len(spec) :], spec, strict=True):
        if axis is not None and size % mesh.shape[axis]:
            near = math.gcd(size, mesh.shape[axis])
            out.append(
                f"{leaf}: {size} does not divide over {axis}={mesh.shape[axis]}; {axis}={near} would"
            )
    return out


def shardings(params: Any, mesh: Mesh, rules: Sequence[Rule]) -> Any:
    """`partition_specs` as NamedShardings on the mesh."""
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec),
        partition_specs(params, mesh, rules),
        is_leaf=lambda x: isinstance(x, PartitionSpec),
    )


def device_bytes(params: Any, placed: Any) -> int:
    """Bytes that one device holds of a tree of shapes laid out by a tree of shardings."""
    return sum(
        math.prod(sharding.shard_shape(tuple(leaf.shape))) * leaf.dtype.itemsize
        for leaf, sharding in zip(jax.tree.leaves(params), jax.tree.leaves(placed), strict=True)
    )


def table(params: Any, placed: Any) -> str:
    """One line a leaf (path, shape, type, spec, bytes per device), then the totals."""
    lines, largest = [], (0, "")
    total = 0
    leaves = tree.flatten(params)
    for (path, leaf), sharding in zip(leaves.items(), jax.tree.leaves(placed), strict=True):
        size = math.prod(leaf.shape) * leaf.dtype.itemsize
        total += math.prod(leaf.shape)
        held = math.prod(sharding.shard_shape(tuple(leaf.shape))) * leaf.dtype.itemsize
        spec = tuple(sharding.spec)
        lines.append(f"{path}  {tuple(leaf.shape)}  {leaf.dtype}  {spec}  {held:,} B")
        if held == size and sharding.mesh.size > 1:
            largest = max(largest, (size, path))
    lines.append(f"{total:,} parameters, {device_bytes(params, placed):,} bytes per device")
    if largest[0] > REPLICATED_ALARM:
        lines.append(f"largest replicated leaf: {largest[1]}, {largest[0]:,} bytes on every device")
    return "\n".join(lines)
