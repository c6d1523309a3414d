"""Runs whose storage fills up for a while, or is an object store."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from door import ROOT, SMOKE, run

from weavejax.errors import UserError
from weavejax.runtime.records import read_rows
from weavejax.runtime.workdir import check_workdir

pytest.importorskip("moto")

# Every file of a checkpoint is a request or more to the local store, which is slow.
FEW_PARAMETERS = ("--config", "configs/envelope.py:smoke", "--config.model.features=('motion',)")


def fill(disk):
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def test_training_goes_on_while_the_disk_is_full(trained, world, small_disk):
    disk = small_disk(24)
    workdir = disk / "run"
    flags = ("--config.steps=100000", "--config.runtime.save_every=10")
    flags += ("--config.runtime.evaluate_every=0", "--config.runtime.log_every=5")
    storage = ("--config.runtime.storage.retry=0.5", "--config.runtime.storage.alarm=2")
    command = [sys.executable, "-m", "weavejax.train", *SMOKE, *world, *flags, *storage]
    log = disk.parent / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--workdir", str(workdir)],
            cwd=ROOT,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            stdout=file,
            stderr=subprocess.STDOUT,
        )

    def until(reached, seconds=120):
        deadline = time.monotonic() + seconds
        while not reached():
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.02)

    def steps():
        return [int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()]

    try:
        until(lambda: steps())
        fill(disk)
        until(lambda: "ALARM: 2 saves in a row have failed" in log.read_text())
        good = max(steps(), default=0)
        said = log.read_text().count("step ")
        until(lambda: log.read_text().count("step ") > said + 3)  # training goes on
        (disk / "filler").unlink()
        until(lambda: max(steps(), default=0) > good)
        process.terminate()
        assert process.wait(60) == 75
    finally:
        process.kill()
    rows = [row["step"] for row in read_rows(workdir / "metrics.jsonl") if row["kind"] == "train"]
    assert rows == list(range(5, rows[-1] + 1, 5))  # none was lost


@pytest.fixture(scope="module")
def store():
    """A local object store: its environment variables."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    environment = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": address,
    }
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(urllib.request.Request(f"{address}/bucket", method="PUT"))
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield environment
    finally:
        server.kill()
        server.wait()


def test_run_and_data_may_lie_on_an_object_store(world, store, tmp_path):
    prepared = world[0].split("=")[1]
    room = tmp_path / "data"
    shutil.copytree(prepared, room, ignore=shutil.ignore_patterns("decoded", ".*"))
    copy = (
        "import sys, pathlib; from weavejax.storage import storage, upload;"
        "upload(pathlib.Path(sys.argv[1]), storage('s3://bucket/data'))"
    )
    environment = {**os.environ, **store}
    subprocess.run([sys.executable, "-c", copy, str(room)], env=environment, cwd=ROOT, check=True)
    flags = (
        *FEW_PARAMETERS,
        "--config.data.directory=s3://bucket/data",
        f"--config.data.local={tmp_path}/local",
        f"--config.data.cache={tmp_path}/decoded",
        "--workdir",
        "s3://bucket/run",
    )
    first = run("train", *flags, environment=store)
    assert "everything is in s3://bucket/run" in first.stdout
    again = run("train", *flags, environment=store)
    assert "resumed from the checkpoint of step 6" in again.stdout
    table = [line for line in first.stdout.splitlines() if line.startswith("| e_l1")]
    assert table == [line for line in again.stdout.splitlines() if line.startswith("| e_l1")]
    evaluated = run("evaluate", "--workdir", "s3://bucket/run", environment=store)
    assert table[0] in evaluated.stdout.splitlines()


def test_an_unknown_store_or_a_missing_one_is_refused():
    for place, words in (("ftp://a/b", "is none of gs, s3"), ("gs://a/b", r"weavejax\[gs\]")):
        with pytest.raises(UserError, match=words):
            check_workdir(place, None)
