"""`launch/local.sh` and `launch/again.sh`, with small scripts in the place of the trainer."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stand_in import LAUNCH, starter

PREAMBLE = """
import os, pathlib, signal, sys, time
number = int(os.environ["WEAVEJAX_PROCESS"])
room = pathlib.Path(os.environ["ROOM"])
(room / f"pid-{number}").write_text(str(os.getpid()))
"""


@pytest.fixture
def start(tmp_path):
    """Starts local.sh on a script that stands in for the trainer; ends what is left afterwards."""
    with starter(tmp_path) as started:

        def launch(script, count=2, *flags, **environment):
            return started(PREAMBLE + script, "local.sh", str(count), *flags, **environment)

        yield launch


def wait_for(*paths):
    deadline = time.monotonic() + 20
    while not all(path.exists() and path.read_text() for path in paths):
        assert time.monotonic() < deadline, paths
        time.sleep(0.01)


def gone(pid):
    """Whether a process has ended (a zombie that nobody reaps counts)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_output_is_complete_prefixed_and_every_process_knows_its_place(start):
    process = start(
        "print(sys.argv[1:], os.environ['WEAVEJAX_COORDINATOR'], os.environ['WEAVEJAX_PROCESSES'])\n"
        "print('\\n'.join(f'line {i}' for i in range(20000)))\n"
        "print('to stderr', file=sys.stderr)\n",
        3,
        "--flag=two words",
        CONFIG="configs/x.py",
        WORKDIR="runs/x",
    )
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    lines = printed.splitlines()
    ports = set()
    for number in range(3):
        mine = [line[4:] for line in lines if line.startswith(f"[{number}] ")]
        assert [x for x in mine if x.startswith("line")] == [f"line {i}" for i in range(20000)]
        assert "to stderr" in mine
        first = next(x for x in mine if x.startswith("["))
        expected = ["-m", "weavejax.train", "--config=configs/x.py", "--workdir=runs/x"]
        assert first.startswith(str([*expected, "--flag=two words"]))
        address, processes = first.split("] ")[1].split()
        assert processes == "3"
        ports.add(address)
    assert len(ports) == 1
    assert len(lines) == 3 * 20002


@pytest.mark.parametrize("frozen", [False, True])
def test_when_one_fails_the_others_are_ended_even_if_frozen(start, tmp_path, frozen):
    script = (
        "if number == 1:\n"
        "    while not (room / 'pid-0').exists(): time.sleep(0.01)\n"
        "    time.sleep(0.3)\n"
        "    sys.exit(7)\n"
        + ("os.kill(os.getpid(), signal.SIGSTOP)\n" if frozen else "")
        + "time.sleep(60)\n"
    )
    began = time.monotonic()
    process = start(script, GRACE="1")
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 7
    assert time.monotonic() - began < 15
    assert "process 1 ended with status 7" in errors
    assert gone((tmp_path / "pid-0").read_text())


def test_workers_of_a_killed_process_end_with_it(start, tmp_path):
    script = (
        "import subprocess\n"
        "if number == 0:\n"
        "    worker = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "    (room / 'worker').write_text(str(worker.pid))\n"
        "    os.kill(os.getpid(), signal.SIGSTOP)\n"
        "while not (room / 'worker').exists(): time.sleep(0.01)\n"
        "sys.exit(3)\n"
    )
    process = start(script, GRACE="1")
    process.communicate(timeout=30)
    assert process.returncode == 3
    deadline = time.monotonic() + 5
    while not gone((tmp_path / "worker").read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 75), ("SIGINT", 130)])
def test_signals_are_forwarded_once(start, tmp_path, name, status):
    script = (
        "count = []\n"
        f"signal.signal(signal.{name}, lambda *_: count.append(1))\n"
        "(room / f'ready-{number}').write_text('y')\n"
        "while not count: time.sleep(0.01)\n"
        "time.sleep(0.5)\n"
        "print('signals', len(count), flush=True)\n"
        f"sys.exit({status})\n"
    )
    process = start(script)
    wait_for(tmp_path / "ready-0", tmp_path / "ready-1")
    process.send_signal(signal.Signals[name])
    printed, _ = process.communicate(timeout=20)
    assert process.returncode == status
    assert sorted(printed.splitlines()) == ["[0] signals 1", "[1] signals 1"]


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [((0, 0), 0), ((75, 75), 75), ((0, 75), 75), ((75, 9), 9), ((2, 2), 2)],
)
def test_the_status_is_that_of_the_first_failed_else_75_else_0(start, statuses, expected):
    process = start(f"time.sleep(0.3 * number)\nsys.exit({statuses}[number])", GRACE="5")
    process.communicate(timeout=20)
    assert process.returncode == expected


def test_a_wrong_count_prints_how_to_call_it():
    for arguments in ([], ["0"], ["two"]):
        process = subprocess.run(
            ["bash", str(LAUNCH / "local.sh"), *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == 2
        assert "launch/local.sh N --config FILE" in process.stderr


def again(tmp_path, statuses, **environment):
    """Runs again.sh on a command that leaves with one status after another; (status, starts)."""
    counter = tmp_path / "starts"
    counter.write_text("")
    script = (
        f"codes=({' '.join(map(str, statuses))}); n=$(wc -c <{counter}); printf x >>{counter}; "
    )
    process = subprocess.run(
        ["bash", str(LAUNCH / "again.sh"), "bash", "-c", script + "exit ${codes[n]}"],
        env={**os.environ, "PAUSE": "0.05", **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return process.returncode, len(counter.read_text())


@pytest.mark.parametrize(
    ("statuses", "environment", "expected"),
    [
        ((0,), {}, (0, 1)),
        ((2, 0), {}, (2, 1)),
        ((130, 0), {}, (130, 1)),
        ((1, 75, 137, 0), {}, (0, 4)),
        ((75, 75, 75, 0), {"RESTARTS": "0"}, (0, 4)),
        ((1, 1, 5, 0), {"RESTARTS": "2"}, (5, 3)),
        ((1, 75, 0), {"FINAL": "0 2 75"}, (75, 2)),
    ],
)
def test_again_starts_a_command_until_it_is_done(tmp_path, statuses, environment, expected):
    assert again(tmp_path, statuses, **environment) == expected


def test_again_passes_a_signal_on_and_does_not_start_again(tmp_path):
    script = (
        "import signal, sys, time, pathlib\n"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.3), sys.exit(75)))\n"
        f"pathlib.Path({str(tmp_path / 'ready')!r}).write_text('y')\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen(
        ["bash", str(LAUNCH / "again.sh"), sys.executable, "-c", script],
        env={**os.environ, "PAUSE": "0.05"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(tmp_path / "ready")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 75
    assert "again in" not in errors
