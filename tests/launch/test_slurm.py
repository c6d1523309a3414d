"""`launch/slurm.sbatch` as SLURM would run it, with stand-ins for srun and scontrol.

The stand-in sets what srun sets for each task; joining the job, the port and the exit statuses are
those of the real thing.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).parents[2]
SRUN = f"""#!{sys.executable}
import os, signal, subprocess, sys
options = [a for a in sys.argv[1:] if a.startswith("--")]
command = sys.argv[1:]
while command[0].startswith("--"):
    command.pop(0)
print("srun", *options[: len(sys.argv) - 1 - len(command)], flush=True)
tasks = []
for task in range(2):
    step = {{
        "SLURM_JOB_ID": os.environ["SLURM_JOB_ID"], "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2",
        "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_NODES": "1", "SLURM_PROCID": str(task),
        "SLURM_LOCALID": str(task),
    }}
    tasks.append(subprocess.Popen(command, env={{**os.environ, **step}}))
# As SLURM: --signal goes to the tasks, so this test sends it here.
signal.signal(signal.SIGTERM, lambda *_: [t.send_signal(signal.SIGTERM) for t in tasks])
codes = [task.wait() for task in tasks]
sys.exit(max(c if c >= 0 else 128 - c for c in codes))
"""


def free_job():
    """A job number whose coordinator port (61440 + number mod 4096, as JAX has it) is free."""
    for number in range(os.getpid() % 4096, os.getpid() % 4096 + 4096):
        with socket.socket() as probe:
            try:
                probe.bind(("", 61440 + number % 4096))
            except OSError:
                continue
        return number
    raise AssertionError("no free port")


@pytest.fixture
def submit(tmp_path):
    """Runs the script on two tasks that are a Python text (None: the real trainer)."""
    processes = []

    def run(script, *flags, **environment):
        tools = tmp_path / "bin"
        tools.mkdir()
        for name, text in (
            ("srun", SRUN),
            ("scontrol", f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\n'),
        ):
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
        if script is not None:
            (tmp_path / "task.py").write_text(script)
            python = tools / "python"
            python.write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path}/task.py "$@"\n')
            python.chmod(0o755)
        variables = {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "VENV": str(tmp_path) if script is not None else sys.prefix,
            "CONFIG": "configs/gram.py:smoke",
            "WORKDIR": str(tmp_path / "run"),
            "SLURM_JOB_ID": str(free_job()),
            "SLURM_SUBMIT_DIR": str(ROOT),
            "SLURM_CPUS_PER_TASK": "1",
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": "1",
            "ROOM": str(tmp_path),
            "PYTHONPATH": str(ROOT),
        }
        process = subprocess.Popen(
            ["bash", str(ROOT / "launch/slurm.sbatch"), *flags],
            env={**os.environ, **variables, **environment},
            cwd=tmp_path,  # SLURM starts it where it likes
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


JOIN = """
import os
import sys
import jax
from weavejax.runtime import cluster
cluster.start("auto")
total = cluster.any_process(jax.process_index() == 1)
# In one piece: both tasks write into the same pipe.
line = f"joined {jax.process_index()} of {jax.process_count()} {total} {sys.argv[1:]}\\n"
os.write(1, line.encode())
cluster.shutdown()
"""


def test_two_tasks_become_one_job(submit, tmp_path):
    process = submit(JOIN, "--config.steps=3")
    printed, _ = process.communicate(timeout=100)
    assert process.returncode == 0, printed
    for number in (0, 1):
        arguments = (
            f"['-m', 'weavejax.train', '--config=configs/gram.py:smoke', '--workdir={tmp_path}"
        )
        assert f"joined {number} of 2 True {arguments}/run', '--config.steps=3']" in printed
    assert "srun --gpu-bind=none --kill-on-bad-exit=0 --wait=60" in printed
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize(
    ("status", "restarts", "requeued"),
    [("0", 0, False), ("2", 0, False), ("75", 90, True), ("1", 3, True), ("1", 20, False)],
)
def test_what_ends_the_job_and_what_starts_it_again(submit, tmp_path, status, restarts, requeued):
    process = submit(f"raise SystemExit({status})", SLURM_RESTART_COUNT=str(restarts))
    printed, _ = process.communicate(timeout=20)
    assert process.returncode == int(status), printed
    asked = (tmp_path / "asked").read_text() if (tmp_path / "asked").exists() else ""
    assert asked.startswith("requeue ") == requeued


WAIT = """
import os, pathlib, signal, sys, time
count = []
signal.signal(signal.SIGTERM, lambda *_: count.append(1))
(pathlib.Path(os.environ["ROOM"]) / f"ready-{os.environ['SLURM_PROCID']}").touch()
while not count: time.sleep(0.01)
time.sleep(0.5)
os.write(1, f"signals {len(count)}\\n".encode())
sys.exit(75)
"""


@pytest.mark.parametrize("cancelled", [False, True])
def test_preempted_it_starts_again_and_cancelled_it_waits_for_the_save(submit, tmp_path, cancelled):
    process = submit(WAIT)
    deadline = time.monotonic() + 20
    while not all((tmp_path / f"ready-{n}").exists() for n in (0, 1)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    if cancelled:  # scancel: the script hears it as well as the tasks
        process.send_signal(signal.SIGTERM)
    (srun,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(srun), signal.SIGTERM)
    printed, _ = process.communicate(timeout=20)
    assert process.returncode == 75
    assert printed.count("signals 1") == 2
    assert (tmp_path / "asked").exists() != cancelled


@pytest.mark.parametrize("missing", ["CONFIG", "WORKDIR"])
def test_a_missing_setting_is_named(submit, missing):
    process = submit("", **{missing: ""})
    printed, _ = process.communicate(timeout=20)
    assert process.returncode != 0
    assert f"{missing}: a " in printed


def test_a_container_mounts_checkout_and_workdir(submit, tmp_path):
    process = submit("", IMAGE="registry/weavejax@sha256:0")
    printed, _ = process.communicate(timeout=20)
    assert "--container-image=registry/weavejax@sha256:0" in printed
    assert f"--container-mounts={ROOT},{tmp_path}/run" in printed


def test_the_real_trainer_trains_under_it(submit, tmp_path):
    clips = tmp_path / "clips"
    clips.mkdir()
    for number in range(4):
        wave = np.sin(np.arange(16000) * 0.02 * (number + 1)).astype(np.float32)
        soundfile.write(clips / f"tone {number}.wav", wave, 16000)
    process = submit(
        None,
        "--config.data.source=files",
        f"--config.data.root={clips}",
        f"--config.data.cache={tmp_path}/cache",
        "--config.model.features=('motion',)",  # of all systems this one compiles fastest
        "--config.inputs.labels=sound",
        "--config.batch=4",
        "--config.runtime.evaluate_batch=4",
        "--config.runtime.evaluate_every=0",
        "--config.steps=2",
        CONFIG="configs/envelope.py:smoke",
    )
    printed, _ = process.communicate(timeout=280)
    assert process.returncode == 0, printed
    assert "process 1 of 2" in printed
    assert (tmp_path / "run/results.json").exists()
    assert printed.count("done in") == 1
