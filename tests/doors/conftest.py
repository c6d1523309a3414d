"""A small rendered world and one trained run, made once for all tests of the doors."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMOKE = ("--config", "configs/gram.py:smoke")


def run(door, *arguments, check=True, devices=1, environment=None):
    """A door as a user runs it: a process of its own, on CPU devices."""
    result = subprocess.run(
        [sys.executable, "-m", f"weavejax.{door}", *map(str, arguments)],
        cwd=ROOT,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(devices),
            **(environment or {}),
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if check:
        assert result.returncode == 0, result.stdout + result.stderr
    return result


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
