"""Many processes, one job: how they find each other, agree, and leave.

JAX's coordination service carries the messages. Before it starts there is a roll call on its own
port, because it waits in silence for a missing process and then aborts without naming it.
"""

import contextlib
import hashlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn, TypeVar

import jax
import numpy as np
from jax._src import clusters, distributed  # detection and the key-value store have no public name
from jax.experimental import multihost_utils

from weavejax.errors import UserError

KINDS = ("auto", "slurm", "tpu", "k8s", "env", "none")
ADDRESS, COUNT, NUMBER = "WEAVEJAX_COORDINATOR", "WEAVEJAX_PROCESSES", "WEAVEJAX_PROCESS"
START_SECONDS = float(os.environ.get("WEAVEJAX_START_SECONDS", 1800))
HEARTBEAT_SECONDS = int(os.environ.get("WEAVEJAX_HEARTBEAT_SECONDS", 60))
REPORT_SECONDS = 30.0
LAST_SECONDS = 2.0
PATIENCE = 24 * 3600.0  # with a process that prepares data: the watchdog ends a stuck one
Made = TypeVar("Made")
_joined = threading.Event()
_DETECTORS = {
    "slurm": ("SlurmCluster",),
    "tpu": ("GkeTpuCluster", "GceTpuCluster"),
    "k8s": ("K8sCluster",),
}


class Place(NamedTuple):
    """Where this process stands in its job.

    Attributes:
      address: "host:port" of process 0.
      processes: in the job.
      number: this one.
      devices: local device numbers this process may see; None = all of the host.
      how: which kind of cluster said so.
    """

    address: str
    processes: int
    number: int
    devices: tuple[int, ...] | None
    how: str


def find_place(kind: str = "auto") -> Place | None:
    """Reads the environment; None for a process on its own.

    Args:
      kind: one of `KINDS`. "env" reads WEAVEJAX_COORDINATOR, WEAVEJAX_PROCESSES and
        WEAVEJAX_PROCESS; "auto" takes that when it is set, else what JAX detects.

    Raises:
      UserError: unknown kind, or the environment does not hold what the kind needs.
    """
    if kind not in KINDS:
        raise UserError(f"--cluster {kind!r} is none of {', '.join(KINDS)}")
    if kind == "none":
        return None
    if kind == "env" or (kind == "auto" and ADDRESS in os.environ):
        return _place_from_environment()
    names = _DETECTORS.get(kind, tuple(n for group in _DETECTORS.values() for n in group))
    detectors = [c for c in clusters.ClusterEnv._cluster_types if c.__name__ in names]
    found = next((c for c in detectors if c.is_env_present()), None)
    if found is None:
        if kind == "auto":
            return None
        raise UserError(f"--cluster {kind}: this process is not in one (under SLURM, use srun)")
    count, number = found.get_process_count(), found.get_process_id()
    if count == 1:
        return None
    address = os.environ.get("JAX_COORDINATOR_ADDRESS") or found.get_coordinator_address(
        timeout_secs=int(START_SECONDS),
        override_coordinator_port=os.environ.get("JAX_COORDINATOR_PORT"),
    )
    local = None if "Tpu" in found.__name__ else found.get_local_process_id()
    return Place(address, count, number, None if local is None else (local,), found.__name__)


def _place_from_environment() -> Place | None:
    missing = [name for name in (ADDRESS, COUNT, NUMBER) if not os.environ.get(name)]
    if missing:
        raise UserError(f"the environment lacks {', '.join(missing)}")
    try:
        count, number = int(os.environ[COUNT]), int(os.environ[NUMBER])
        port = int(os.environ[ADDRESS].rpartition(":")[2])
    except ValueError:
        count = number = port = -1
    if not (0 <= number < count and 0 < port < 65536):
        given = ", ".join(f"{name}={os.environ[name]}" for name in (ADDRESS, COUNT, NUMBER))
        raise UserError(f"{given}: needs host:port and 0 ≤ process < processes")
    return None if count == 1 else Place(os.environ[ADDRESS], count, number, None, "env")


def start(kind: str = "auto") -> None:
    """Joins the job; call it before any device is used. Nothing happens for a single process.

    Raises:
      UserError: as `find_place`; after 30 minutes (WEAVEJAX_START_SECONDS) naming who is missing.
    """
    # Our own handlers decide what SIGTERM does (`runtime.signals`); JAX's would swallow it.
    jax.config.update("jax_enable_preemption_service", False)
    place = find_place(kind)
    if place is None:
        return
    print(
        f"process {place.number} of {place.processes} on {socket.gethostname()} (pid {os.getpid()}), "
        f"coordinator {place.address}, by {place.how}",
        file=sys.stderr,
        flush=True,
    )
    _refuse_loopback(place)
    if place.number:
        _answer_roll_call(place)
    else:
        _call_roll(place)
    distributed.global_state.initialize(
        place.address,
        place.processes,
        place.number,
        place.devices,
        cluster_detection_method="deactivate",
        initialization_timeout=300,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=60,
    )
    _joined.set()


def _refuse_loopback(place: Place) -> None:
    """A host name that resolves to loopback looks right on process 0 and hangs all others."""
    host = place.address.rpartition(":")[0].strip("[]")
    if host in ("localhost", "127.0.0.1", "::1"):
        return  # written out: all processes are on this machine
    try:
        resolved = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except OSError:
        return  # not known here yet (a starting pod): the roll call waits for it
    if all(str(each).startswith("127.") or each == "::1" for each in resolved):
        raise UserError(
            f"the coordinator {host} resolves to {', '.join(map(str, sorted(resolved)))} here, which "
            f"other hosts cannot reach: give an address of process 0 that they can, as "
            f"host:port in {ADDRESS if place.how == 'env' else 'JAX_COORDINATOR_ADDRESS'}"
        )


def _call_roll(place: Place) -> None:
    """Process 0: hears from everyone, then tells everyone to go on, or who is missing."""
    port = int(place.address.rpartition(":")[2])
    began = reported = time.monotonic()
    present: dict[int, socket.socket] = {}
    with _listen(port) as listener:
        listener.settimeout(0.5)
        while len(present) < place.processes - 1:
            now = time.monotonic()
            missing = [n for n in range(1, place.processes) if n not in present]
            if now - began > START_SECONDS:
                words = f"after {now - began:.0f} s these processes are missing: {_listed(missing)}"
                _tell(present, f"missing {words}")
                raise UserError(f"{words} (of {place.processes}); see their logs")
            if now - reported > REPORT_SECONDS:
                print(f"waiting for processes {_listed(missing)}", file=sys.stderr, flush=True)
                reported = now
            _admit(listener, present)
        _tell(present, "go")


def _listen(port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        return socket.create_server(
            ("", port), family=family, dualstack_ipv6=family == socket.AF_INET6, backlog=4096
        )
    except OSError as error:
        raise UserError(f"port {port} of the coordinator: {error.strerror}") from error


def _admit(listener: socket.socket, present: dict[int, socket.socket]) -> None:
    try:
        connection, _ = listener.accept()
    except TimeoutError:
        return
    connection.settimeout(5.0)
    try:
        number = int(connection.makefile().readline())
    except (OSError, ValueError):
        connection.close()  # not one of ours
        return
    earlier = present.pop(number, None)
    if earlier is not None:
        earlier.close()  # it was started again
    present[number] = connection


def _tell(present: dict[int, socket.socket], words: str) -> None:
    for connection in present.values():
        with contextlib.suppress(OSError):  # it has gone: the heartbeat will say so
            connection.sendall(f"{words}\n".encode())
        connection.close()


def _answer_roll_call(place: Place) -> None:
    host, _, port = place.address.rpartition(":")
    began = reported = time.monotonic()
    while True:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=10) as connection:
                connection.sendall(f"{place.number}\n".encode())
                connection.settimeout(START_SECONDS + 60)
                answer = connection.makefile().readline().strip()
            if answer == "go":
                return
            if answer.startswith("missing "):
                raise UserError(answer.removeprefix("missing "))
        except OSError:
            pass  # process 0 is not there yet
        now = time.monotonic()
        if now - began > START_SECONDS:
            raise UserError(f"after {now - began:.0f} s process 0 is not at {place.address}")
        if now - reported > REPORT_SECONDS:
            print(f"waiting for process 0 at {place.address}", file=sys.stderr, flush=True)
            reported = now
        time.sleep(0.2)


def _listed(numbers: list[int], most: int = 20) -> str:
    return ", ".join(map(str, numbers[:most])) + (", …" if len(numbers) > most else "")


def primary() -> bool:
    """Whether this is process 0, which writes what is written once."""
    return jax.process_index() == 0


def count() -> int:
    """Processes in the job."""
    return jax.process_count()


def any_process(flag: bool) -> bool:
    """Whether the flag is set on any process; all must ask."""
    if client() is None:
        return flag
    return bool(multihost_utils.process_allgather(np.asarray(flag)).any())


def primary_first(name: str, make: Callable[[], Made], seconds: float = PATIENCE) -> Made:
    """`make` on process 0, then, when that is done, on all others."""
    if primary():
        made = make()
    barrier(f"{name} made by process 0", seconds)
    return made if primary() else make()


def from_primary(name: str, make: Callable[[], str], seconds: float = PATIENCE) -> str:
    """What `make` gives on process 0, on every process; the name is used once in a job."""
    service = client()
    if service is None:
        return make()
    if primary():
        made = make()
        service.key_value_set(f"weavejax/{name}", made)
        return made
    return service.blocking_key_value_get(f"weavejax/{name}", int(seconds * 1000))


def client() -> Any:
    """The coordination service's client; None for a process on its own, or not yet in its job.

    Asked for anything before it is connected, it ends the process.
    """
    return distributed.global_state.client if _joined.is_set() else None


def barrier(name: str, seconds: float) -> None:
    """Waits until every process is here; the name is used once in a job.

    Raises:
      UserError: not all came in time.
    """
    service = client()
    if service is None:
        return
    try:
        service.wait_at_barrier(f"weavejax/{name}", timeout_in_ms=int(seconds * 1000))
    except jax.errors.JaxRuntimeError as error:
        first = str(error).splitlines()[0]
        raise UserError(
            f"not all processes came to {name!r} in {seconds:.0f} s: {first}"
        ) from error


def check_same(what: str, text: str) -> None:
    """Raises UserError when `text` (a config, a vocabulary, …) is not that of process 0."""
    mine = hashlib.sha256(text.encode()).hexdigest()
    if from_primary(f"same/{what}", lambda: mine) != mine:
        raise UserError(
            f"process {jax.process_index()} on {socket.gethostname()} has another {what} than "
            "process 0: all hosts need the same code, config and data"
        )


def shutdown() -> None:
    """Leaves the job in order, together with all others."""
    if client() is not None:
        _joined.clear()
        jax.distributed.shutdown()


def leave(status: int) -> NoReturn:
    """Ends this process at once.

    In a job, not by `sys.exit`: JAX's exit handler would wait minutes for peers that cannot come,
    and hold the whole job meanwhile. The peers notice the missing heartbeat.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if client() is None:
        sys.exit(status)
    if primary() and status:
        time.sleep(LAST_SECONDS)  # it carries the messages: those with the same error leave first
    os._exit(status)
