"""A small rendered world and one trained run, made once for all tests of the doors."""

import shutil
import subprocess

import pytest
from door import SMOKE, run


@pytest.fixture(scope="session")
def world(once):
    """Flags that put data sets and decoded clips into a directory of this session."""
    room = once("world", lambda directory: None)
    return (f"--config.data.directory={room}", f"--config.data.cache={room}/decoded")


@pytest.fixture(scope="session")
def trained(world, once, tmp_path_factory):
    """(working directory, what the run printed) of the smoke variant."""

    def train(directory):
        process = run("train", *SMOKE, *world, "--workdir", directory / "run")
        (directory / "stdout").write_text(process.stdout)

    made = once("trained", train)
    workdir = tmp_path_factory.mktemp("run") / "gram"
    shutil.copytree(made / "run", workdir)
    return workdir, (made / "stdout").read_text()


@pytest.fixture
def small_disk(tmp_path):
    """small_disk(megabytes) → a directory that is a file system of that size."""
    room = tmp_path / "small"

    def mounted(megabytes):
        room.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(room)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            room.rmdir()
            pytest.skip("mounting a small disk needs root")
        return room

    yield mounted
    if room.exists():
        subprocess.run(["umount", "-l", str(room)], check=True)
