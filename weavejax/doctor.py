"""Say whether a job would run here, before it is started: hosts, devices, links, data, checkpoints.

  python -m weavejax.doctor
  python -m weavejax.doctor --config configs/gram.py --config.data.root DIR
  python -m weavejax.doctor --workdir runs/gram
  srun python -m weavejax.doctor --config configs/gram.py
  DOOR=doctor launch/local.sh 2 --workdir runs/gram

Start it as you would start the trainer, on the same hosts. Every line begins with "ok", "warning" or
"FAILED" and says how to mend what is not ok. Nothing is trained, rendered or changed.

Exit status: 0 when nothing failed, else 2. A check that does not come back is ended after --limit
seconds with the stacks of all threads.
"""

import contextlib
import faulthandler
import os
import sys
import threading
from collections.abc import Iterator, Sequence

from weavejax.errors import UserError
from weavejax.runs import examination
from weavejax.runtime import cli, cluster, events, health
from weavejax.runtime.health import Finding
from weavejax.runtime.workdir import read_config
from weavejax.storage import storage

FLAGS = {
    "workdir": "a run: checks its data and every checkpoint, says where its time went",
    "cluster": f"how processes find each other: {', '.join(cluster.KINDS)}; default auto",
    "limit": "seconds that a check may take, the wait for other processes included; default 120",
}


def main(argv: Sequence[str]) -> None:
    """One question after another; each has `--limit` seconds."""
    takes_config = any(a.lstrip("-").split("=")[0] == "config" for a in argv)
    arguments = cli.parse(argv, __doc__ or "", FLAGS, takes_config=takes_config)
    values, config = arguments.values, arguments.config
    if not (values["limit"] or "1").isdigit():
        raise UserError(f"--limit {values['limit']!r} is not a number of seconds")
    limit = float(values["limit"] or 120)
    if values["workdir"] and config is None:
        config = read_config(values["workdir"])

    with deadline("processes", limit, "not all of the job came: see what each one printed"):
        cluster.start(values["cluster"] or "auto")
    with deadline("devices", limit, "another process may hold them, or the driver is stuck"):
        found = health.devices()
    report = examination.Report()
    report.add(health.versions())
    report.add(found)
    examination.check_host(report, config, values["workdir"])
    with deadline("links", limit, "some processes cannot reach others: firewall, wrong interface?"):
        examination.check_links(report)
        examination.check_hosts(report)
    if config is not None:
        with deadline("data", limit, "the storage is slow or stuck; or give a larger --limit"):
            examination.check_config(report, config)
            examination.check_data(report, config)
    if values["workdir"]:
        with deadline("storage", limit, "the storage is slow or stuck; or give a larger --limit"):
            examination.check_shared(report, values["workdir"])
            examination.check_checkpoints(report, config, values["workdir"])
            if cluster.primary():
                print(events.describe(storage(values["workdir"])), flush=True)
    with deadline("end", limit, "another process did not come to its end: see what it printed"):
        status = report.close()
        if cluster.primary():
            print("nothing failed" if status == 0 else "something failed: see above", flush=True)
        cluster.shutdown()
    sys.exit(status)


@contextlib.contextmanager
def deadline(what: str, seconds: float, hint: str) -> Iterator[None]:
    """Ends this process with status 2 if the block takes longer."""

    def end() -> None:
        print(Finding("FAILED", what, f"no answer within {seconds:g} s", hint), flush=True)
        faulthandler.dump_traceback(all_threads=True)
        sys.stderr.flush()
        os._exit(2)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    # Should the block keep the interpreter's lock, the timer above cannot run: this one can.
    faulthandler.dump_traceback_later(seconds + 10, exit=True)
    try:
        yield
    finally:
        timer.cancel()
        faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    cli.launch(main)
