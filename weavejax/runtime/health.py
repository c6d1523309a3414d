"""What a host has, and whether that is enough: one finding a question."""

import importlib.metadata
import os
import platform
import resource
import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax

SHARED_MEMORY = Path("/dev/shm")
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "av")
EXTRA_PACKAGES = ("libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
FEW_FILES = 1024
GIB = 2**30

Status = Literal["ok", "warning", "FAILED"]


@dataclass(frozen=True)
class Finding:
    """The answer to one question.

    Attributes:
      status: how bad it is; FAILED means that a run would not work.
      what: one or two words.
      text: what was found.
      hint: how to mend it, when there is something to mend.
    """

    status: Status
    what: str
    text: str
    hint: str = ""

    def __str__(self) -> str:
        hint = f"; {self.hint}" if self.hint else ""
        return f"{self.status:7}  {self.what:11}  {self.text}{hint}"


def versions() -> Finding:
    """Python, the packages that decide, and the driver."""
    found = [f"python {platform.python_version()}"]
    for name in (*PACKAGES, *EXTRA_PACKAGES):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            if name in PACKAGES:
                hint = "pip install -e . in the checkout"
                return Finding("FAILED", "versions", f"{name} is not installed", hint)
    if NVIDIA_DRIVER.exists():
        found.append(NVIDIA_DRIVER.read_text().splitlines()[0].strip())
    return Finding("ok", "versions", ", ".join(found))


def devices() -> Finding:
    """The devices of this process, and their memory where they tell it."""
    local = jax.local_devices()
    stats = local[0].memory_stats() or {}
    memory = f" of {stats['bytes_limit'] / GIB:.1f} GiB" if "bytes_limit" in stats else ""
    text = f"{len(local)} × {local[0].device_kind}{memory}; {jax.device_count()} in the job"
    accelerator = Path("/dev/nvidia0").exists() or Path("/dev/accel0").exists()
    if (
        local[0].platform == "cpu"
        and accelerator
        and "cpu" not in os.environ.get("JAX_PLATFORMS", "")
    ):
        hint = "there is an accelerator: install '.[cuda13]', '.[cuda12]' or '.[tpu]'"
        return Finding("warning", "devices", text, hint)
    return Finding("ok", "devices", text)


def shared_memory(needed: int = 0) -> Finding:
    """Room for the batches that the loader's workers hand over.

    Args:
      needed: bytes; 0 when no config says so.
    """
    if not SHARED_MEMORY.is_dir():
        return Finding("ok", "/dev/shm", "there is none here")
    free = shutil.disk_usage(SHARED_MEMORY).free
    text = f"{free / GIB:.2f} GiB free"
    if needed:
        text += f", {needed / GIB:.2f} GiB needed by the loader's workers"
    hint = "enlarge it (docker run --shm-size=8g; a memory-backed emptyDir in Kubernetes)"
    if needed > free:
        return Finding("FAILED", "/dev/shm", text, hint + ", or lower runtime.workers or prefetch")
    if not needed and free < GIB:
        return Finding("warning", "/dev/shm", text, hint)
    return Finding("ok", "/dev/shm", text)


def disk(what: str, path: str | Path) -> Finding:
    """Free space, and whether one may write there.

    Args:
      what: word for the place.
      path: need not exist; its nearest existing parent counts.
    """
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    text = f"{path}: {free / GIB:.1f} GiB free"
    if not os.access(place, os.W_OK):
        return Finding("FAILED", what, f"{text}, not writable", f"look at the rights of {place}")
    if free < GIB:
        return Finding("warning", what, text, "checkpoints and data may not fit: make room")
    return Finding("ok", what, text)


def network(processes: int) -> Finding:
    """Settings that make processes wait for each other in vain."""
    name = socket.gethostname()
    try:
        addresses: Sequence[str] = sorted({str(i[4][0]) for i in socket.getaddrinfo(name, None)})
    except OSError:
        addresses = []
    text = f"{name} is {', '.join(addresses) or 'not known to the resolver'}"
    set_ = [v for v in os.environ if v.lower() in PROXIES]
    if processes > 1 and set_:
        hint = "if processes do not find each other, unset them or add the hosts to no_proxy"
        return Finding("warning", "network", f"{text}; {', '.join(set_)} set", hint)
    if processes > 1 and (not addresses or all(a.startswith(("127.", "::1")) for a in addresses)):
        hint = "other hosts cannot reach it by that name: mend /etc/hosts or give an address"
        return Finding("warning", "network", text, hint)
    return Finding("ok", "network", text)


def open_files() -> Finding:
    """How many files and connections this process may have open."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit <= FEW_FILES:
        hint = "many hosts or data shards need more: ulimit -n $(ulimit -H -n)"
        return Finding("warning", "open files", f"at most {limit}", hint)
    return Finding("ok", "open files", f"at most {limit}")
