"""A poisoned batch on one process: refused by all, counted, named; then the job stops."""

import json

from jobs import Job, read_rows


def test_refused_steps_are_named_and_a_row_of_them_ends_the_job(flags, tmp_path):
    workdir = tmp_path / "run"
    limit = ("--config.guard.limit=3", "--config.runtime.save_every=2")
    flags = (*flags, *limit, "--workdir", workdir)
    with Job(2, tmp_path, *flags, environment={"FAULT": "nan:5"}) as job:
        job.done(2)
        assert "step 5 refused: loss nan" in job.log(0)
        for number in (0, 1):
            assert "error: 3 steps in a row were refused, the last is step 7" in job.log(number)
    rows = [r for r in read_rows(workdir / "metrics.jsonl") if r["kind"] == "train"]
    assert [row["refused steps %"] for row in rows if row["step"] in (4, 5, 6)] == [0, 100, 100]
    assert rows[-1]["loss"] is None
    refused = json.loads((workdir / "refused.json").read_text())
    assert refused["step"] == 7
    assert len(refused["clips"]) == 8
    assert len(set(refused["clips"])) == 8


def test_fewer_are_skipped_and_the_run_goes_on(flags, tmp_path):
    workdir = tmp_path / "run"
    flags = (*flags, "--workdir", workdir)
    with Job(1, tmp_path, *flags, environment={"FAULT": "nan:5", "FAULT_PROCESS": "0"}) as job:
        job.done()
    rows = [r for r in read_rows(workdir / "metrics.jsonl") if r["kind"] == "train"]
    assert [row["refused steps %"] for row in rows] == [0] * 4 + [100] * 3 + [0] * 17
    assert rows[7]["loss"] is not None
