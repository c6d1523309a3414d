"""Compiles the real train step for devices that may not be there, and reads off what it needs."""

import contextlib
import math
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from weavejax import systems
from weavejax.errors import UserError
from weavejax.planning import hlo, roofline
from weavejax.planning.flops import remat_of, step_flops
from weavejax.planning.topology import GIB, Topology
from weavejax.runtime import tree
from weavejax.runtime.mesh import AXES, check_batch, make_mesh
from weavejax.runtime.sharding import device_bytes, shardings
from weavejax.runtime.step import Layout, abstract_inputs, lay_out, make_train_step, split
from weavejax.systems.base import System

REMAT = ("full", "dots", "none")  # from least memory to most
MODEL_WAYS = 8  # tensor parallelism wider than this crosses too many links to be worth a try
Plan = dict[str, Any]  # JSON values only; keys as written by `make_plan`


def make_plan(config: Any, topology: Topology, *, fast: bool = False) -> Plan:
    """The plan of one config on one topology: a dictionary of JSON values.

    A program that does not fit is a plan too, with "fits" False and the compiler's numbers; it
    lacks what only a compiled program tells.

    Args:
      config: of the run; its mesh has to fit the devices.
      topology: to compile for.
      fast: with XLA's optimisation level O1.

    Raises:
      UserError: a config, mesh or batch that cannot be.
    """
    system = systems.build(config)
    mesh = make_mesh(config.runtime.mesh, topology.devices)
    check_batch(config.batch, mesh)
    layout = lay_out(system, config, mesh)
    inputs = abstract_inputs(system, layout, mesh)
    plan: Plan = {
        "topology": topology.name,
        "devices": mesh.size,
        "chip": topology.chip.name if topology.chip else "CPU",
        "mesh": dict(mesh.shape),
        "batch": int(config.batch),
        "remat": remat_of(config),
        "optimisation": "O1" if fast else "full",
        "parameters": _parameters(system, layout),
        "bytes per device": _laid_out_bytes(layout, inputs[1]),
        "usable HBM": topology.chip.memory if topology.chip else None,
        "largest replicated leaf": _largest_replicated(layout),
        "flops": step_flops(system, config, layout.shapes.params),
    }
    began = time.monotonic()
    lowered = make_train_step(system, layout, mesh, config).lower(*inputs)
    plan["seconds"] = {"lower": time.monotonic() - began}
    began = time.monotonic()
    with _partitioner_warnings() as warnings:
        compiled, short = _compile(lowered, fast)
    plan["seconds"]["compile"] = time.monotonic() - began
    plan["partitioner warnings"] = warnings
    plan["fits"] = compiled is not None
    plan["verdict"] = short
    if compiled is not None:
        _add_compiled(plan, compiled, topology, mesh)
    return plan


def _parameters(system: System, layout: Layout) -> dict[str, int]:
    trainable, frozen = split(layout.shapes.params, system.frozen)
    sizes = [sum(math.prod(leaf.shape) for leaf in part.values()) for part in (trainable, frozen)]
    return {"total": sum(sizes), "trainable": sizes[0], "frozen": sizes[1]}


def _laid_out_bytes(layout: Layout, batch: Mapping[str, Any]) -> dict[str, int]:
    shapes, placed = layout.shapes, layout.placed
    everything = device_bytes(shapes, placed)
    parameters = device_bytes(shapes.params, placed.params)
    optimiser = device_bytes(shapes.optimiser, placed.optimiser)
    return {
        "parameters": parameters,
        "optimiser": optimiser,
        "other state": everything - parameters - optimiser,
        "batch": device_bytes(batch, {name: leaf.sharding for name, leaf in batch.items()}),
    }


def _largest_replicated(layout: Layout) -> dict[str, Any] | None:
    """The largest parameter that every device holds whole."""
    places = tree.flatten(layout.placed.params)
    held = [
        (math.prod(leaf.shape) * leaf.dtype.itemsize, path)
        for path, leaf in tree.flatten(layout.shapes.params).items()
        if places[path].is_fully_replicated
    ]
    size, path = max(held, default=(0, ""))
    return {"path": path, "bytes": size} if path else None


def _compile(lowered: Any, fast: bool) -> tuple[Any, str]:
    """(the compiled program or None, what the compiler says when it does not fit)."""
    jax.config.update("jax_optimization_level", "O1" if fast else "UNKNOWN")
    try:
        return lowered.compile(), ""
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None, shortage(str(error))


def shortage(message: str) -> str:
    """ "does not fit: needs X of Y GiB" of the compiler's out-of-memory message."""
    needs = re.search(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm", message) or re.search(
        r"\(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)", message
    )
    if not needs:
        return f"does not fit: {message.splitlines()[0]}"
    unit = {"K": 2**-20, "M": 2**-10, "G": 1.0, "T": 2.0**10}
    need, have = (float(needs.group(n)) * unit[needs.group(n + 1)] for n in (1, 3))
    return f"does not fit: needs {need:.2f} of {have:.2f} GiB per device"


def _add_compiled(plan: Plan, compiled: Any, topology: Topology, mesh: Mesh) -> None:
    memory = compiled.memory_analysis()
    traffic = hlo.read(compiled.as_text(), mesh.size)
    plan["bytes per device"] |= {
        "temporaries": memory.temp_size_in_bytes,
        "program": memory.generated_code_size_in_bytes,
        "peak": memory.peak_memory_in_bytes,
    }
    plan["collectives"] = {
        kind: {"count": count, "bytes": sent, "largest array": _largest(traffic, kind)}
        for kind, (count, sent) in traffic.by_kind().items()
    }
    plan["loops of unknown length"] = traffic.unknown
    have = plan["usable HBM"]
    peak = plan["bytes per device"]["peak"]
    plan["verdict"] = "fits" + (
        f": {peak / GIB:.2f} of {have / GIB:.2f} GiB per device" if have else ""
    )
    if topology.chip is None:
        return
    sent = {kind: found["bytes"] for kind, found in plan["collectives"].items()}
    between = sum(size for kind, size in sent.items() if hlo.BETWEEN_SLICES in kind)
    flops = plan["flops"]["step"] + plan["flops"]["recomputation"]
    plan["memory traffic"] = memory.argument_size_in_bytes + 2 * traffic.made
    work = roofline.Work(
        flops=flops / mesh.size,
        memory=plan["memory traffic"],
        links=sum(sent.values()) - between,
        network=between,
    )
    found = roofline.estimate(topology.chip, work)
    at_peak = plan["flops"]["step"] / mesh.size / topology.chip.flops
    plan["roofline"] = found.as_dict() | {
        "utilisation at most %": 100 * at_peak / found.optimistic,
        "assumptions": list(roofline.ASSUMPTIONS),
    }


def _largest(traffic: hlo.Traffic, kind: str) -> dict[str, Any]:
    one = traffic.largest(kind)
    return {"bytes": one.size, "group": one.group, "source": one.source} if one else {}


@contextlib.contextmanager
def _partitioner_warnings() -> Iterator[list[str]]:
    """Collects what the partitioner says of arrays it has to make whole on every device.

    It writes to the process's standard error, past Python; the rest of that is dropped unless the
    compilation fails.
    """
    found: list[str] = []
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile("w+b") as spool:
        os.dup2(spool.fileno(), 2)
        try:
            yield found
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            spool.seek(0)
            said = spool.read().decode(errors="replace")
            if sys.exc_info()[0]:
                sys.stderr.write(said)
        for line in said.splitlines():
            if "full rematerialization" in line:
                place = re.search(r'op_name="([^"]*)"', line)
                found.append(place.group(1) if place else line)


def candidates(config: Any, topology: Topology) -> tuple[list[dict[str, int]], dict[str, str]]:
    """Meshes worth compiling, and why others are not.

    For every tensor-parallel width: the largest `data` axis that the batch and the sharding table
    take, the rest going to `replica`. Between slices only `replica` reaches.

    Returns:
      mesh shapes; mesh as text → why it is impossible.
    """
    found, refused = [], {}
    system = systems.build(config)
    shapes = jax.eval_shape(system.init, jax.random.key(0))
    per_slice = len(topology.devices) // topology.slices
    for model in _divisors(per_slice, MODEL_WAYS):
        reason, name = "", ""
        for data in reversed(_divisors(per_slice // model, per_slice)):
            sizes = (len(topology.devices) // (model * data), data, model)
            shape = dict(zip(AXES, sizes, strict=True))
            try:
                mesh = make_mesh(shape, topology.devices)
                check_batch(config.batch, mesh)
                shardings(shapes, mesh, system.rules)
            except UserError as error:
                reason, name = reason or str(error), name or str(shape)
                continue
            found.append(shape)
            break
        else:
            refused[name] = reason
    return found, refused


def _divisors(number: int, most: int) -> list[int]:
    return [d for d in range(1, min(number, most) + 1) if number % d == 0]


def with_choice(config: Any, shape: Mapping[str, int], remat: str) -> Any:
    """A copy of the config with another mesh and the same `remat` in every part that has one."""
    changed = config.copy_and_resolve_references()
    changed.runtime.mesh.update(shape)
    for part in remat_of(changed):
        changed.model[part].remat = remat
    return changed


def search(config: Any, topology: Topology, *, fast: bool = False) -> Iterator[tuple[int, Plan]]:
    """Plans of meshes × recomputation policies; yields (how many more at most, plan).

    Policies are tried from least memory to most: after one that does not fit, the rest of that mesh
    is left out.
    """
    shapes, refused = candidates(config, topology)
    if not shapes:
        raise UserError("; ".join(f"{mesh}: {reason}" for mesh, reason in refused.items()))
    policies: Sequence[str] = REMAT if remat_of(config) else ("none",)
    for number, shape in enumerate(shapes):
        for done, remat in enumerate(policies, 1):
            plan = make_plan(with_choice(config, shape, remat), topology, fast=fast)
            last = not plan["fits"]
            left = (len(shapes) - number - 1) * len(policies)
            yield left + (0 if last else len(policies) - done), plan
            if last:
                break
