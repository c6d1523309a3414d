"""`launch/when.sh`, with a small script in the place of weavejax."""

import os
import signal
import time
from functools import partial

import pytest
from stand_in import starter

RUNS = ("base", "envelope", "folai", "gram", "onset", "oobleck", "syncfusion")
# Notes when it began and ended and on which cores; leaves what the next one reads.
STAND_IN = """
import json, os, pathlib, signal, sys, time
room, door = pathlib.Path(os.environ["ROOM"]), sys.argv[2].removeprefix("weavejax.")
given = dict(zip(sys.argv, sys.argv[1:]))
run = pathlib.Path(given.get("--workdir", given.get("--out", door)))
name = f"{door} {run.name}"
log = (room / "log").open("a")
def note(word):
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else {0}
    print(word, name, ",".join(map(str, sorted(cores))), file=log, flush=True)
def stop(*_):
    time.sleep(0.3)
    note("saved")
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
note("began")
(room / f"{door}-{run.name}.flags").write_text(" ".join(sys.argv))
if door == "train":
    time.sleep(float(os.environ.get("SECONDS_EACH", "0")))
meeting = os.environ.get("MEETING", "").split()
while run.name in meeting and not all((room / f"train-{one}.flags").exists() for one in meeting):
    time.sleep(0.05)  # until the other is there, too
if os.environ.get("FAILS") == name:
    sys.exit(3)
if door == "train":
    run.mkdir(parents=True, exist_ok=True)
    (run / "results.json").write_text(json.dumps({"results": {"latents/scale": 0.5}}))
print("done with", run.name)
note("ended")
"""


@pytest.fixture
def start(tmp_path):
    """Starts when.sh for seed 0; ends what is left afterwards."""
    with starter(tmp_path) as started:
        yield partial(started, STAND_IN, "when.sh", "0", WORKDIR=str(tmp_path / "runs"))


def lines(tmp_path):
    """(word, door, run, cores) of everything noted so far."""
    log = tmp_path / "log"
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_every_network_is_trained_once_and_in_order(start, tmp_path, jobs):
    process = start(JOBS=jobs, FLAGS="--config.steps=20")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    ended = [(door, run) for word, door, run, _ in lines(tmp_path) if word == "ended"]
    assert sorted(run for door, run in ended if door == "train") == sorted(RUNS)
    place = {one: number for number, one in enumerate(ended)}
    for earlier, later in (
        (("train", "onset"), ("evaluate", "syncfusion")),
        (("train", "oobleck"), ("extract", "latents")),
        (("train", "gram"), ("extract", "latents")),
        (("extract", "latents"), ("train", "base")),
        (("train", "base"), ("train", "folai")),
        (("train", "folai"), ("evaluate", "folai")),
        (("train", "envelope"), ("evaluate", "folai")),
    ):
        assert place[earlier] < place[later]
    assert ended[-1] == ("evaluate", "evaluate")  # the tables
    base = (tmp_path / "train-base.flags").read_text()
    assert "--config.steps=20" in base
    assert "--config.data.options.test=64" in base
    assert "--config.model.latent_scale=0.5" in base
    assert ("[1] done with gram" in output) == (jobs == "2")

    again = start(JOBS=jobs)
    again.communicate(timeout=60)
    assert again.returncode == 0
    begun = [(door, run) for word, door, run, _ in lines(tmp_path)[2 * len(ended) :]]
    assert [run for door, run in begun if door in ("train", "extract")] == []


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs two cores that processes can be bound to",
)
def test_halves_run_at_once_on_cores_of_their_own(start, tmp_path):
    process = start(JOBS="2", MEETING="envelope oobleck")
    process.communicate(timeout=60)
    assert process.returncode == 0
    cores = {
        run: set(cores.split(",")) for _, door, run, cores in lines(tmp_path) if door == "train"
    }
    assert cores["onset"] == cores["syncfusion"] == cores["envelope"]
    assert cores["oobleck"] == cores["gram"] == cores["folai"]
    assert not cores["onset"] & cores["oobleck"]


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_what_fails_ends_its_half_and_the_command(start, tmp_path, jobs):
    process = start(JOBS=jobs, FAILS="train gram")
    process.communicate(timeout=60)
    assert process.returncode == 3
    begun = {run for word, door, run, _ in lines(tmp_path) if door in ("train", "evaluate")}
    assert "base" not in begun
    assert "evaluate" not in begun  # the tables
    assert "syncfusion" in begun  # the other half goes on


def test_a_signal_reaches_both_and_waits_for_them_to_save(start, tmp_path):
    process = start(JOBS="2", SECONDS_EACH="20")
    while sum(word == "began" and door == "train" for word, door, *_ in lines(tmp_path)) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
    process.communicate(timeout=15)
    assert process.returncode in (75, 143)
    assert sum(word == "saved" for word, *_ in lines(tmp_path)) == 2
