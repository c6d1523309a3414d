"""The same global batches and losses on any number of processes and any mesh."""

import pytest
from jobs import Job, assert_near_run, final_state, step_of


@pytest.mark.parametrize(
    ("processes", "mesh"),
    [
        (1, ("--config.runtime.mesh.data=2", "--config.runtime.mesh.model=2")),
        # The model axis lies across processes here: pairs of them hold the same clips.
        (4, ("--config.runtime.mesh.data=2", "--config.runtime.mesh.model=2")),
    ],
)
def test_any_number_of_processes_trains_alike(flags, whole, tmp_path, processes, mesh):
    with Job(processes, tmp_path, *flags, *mesh, "--workdir", tmp_path / "run") as job:
        job.done()
    assert_near_run(whole, tmp_path / "run")


def test_a_second_start_on_several_devices_does_not_hang(flags, tmp_path):
    """It reads no program back: those for several CPU devices would wait for one another."""
    kept = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled")}
    mesh = ("--config.runtime.mesh.data=2", "--config.runtime.mesh.model=2", "--config.steps=4")
    for start in ("first", "second"):
        folder = tmp_path / start
        with Job(1, folder, *flags, *mesh, "--workdir", folder / "run", environment=kept) as job:
            assert job.wait(60) == [0], job.log(0)[-3000:]
    assert_near_run(tmp_path / "first/run", tmp_path / "second/run")


def test_gram_trains_alike_on_two_processes_and_on_one(flags, tmp_path):
    gram = (*flags, "--config.system=gram", "--config.steps=3")
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        flags = (*gram, "--workdir", folder / "run")
        with Job(processes, folder, *flags) as job:
            job.done()
    assert_near_run(tmp_path / "1/run", tmp_path / "2/run")


def test_a_run_stops_on_two_processes_and_goes_on_on_one(flags, whole, tmp_path):
    workdir = tmp_path / "run"
    with Job(2, tmp_path, *flags, "--workdir", workdir) as job:
        job.until(lambda: step_of(workdir) >= 4)
        job.signal(0)
        job.done(75)
    step, stored = final_state(workdir)
    assert 4 <= step < 24
    assert stored["step"] == step  # all there is of the state of the data
    with Job(1, tmp_path, *flags, "--workdir", workdir) as job:
        job.done()
        assert f"resumed from the checkpoint of step {step}" in job.log(0)
    assert_near_run(whole, workdir)
