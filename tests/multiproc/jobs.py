"""Jobs of real processes on this machine, for the tests of their promises."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from weavejax.runtime import tree
from weavejax.runtime.checkpoint import Checkpoints
from weavejax.runtime.records import read_rows

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SMOKE = (
    "--config",
    "configs/gram.py:smoke",
    "--config.system=toy",
    "--config.steps=24",
    "--config.optim.average=0.9",
    "--config.runtime.log_every=1",
    "--config.runtime.evaluate_batch=16",
)
TRAIN = (str(HERE / "faulty.py"),)
DEVICES = 4  # of a job, whatever its number of processes
PATIENCE = 240


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Job:
    """`processes` trainers that know of each other; use as a context manager: it leaves none alive.

    Args:
      processes: how many.
      folder: for their logs.
      flags: of the door.
      door: what Python runs; the train door, unless told.
      environment: added to every process's.
      each: flags by process, added to `flags`.
    """

    def __init__(self, processes, folder, *flags, door=TRAIN, environment=None, each=None):
        folder.mkdir(parents=True, exist_ok=True)
        self.logs = [folder / f"process-{number}.log" for number in range(processes)]
        address = f"127.0.0.1:{free_port()}"
        self.processes = []
        for number, log in enumerate(self.logs):
            own = {
                "WEAVEJAX_COORDINATOR": address,
                "WEAVEJAX_PROCESSES": str(processes),
                "WEAVEJAX_PROCESS": str(number),
                "WEAVEJAX_HEARTBEAT_SECONDS": "10",
                "JAX_PLATFORMS": "cpu",
                "JAX_NUM_CPU_DEVICES": str(DEVICES // processes),
                **(environment or {}),
            }
            command = [sys.executable, *door, *map(str, flags)]
            with open(log, "w") as file:
                self.processes.append(
                    subprocess.Popen(
                        [*command, *(each[number] if each else ())],
                        cwd=ROOT,
                        env={**os.environ, **own},
                        stdout=file,
                        stderr=subprocess.STDOUT,
                    )
                )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()  # a stopped one as well
            process.wait()

    def log(self, number):
        return self.logs[number].read_text()

    def wait(self, seconds=PATIENCE):
        """Exit statuses of all processes."""
        deadline = time.monotonic() + seconds
        try:
            return [p.wait(max(0.1, deadline - time.monotonic())) for p in self.processes]
        except subprocess.TimeoutExpired:
            logs = "\n".join(self.log(number)[-3000:] for number in range(len(self.logs)))
            raise AssertionError(f"still running after {seconds} s:\n{logs}") from None

    def done(self, status=0):
        """Waits, and checks that all processes left with `status`."""
        found = self.wait()
        logs = "\n".join(self.log(number)[-3000:] for number in range(len(self.logs)))
        assert found == [status] * len(found), f"{found}\n{logs}"

    def until(self, reached, seconds=PATIENCE):
        """Waits for `reached()`, as long as all processes live."""
        deadline = time.monotonic() + seconds
        while not reached():
            alive = all(process.poll() is None for process in self.processes)
            logs = "" if alive else "\n".join(self.log(n)[-3000:] for n in range(len(self.logs)))
            assert alive, f"ended too early:\n{logs}"
            assert time.monotonic() < deadline, "it takes too long"
            time.sleep(0.01)

    def signal(self, number, which=signal.SIGTERM):
        self.processes[number].send_signal(which)


def step_of(workdir):
    """Last step in the metrics."""
    rows = read_rows(workdir / "metrics.jsonl")
    return rows[-1]["step"] if rows else 0


def events_of(workdir, process=0):
    return [row["event"] for row in read_rows(workdir / "events" / f"process-{process}.jsonl")]


def rows_of(workdir):
    """Rows that are a pure function of config and data."""
    return [r for r in read_rows(workdir / "metrics.jsonl") if r["kind"] != "time"]


def final_state(workdir):
    """(step, every leaf) of the newest checkpoint, whose files are verified."""
    checkpoints = Checkpoints(workdir / "checkpoints", keep=2, read_only=True)
    step = checkpoints.newest_good()
    found = checkpoints.restore_raw(step)
    checkpoints.close()
    return step, {path: np.asarray(leaf) for path, leaf in tree.flatten(found).items()}


def assert_same_run(one, other):
    """Bit for bit: metrics, parameters, optimiser, average, guard."""
    assert [json.dumps(row) for row in rows_of(one)] == [json.dumps(row) for row in rows_of(other)]
    (step, straight), (again, resumed) = final_state(one), final_state(other)
    assert step == again
    assert straight.keys() == resumed.keys()
    for part in ("params/", "optimiser/", "average/", "guard/"):
        assert any(path.startswith(part) for path in straight)
    for path, leaf in straight.items():
        np.testing.assert_array_equal(resumed[path], leaf, err_msg=path)


def assert_near_run(one, other):
    """To reduction order: every number of every training row."""
    here, there = ([r for r in rows_of(w) if r["kind"] == "train"] for w in (one, other))
    assert [row["step"] for row in here] == [row["step"] for row in there]
    for a, b in zip(here, there, strict=True):
        for name in ("loss", "gradient norm", "learning rate"):
            np.testing.assert_allclose(a[name], b[name], rtol=2e-4, err_msg=f"{name} {a['step']}")
