"""One rendered world and one uninterrupted run for all tests here."""

import pytest
from jobs import SMOKE, Job


@pytest.fixture(scope="session")
def flags(once):
    """Flags of the smoke run, with data of this session."""
    room = once("world", lambda directory: None)
    return (*SMOKE, f"--config.data.directory={room}", f"--config.data.cache={room}/decoded")


@pytest.fixture(scope="session")
def whole(flags, once):
    """Working directory of an uninterrupted run of two processes."""

    def train(directory):
        with Job(2, directory, *flags, "--workdir", directory / "run") as job:
            job.done()

    return once("whole", train) / "run"
