"""Devices that are not there: TPU slices to compile for, and what their chips can do."""

import contextlib
import importlib.util
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import jax
from jax.experimental import topologies

from weavejax.errors import UserError

GIB = float(1 << 30)


@dataclass(frozen=True)
class Chip:
    """One device of a TPU generation, as JAX counts devices; rates per second.

    Attributes:
      name: for people.
      flops: dense bfloat16 peak.
      memory: bytes of HBM that a program may use.
      memory_rate: bytes from and to HBM.
      link_rate: bytes sent over all links to neighbours together.
      torus: dimensions of the torus: a ring along one of them has 1/torus of the links.
      network_rate: bytes sent to other slices; 0 = not published.
      options: for the TPU library.
    """

    name: str
    flops: float
    memory: float
    memory_rate: float
    link_rate: float
    torus: int
    network_rate: float
    options: tuple[tuple[str, str], ...] = ()


# Peak, HBM rate, links ("bidirectional ICI bandwidth", half of it per direction) and data-centre
# network: the specification tables at docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}; v5e's
# network is its pod's 6.4 Tb/s over 256 chips, v4's links are from Jouppi et al., arXiv 2304.01433
# (six links of 50 GB/s). Usable HBM: what the compiler of libtpu 0.0.42 says when a program is too
# large. A TPU7x chip is two devices.
CHIPS: dict[str, Chip] = {
    "v4": Chip(
        "TPU v4", 275e12, 30.75 * GIB, 1200e9, 300e9, 3, 0.0, (("chip_config_name", "megacore"),)
    ),
    "v5e": Chip("TPU v5e", 197e12, 15.75 * GIB, 819e9, 200e9, 2, 3.125e9),
    "v5p": Chip("TPU v5p", 459e12, 95.74 * GIB, 2765e9, 600e9, 3, 6.25e9),
    "v6e": Chip("TPU v6e", 918e12, 31.25 * GIB, 1638e9, 400e9, 2, 12.5e9),
    "tpu7x": Chip("TPU7x (half a chip)", 1153.5e12, 94.75 * GIB, 3690e9, 300e9, 3, 6.25e9),
}
# Read when the TPU library loads. It neither looks for a machine nor locks out other processes.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",  # only silences a warning
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_LOG_DIR": "disabled",
}


@dataclass(frozen=True)
class Topology:
    """Devices to compile for.

    Attributes:
      name: as given, "2*v5e:16x16".
      devices: of all slices; none of them can run anything, unless they are CPU devices.
      slices: joined by the data-centre network only.
      chip: None for CPU devices.
    """

    name: str
    devices: Sequence[jax.Device]
    slices: int
    chip: Chip | None


def open_topology(name: str) -> Topology:
    """The devices of "v5p:4x4x8", "2*v5e:16x16" (two slices) or "cpu:8"; before any other use of JAX.

    Raises:
      UserError: a name that is not understood, a slice that does not exist, or no TPU library.
    """
    found = re.fullmatch(r"(?:(\d+)\*)?(\w+):(\d+(?:x\d+)*)", name)
    if not found or found.group(2) not in {*CHIPS, "cpu"}:
        raise UserError(
            f"topology {name!r} is not understood; write v5p:4x4x8, 2*v5e:16x16 (two slices) or "
            f"cpu:8, of {', '.join(CHIPS)} and cpu"
        )
    slices, generation, shape = int(found.group(1) or 1), found.group(2), found.group(3)
    jax.config.update("jax_platforms", "cpu")
    # Of a program compiled for absent devices, entries are written but cannot be read.
    jax.config.update("jax_enable_compilation_cache", False)
    if generation == "cpu":
        return Topology(name, _cpu_devices(name, slices, shape), 1, None)
    chip = CHIPS[generation]
    if slices > 1 and not chip.network_rate:
        raise UserError(
            f"the network between slices of {chip.name} is not published; plan one slice"
        )
    return Topology(
        name, _absent_devices(name, slices, f"{generation}:{shape}", chip), slices, chip
    )


def _cpu_devices(name: str, slices: int, shape: str) -> Sequence[jax.Device]:
    if slices != 1 or "x" in shape:
        raise UserError(f"topology {name!r}: CPU devices are only counted, as in cpu:8")
    count = int(shape)
    # Once the CPU is in use its number of devices stands.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise UserError(f"topology {name!r}: this process already has {len(devices)} CPU devices")
    return devices[:count]


def _absent_devices(name: str, slices: int, slice_name: str, chip: Chip) -> Sequence[jax.Device]:
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"planning for {name} needs the TPU compiler: pip install 'weavejax[aot]' "
            "(no TPU is needed)"
        )
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    options = dict(chip.options)
    if slices > 1:
        options["num_slices"] = slices  # type: ignore[assignment]
    try:
        described = topologies.get_topology_desc(
            platform="tpu", topology_name=slice_name, **options
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"no such slice: {name} ({reason})") from error
    return list(described.devices)
