"""`launch/tpu_vm.sh` against a stand-in for gcloud: two hosts that are folders."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "launch/tpu_vm.sh"
GCLOUD = """#!/usr/bin/env bash
echo "$*" >>"$ROOM/calls"
shift 2
case "$1 $2" in
  "queued-resources describe") cat "$ROOM/state" 2>/dev/null ;;
  "queued-resources delete") rm "$ROOM/state" ;;
  "queued-resources create") echo ACTIVE >"$ROOM/state" ;;
  "tpu-vm scp") for host in 0 1; do cp "$3" "$ROOM/host$host/"; done ;;
  "tpu-vm ssh")
    while [[ $1 != --command ]]; do shift; done
    for host in 0 1; do
      (
        cd "$ROOM/host$host"
        if [[ $2 == mkdir* ]]; then # packages are there already
          mkdir -p weavejax && tar -C weavejax -xzf weavejax.tar.gz
        else
          HOME=$PWD HOST=$host bash -c "$2"
        fi
      ) &
    done
    wait
    ;;
esac
"""
# Ends with the statuses of STATUSES, one a start; host 0 loses the slice when it ends with 143.
PYTHON = """#!/usr/bin/env bash
n=$(cat ~/starts 2>/dev/null || echo 0)
echo $((n + 1)) >~/starts
echo "host $HOST start $n: $*"
codes=($STATUSES)
[[ ${codes[n]} != 143 || $HOST != 0 ]] || echo SUSPENDED >"$ROOM/state"
exit "${codes[n]}"
"""


@pytest.fixture
def slice_(tmp_path):
    """Runs the script; the status and what it printed."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/gcloud").write_text(GCLOUD)
    (tmp_path / "bin/gcloud").chmod(0o755)
    for host in ("host0", "host1"):
        (tmp_path / host / "venv/bin").mkdir(parents=True)
        (tmp_path / host / "venv/bin/python").write_text(PYTHON)
        (tmp_path / host / "venv/bin/python").chmod(0o755)

    def run(statuses, *flags, workdir="gs://bucket/gram"):
        names = {"NAME": "n", "ZONE": "z", "TYPE": "v6e-8", "CONFIG": "configs/gram.py"}
        places = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "ROOM": str(tmp_path)}
        process = subprocess.run(
            ["bash", str(SCRIPT), *flags],
            env={
                **os.environ,
                **names,
                **places,
                "WORKDIR": workdir,
                "STATUSES": statuses,
                "PAUSE": "0.05",
                "RESTARTS": "2",
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return process.returncode, process.stdout + process.stderr

    return run


def test_a_crash_goes_on_in_place_and_a_lost_slice_is_made_anew(slice_, tmp_path):
    status, printed = slice_("1 143 0", "--config.steps=3", "--config.data.root=my clips")
    assert status == 0, printed
    flags = "--workdir=gs://bucket/gram --config.steps=3 --config.data.root=my clips"
    for host in (0, 1):
        for start in (0, 1, 2):
            assert (
                f"host {host} start {start}: -m weavejax.train --config=configs/gram.py {flags}"
                in (printed)
            )
    calls = (tmp_path / "calls").read_text()
    assert calls.count("queued-resources create n --zone z --node-id n") == 2
    assert calls.count("queued-resources delete n --zone z --force") == 1


@pytest.mark.parametrize(("statuses", "expected"), [("2", 2), ("1 1 5", 5)])
def test_a_mistake_and_a_crash_too_many_end_it(slice_, statuses, expected):
    assert slice_(statuses)[0] == expected


def test_a_local_workdir_is_refused(slice_, tmp_path):
    status, printed = slice_("0", workdir="/tmp/x")
    assert status == 2
    assert "the hosts share no disk" in printed
    assert not (tmp_path / "calls").exists()
