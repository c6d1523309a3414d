"""Killed and started again, a job of two processes ends with the bits of one that was not."""

import signal

from jobs import Job, assert_same_run, step_of


def test_two_processes_killed_twice_end_bit_for_bit_the_same(flags, whole, tmp_path):
    workdir = tmp_path / "run"
    saving = ("--config.runtime.save_every=3", "--workdir", workdir)
    for kill_after in (4, 8):
        with Job(2, tmp_path, *flags, *saving) as job:
            job.until(lambda reached=kill_after: step_of(workdir) >= reached)
            for number in (0, 1):
                job.signal(number, signal.SIGKILL)
    assert step_of(workdir) < 24, "the run ended before it could be killed"
    with Job(2, tmp_path, *flags, *saving) as job:
        job.done()
        assert "resumed from the checkpoint of step" in job.log(0)
    assert_same_run(whole, workdir)
