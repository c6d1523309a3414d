"""`weavejax.doctor` as a user runs it."""

import json
import os
import shutil
import subprocess
import sys
import time

import jax
import pytest
from door import ROOT, SMOKE, run

from weavejax import doctor
from weavejax.runs import examination
from weavejax.runtime import health, links
from weavejax.runtime.links import Shift


def lines_of(printed):
    """(status, what) → text, of every finding."""
    rows = [line.split(maxsplit=2) for line in printed.splitlines()]
    known = ("ok", "warning", "FAILED")
    return {(row[0], row[1]): row[2] for row in rows if len(row) == 3 and row[0] in known}


@pytest.fixture
def examine(capfd, monkeypatch):
    """examine(flag, …) → (exit status, findings) of the doctor in this process, of eight devices."""
    monkeypatch.chdir(ROOT)

    def examined(*flags):
        with pytest.raises(SystemExit) as left:
            doctor.main([*map(str, flags)])
        return left.value.code, lines_of(capfd.readouterr().out)

    return examined


def test_without_arguments_it_looks_at_host_devices_and_links():
    process = run("doctor", devices=4)
    found = lines_of(process.stdout)
    assert "jax " in found["ok", "versions"]
    assert found["ok", "devices"].startswith("4 × cpu")
    # On a busy machine one distance may look slow; that is for the reader to judge.
    text = found.get(("ok", "links")) or found["warning", "links"]
    assert "3 shifts among 4 devices" in text
    assert "16 MiB over 4 devices" in found["ok", "all-reduce"]
    assert "GB/s" in found["ok", "all-gather"]
    assert f"0 on {os.uname().nodename}, pid" in found["ok", "process"]
    assert process.stdout.splitlines()[-1] == "nothing failed"
    table = process.stdout.splitlines()
    start = next(i for i, line in enumerate(table) if "from\\to" in line)
    assert all(float(cell) > 0 for cell in table[start + 1].split()[2:])


def test_of_a_run_it_decodes_clips_and_verifies_checkpoints(trained, examine, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(trained[0], workdir)
    status, found = examine("--workdir", workdir)
    assert status == 0
    assert found["ok", "config"].startswith("gram, batch 8")
    assert found["ok", "data"].startswith("24 training clips; 8 decoded in")
    assert "verified: steps 6, 12" in found["ok", "checkpoints"]

    files = [p for p in (workdir / "checkpoints/12").rglob("*") if p.is_file()]
    largest = max(files, key=lambda p: p.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    status, found = examine("--workdir", workdir)
    assert status == 0
    assert "12 is damaged" in found["warning", "checkpoints"]
    assert "a run goes on from step 6" in found["warning", "checkpoints"]
    assert "verified: steps 6" in found["ok", "checkpoints"]
    shutil.rmtree(workdir / "checkpoints/6")
    status, found = examine("--workdir", workdir)
    assert status == 2
    assert "there is no good one" in found["FAILED", "checkpoints"]


def test_data_that_is_not_there_yet_is_a_warning_and_is_not_made(examine, tmp_path):
    flags = (f"--config.data.directory={tmp_path}/data", f"--config.data.cache={tmp_path}/c")
    status, found = examine(*SMOKE, *flags)
    assert status == 0
    assert "not prepared yet" in found["warning", "data"]
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("flags", "config", "data"),
    [
        (
            ["--config.batch=3", "--config.data.source=files"],
            "a batch of 3 does not divide over 8 batch shards",
            "give the folder of clips",
        ),
        (
            ["--config.loss.score=volum", "--config.data.dataset=datasets/absent"],
            "'volum' is none of",
            "datasets/absent does not exist",
        ),
    ],
)
def test_what_would_stop_a_run_fails_by_name(flags, config, data, examine):
    status, found = examine(*SMOKE, *flags)
    assert status == 2
    assert config in found["FAILED", "config"]
    assert data in found["FAILED", "data"]


def test_bad_flags_are_one_line():
    process = run("doctor", "--limit", "soon", check=False)
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1].startswith("error: --limit 'soon'")


def test_a_check_that_hangs_is_ended_with_its_name_and_stacks():
    script = (
        "from weavejax.doctor import deadline\nimport time\n"
        "with deadline('links', 0.3, 'mend it'):\n    time.sleep(60)"
    )
    began = time.monotonic()
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=False
    )
    assert time.monotonic() - began < 40
    assert process.returncode == 2
    assert "FAILED   links        no answer within 0.3 s; mend it" in process.stdout
    assert "time.sleep" in process.stderr or "in <module>" in process.stderr


def test_peers_that_do_not_come_are_not_waited_for_in_vain():
    place = {"WEAVEJAX_COORDINATOR": "localhost:1", "WEAVEJAX_PROCESSES": "2"}
    process = subprocess.run(
        [sys.executable, "-m", "weavejax.doctor", "--limit", "1"],
        cwd=ROOT,
        env={**os.environ, **place, "WEAVEJAX_PROCESS": "1", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == 2
    assert "FAILED   processes    no answer within 1 s" in process.stdout


def test_two_processes_make_one_report(trained):
    process = subprocess.run(
        ["bash", "launch/local.sh", "2", "--workdir", str(trained[0])],
        cwd=ROOT,
        env={
            **os.environ,
            "DOOR": "doctor",
            "VENV": sys.prefix,
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": "1",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    for words in (
        "1 shifts among 2 processes",
        "process      0 on",
        "process      1 on",
        f"{trained[0]} is shared",
        "nothing failed",
    ):
        assert process.stdout.count(words) == 1, words


def test_a_slow_or_wrong_link_is_told(monkeypatch, capsys):
    shifts = [Shift(1, (1e-5,), ()), Shift(2, (1e-5,), ()), Shift(3, (9e-5,), ((2, 1),))]
    monkeypatch.setattr(links, "end_points", lambda: jax.devices()[:4])
    monkeypatch.setattr(links, "ring_shifts", lambda ends: shifts)
    monkeypatch.setattr(links, "collectives", lambda devices, sizes: [])
    report = examination.Report()
    examination.check_links(report)
    assert [f.status for f in report.findings] == ["FAILED", "warning"]
    assert "1 did not hear what 2 sent" in report.findings[0].text
    assert "i → i + 3" in report.findings[1].hint


def test_other_versions_on_another_host_fail(monkeypatch):
    row = {"host": "a", "pid": 1, "devices": [0], "versions": "jax 1"}
    rows = [json.dumps(row), json.dumps(row | {"versions": "jax 2"})]
    monkeypatch.setattr(links, "gather_text", lambda text: rows)
    report = examination.Report()
    examination.check_hosts(report)
    assert [f.status for f in report.findings] == ["ok", "FAILED"]
    assert "jax 2; install the same on all hosts" in str(report.findings[1])


def test_thresholds_of_the_host(monkeypatch, tmp_path):
    assert health.shared_memory(2**60).status == "FAILED"
    monkeypatch.setattr(health, "SHARED_MEMORY", tmp_path / "absent")
    assert health.shared_memory(2**60).status == "ok"
    assert health.disk("workdir", tmp_path / "a/b/c").status == "ok"
    monkeypatch.setattr(health.os, "access", lambda place, mode: False)
    assert "not writable" in health.disk("workdir", tmp_path).text
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:1")
    assert health.network(1).status == "ok"
    assert "HTTPS_PROXY set" in health.network(2).text
    monkeypatch.setattr(health.resource, "getrlimit", lambda which: (256, 256))
    assert health.open_files().status == "warning"
    monkeypatch.setattr(health, "PACKAGES", ("no-such-package",))
    assert health.versions().status == "FAILED"
