"""What the doctor looks at; every function adds its findings to a report."""

import json
import os
import socket
import statistics
import time
from collections.abc import Sequence
from typing import Any

import jax

from weavejax import systems
from weavejax.data.clip import Source, record_name
from weavejax.data.folder import open_folder
from weavejax.data.sources import make_builder, open_tfds
from weavejax.errors import UserError
from weavejax.runs import assemble
from weavejax.runtime import cluster, health, links
from weavejax.runtime.checkpoint import Checkpoints
from weavejax.runtime.health import Finding
from weavejax.runtime.mesh import check_batch, make_mesh
from weavejax.runtime.records import duration
from weavejax.storage import is_remote, storage

CLIPS = 8  # decoded
SMALL, LARGE = (2**16, 2**20, 2**24), (2**20, 2**24, 2**28)  # bytes of a collective: CPU, others
TABLE = 8  # end points of which every link is printed
SLOW = 5.0  # times the median hop


class Report:
    """Findings: process 0 says its own at once, those of others at the end."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def add(self, finding: Finding) -> None:
        """Notes a finding, and says it on process 0."""
        self.findings.append(finding)
        if cluster.primary():
            print(finding, flush=True)

    def close(self) -> int:
        """Says what is wrong on other processes; the exit status."""
        mine = [(f.status, str(f)) for f in self.findings if f.status != "ok"]
        failed = False
        rows = [json.loads(text) for text in links.gather_text(json.dumps(mine))]
        for process, found in enumerate(rows):
            for status, line in found:
                failed |= status == "FAILED"
                if cluster.primary() and [status, line] not in rows[0]:
                    print(f"{line} (process {process})", flush=True)
        return 2 if failed else 0


def check_host(report: Report, config: Any, workdir: str) -> None:
    """What this host offers."""
    needed = 0
    if config is not None and config.runtime.workers:
        example = assemble.recipe(config).empty()
        share = -(-config.batch // cluster.count()) * sum(a.nbytes for a in example.values())
        needed = config.runtime.workers * (config.runtime.prefetch + 2) * share
    report.add(health.shared_memory(needed))
    places = {"workdir": workdir or "runs"}
    if config is not None:
        places |= {"data": config.data.directory, "cache": config.data.cache}
    for what, path in places.items():
        if path and not is_remote(storage(path)):
            report.add(health.disk(what, path))
    here = os.environ.get(cluster.ADDRESS, "").startswith(("localhost:", "127."))
    report.add(health.network(1 if here else cluster.count()))
    report.add(health.open_files())


def check_links(report: Report) -> None:
    """Who reaches whom and how fast; collectives over all devices."""
    ends = links.end_points()
    kind = "processes" if cluster.count() > 1 else "devices of this process"
    if len(ends) < 2:
        report.add(Finding("ok", "links", "a single device: none to measure"))
        return
    shifts = links.ring_shifts(ends)
    wrong = sorted({pair for shift in shifts for pair in shift.wrong})
    for sender, receiver in wrong:
        text = f"{receiver} did not hear what {sender} sent"
        report.add(Finding("FAILED", "links", text, "the interconnect delivers wrong data"))
    hops = {shift.distance: max(shift.seconds) for shift in shifts}
    median, slowest = statistics.median(hops.values()), max(hops, key=lambda d: hops[d])
    text = (
        f"{len(shifts)} shifts among {len(ends)} {kind}: {median * 1e6:.0f} µs a hop, slowest "
        f"distance {slowest} with {hops[slowest] * 1e6:.0f} µs"
    )
    slow = hops[slowest] > SLOW * median
    hint = f"look at the pairs i → i + {slowest}" if slow else ""
    report.add(Finding("warning" if slow else "ok", "links", text, hint))
    if len(ends) <= TABLE and cluster.primary():
        print(latency_table(shifts, len(ends)), flush=True)
    for each in links.collectives(
        jax.devices(), SMALL if jax.devices()[0].platform == "cpu" else LARGE
    ):
        text = (
            f"{each.nbytes / 2**20:g} MiB over {jax.device_count()} devices in "
            f"{each.seconds * 1e3:.3g} ms: {each.algorithm / 1e9:.3g} GB/s, "
            f"bus {each.bus / 1e9:.3g} GB/s"
        )
        report.add(Finding("ok", each.name, text))


def latency_table(shifts: Sequence[links.Shift], count: int) -> str:
    """µs of a hop from row to column, as the receiver's process saw it."""
    lines = ["         µs from\\to " + "".join(f"{column:>7}" for column in range(count))]
    for row in range(count):
        cells = []
        for column in range(count):
            distance = (column - row) % count
            seconds = shifts[distance - 1].seconds if distance else ()
            own = column if len(seconds) == count else 0
            cells.append(f"{seconds[own] * 1e6:7.0f}" if distance else f"{'–':>7}")
        lines.append(f"         {row:>10} " + "".join(cells))
    return "\n".join(lines)


def check_hosts(report: Report) -> None:
    """Who takes part, and whether all run the same versions."""
    mine = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "devices": [d.id for d in jax.local_devices()],
        "versions": health.versions().text,
    }
    rows = [json.loads(text) for text in links.gather_text(json.dumps(mine))]
    for process, row in enumerate(rows):
        devices = row["devices"]
        shown = f"{devices[0]} to {devices[-1]}" if len(devices) > 1 else f"{devices[0]}"
        text = f"{process} on {row['host']}, pid {row['pid']}, devices {shown}"
        if row["versions"] == rows[0]["versions"]:
            report.add(Finding("ok", "process", text))
        else:
            hint = "install the same on all hosts"
            report.add(Finding("FAILED", "process", f"{text}: {row['versions']}", hint))


def check_config(report: Report, config: Any) -> None:
    """Whether system, mesh and batch fit the devices of this job."""
    try:
        system = systems.build(config)
        mesh = make_mesh(config.runtime.mesh)
        for batch in (config.batch, config.runtime.evaluate_batch):
            check_batch(batch, mesh)
    except UserError as error:
        report.add(Finding("FAILED", "config", str(error)))
        return
    report.add(Finding("ok", "config", f"{system.name}, batch {config.batch}, {dict(mesh.shape)}"))


def check_data(report: Report, config: Any) -> None:
    """Opens the training clips, decodes a few of them and times it."""
    try:
        source = _open_training(config)
    except Exception as error:  # a data set is the user's own code: anything may be raised
        report.add(Finding("FAILED", "data", _line(error)))
        return
    if source is None:
        text = f"{config.data.dataset} is not prepared yet in {config.data.directory}"
        report.add(Finding("warning", "data", text, "the trainer does it at its start"))
        return
    spec = assemble.recipe(config)
    count = min(CLIPS, len(source))
    records = [number * len(source) // count for number in range(count)]
    broken, began = [], time.monotonic()
    for record in records:
        try:
            spec.decode(source[record])
        except Exception as error:  # each storage has its own way to report a broken record
            broken.append(f"{record_name(source, record)} ({_line(error)})")
    seconds = time.monotonic() - began
    text = f"{len(source):,} training clips; {count} decoded in {duration(seconds)}"
    text += f", {count / seconds:.0f} a second and core"
    if broken:
        text = f"{len(broken)} of {count} clips cannot be read: {', '.join(broken)}"
        report.add(Finding("warning" if len(broken) < count else "FAILED", "data", text))
        return
    report.add(Finding("ok", "data", text))


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _open_training(config: Any) -> Source | None:
    """The training clips; None when the data set is yet to be prepared."""
    data = config.data
    if data.source == "files":
        if not data.root:
            raise UserError("data.root is empty: give the folder of clips, --config.data.root=DIR")
        return open_folder(data.root, data.captions, split="train", holdout=data.holdout)
    builder = make_builder(data.dataset, data.directory, data.options.to_dict())
    return open_tfds(str(builder.data_dir), "train") if builder.is_prepared() else None


def check_shared(report: Report, workdir: str) -> None:
    """Whether all processes see what process 0 writes into the working directory."""
    if cluster.count() == 1:
        return
    directory = storage(workdir)
    token = cluster.from_primary("doctor", lambda: f".doctor-{os.getpid()}-{time.time_ns()}")
    if cluster.primary():
        (directory / token).write_text(token)
    links.gather(0.0)  # everyone waits until it is written
    seen = (directory / token).exists()
    links.gather(0.0)  # and until everyone has looked
    if cluster.primary():
        (directory / token).unlink()
    hint = "it must lie on storage that all hosts share, or be gs://… or s3://…"
    text = f"{workdir} is {'shared' if seen else 'not the one of process 0'}"
    report.add(Finding("ok", "shared", text) if seen else Finding("FAILED", "shared", text, hint))


def check_checkpoints(report: Report, config: Any, workdir: str) -> None:
    """Every file of every checkpoint against its manifest; on process 0."""
    if not cluster.primary():
        return
    place = storage(workdir) / "checkpoints"
    checkpoints = Checkpoints(place, keep=config.runtime.keep, read_only=True)
    try:
        found = checkpoints.verify()
    finally:
        checkpoints.close()
    if not found:
        report.add(Finding("warning", "checkpoints", f"{place} holds none", "train first"))
    good = sorted(step for step, problems in found.items() if not problems)
    for step, problems in sorted(found.items()):
        if problems:
            text = f"step {step} is damaged: {'; '.join(problems[:3])}"
            hint = f"a run goes on from step {good[-1]}" if good else "there is no good one"
            report.add(Finding("warning" if good else "FAILED", "checkpoints", text, hint))
    if good:
        report.add(Finding("ok", "checkpoints", f"verified: steps {', '.join(map(str, good))}"))
