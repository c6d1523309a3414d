"""One rendered world, one cache of compiled programs, one uninterrupted run for all tests here."""

import pytest
from jobs import SMOKE, Job


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """Directory of compiled programs."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="session")
def flags(tmp_path_factory):
    """Flags of the smoke run, with data of this session."""
    room = tmp_path_factory.mktemp("multiproc-world")
    return (*SMOKE, f"--config.data.directory={room}", f"--config.data.cache={room}/decoded")


@pytest.fixture(scope="session")
def whole(flags, compiled, tmp_path_factory):
    """Working directory of an uninterrupted run of two processes."""
    folder = tmp_path_factory.mktemp("whole")
    with Job(2, folder, compiled, *flags, "--workdir", folder / "run") as job:
        job.done()
    return folder / "run"
