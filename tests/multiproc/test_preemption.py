"""SIGTERM to any one process at any time: all save the same step and leave with status 75."""

import signal
import time

import pytest
from jobs import Job, assert_same_run, events_of, final_state, read_rows, step_of

TOLD = "another process of the job was asked to stop"


def test_while_training_the_resumed_run_is_bit_for_bit_the_same(flags, whole, tmp_path):
    workdir = tmp_path / "run"
    with Job(2, tmp_path, *flags, "--workdir", workdir) as job:
        job.until(lambda: step_of(workdir) >= 4)
        job.signal(1)
        job.done(75)
        assert "SIGTERM: saving and leaving" in job.log(1)
        assert TOLD in job.log(0)
    step, _ = final_state(workdir)
    assert 4 <= step < 24
    stops = [read_rows(workdir / "events" / f"process-{n}.jsonl")[-1] for n in (0, 1)]
    assert [row["step"] for row in stops] == [step, step]
    with Job(2, tmp_path, *flags, "--workdir", workdir) as job:
        job.done()
    assert_same_run(whole, workdir)


def rendering(job, workdir, data):
    return any(data.glob(".foley_world-staging/**/*.clip")) or any(data.iterdir())


def compiling(job, workdir, data):
    return "restore" in events_of(workdir)


@pytest.mark.parametrize("phase", [rendering, compiling])
def test_before_the_first_step_there_is_nothing_to_save(phase, flags, tmp_path):
    workdir, data = tmp_path / "run", tmp_path / "data"
    cold = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled")}
    data.mkdir()
    fresh = (
        (f"--config.data.directory={data}",) if phase is rendering else ("--config.system=gram",)
    )
    with Job(2, tmp_path, *flags, *fresh, "--workdir", workdir, environment=cold) as job:
        job.until(lambda: phase(job, workdir, data))
        began = time.monotonic()
        job.signal(1)
        job.done(75)
        assert time.monotonic() - began < 15
        assert "nothing to save yet" in job.log(0)
    assert step_of(workdir) == 0


def test_while_evaluating(flags, tmp_path):
    workdir = tmp_path / "run"
    slow = ("--config.runtime.evaluate_every=3", "--config.runtime.evaluate_batch=4")
    with Job(2, tmp_path, *flags, *slow, "--workdir", workdir) as job:
        # The row of a step is closed right before its evaluation begins.
        job.until(lambda: step_of(workdir) == 3)
        job.signal(1)
        job.done(75)
    step, _ = final_state(workdir)
    assert step >= 3
    with Job(2, tmp_path, *flags, *slow, "--workdir", workdir) as job:
        job.done()
    rows = [row for row in read_rows(workdir / "metrics.jsonl") if row["kind"] == "eval"]
    assert [row["step"] for row in rows] == list(range(3, 25, 3))


def test_while_saving(flags, tmp_path):
    workdir = tmp_path / "run"
    often = ("--config.runtime.save_every=1", "--config.runtime.evaluate_every=0")
    with Job(2, tmp_path, *flags, *often, "--workdir", workdir) as job:
        job.until(lambda: any((workdir / "checkpoints").glob("*.saving")))
        job.signal(0)
        job.done(75)
    step, _ = final_state(workdir)
    assert step >= 1


def test_a_second_signal_leaves_at_once(flags, tmp_path):
    workdir = tmp_path / "run"
    with Job(1, tmp_path, *flags, "--config.steps=100000", "--workdir", workdir) as job:
        job.until(lambda: step_of(workdir) >= 2)
        job.signal(0, signal.SIGSTOP)  # so that both arrive before anything can be done
        job.signal(0)
        job.until(lambda: True)
        job.signal(0, signal.SIGCONT)
        job.until(lambda: "SIGTERM: saving" in job.log(0), seconds=20)
        job.signal(0)
        assert job.wait(20) in ([143], [75])
