"""A fault of one process ends the whole job within a bounded time, with the stacks printed."""

import signal
import time

import pytest
from jobs import Job, step_of

ENDLESS = ("--config.steps=100000", "--config.runtime.evaluate_every=0")
BOUND = 45  # seconds; the heartbeat is 10


def end(job):
    """Seconds until no process of the job is left, not counting one that is frozen."""
    began = time.monotonic()
    return job.wait(BOUND), time.monotonic() - began


def stacks(text):
    """Whether every thread's stack was printed."""
    return "most recent call first" in text and "train_loop" in text


@pytest.mark.parametrize("kind", ["raise", "sleep"])
def test_an_exception_or_a_stuck_process(kind, flags, tmp_path):
    deadline = ("--config.runtime.deadlines.step=8",)
    fault = {"FAULT": f"{kind}:5"}
    flags = (*flags, *ENDLESS, *deadline, "--workdir", tmp_path / "run")
    with Job(2, tmp_path, *flags, environment=fault) as job:
        job.until(lambda: step_of(tmp_path / "run") >= 3)
        statuses, seconds = end(job)
        assert all(statuses), statuses
        if kind == "raise":
            assert seconds < 25  # a heartbeat, not the minutes of JAX's own exit
            assert "ValueError: a fault for the test" in job.log(1)
            assert stacks(job.log(0))
        else:
            assert all("Timeout (0:00:" in job.log(number) for number in (0, 1))
            assert "time.sleep" in job.log(1) or "in before" in job.log(1)
            assert all(stacks(job.log(number)) for number in (0, 1))


@pytest.mark.parametrize("which", [signal.SIGKILL, signal.SIGSTOP])
def test_a_killed_or_frozen_process(which, flags, tmp_path):
    flags = (*flags, *ENDLESS, "--workdir", tmp_path / "run")
    with Job(2, tmp_path, *flags) as job:
        job.until(lambda: step_of(tmp_path / "run") >= 2)
        began = time.monotonic()
        job.signal(1, which)
        status = job.processes[0].wait(BOUND)
        assert status != 0
        assert time.monotonic() - began < BOUND
        assert stacks(job.log(0))


def test_process_0_dies(flags, tmp_path):
    """It carries the messages: without it the others must not wait."""
    flags = (*flags, *ENDLESS, "--workdir", tmp_path / "run")
    with Job(2, tmp_path, *flags) as job:
        job.until(lambda: step_of(tmp_path / "run") >= 2)
        job.signal(0, signal.SIGKILL)
        assert job.processes[1].wait(BOUND) != 0
        assert stacks(job.log(1))


def test_missing_processes_are_named(flags, tmp_path):
    patience = {"WEAVEJAX_START_SECONDS": "6", "WEAVEJAX_PROCESSES": "4"}
    flags = (*flags, "--workdir", tmp_path / "run")
    with Job(2, tmp_path, *flags, environment=patience) as job:
        job.done(2)
        for number in (0, 1):
            assert "these processes are missing: 2, 3" in job.log(number)
    assert not (tmp_path / "run").exists()


def test_another_config_on_one_process_is_named(flags, tmp_path):
    each = ((), ("--config.optim.lr=0.5",))
    flags = (*flags, "--workdir", tmp_path / "run")
    with Job(2, tmp_path, *flags, each=each) as job:
        assert all(job.wait(BOUND))
        assert "error: process 1 on" in job.log(1)
        assert "another config than process 0" in job.log(1)
