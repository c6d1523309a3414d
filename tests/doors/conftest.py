"""A small rendered world and one trained run, made once for all tests of the doors."""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMOKE = ("--config", "configs/gram.py:smoke")


COMPILED = tempfile.mkdtemp(prefix="weavejax-compiled-")
atexit.register(shutil.rmtree, COMPILED, ignore_errors=True)


def run(door, *arguments, check=True, devices=1, environment=None):
    """A door as a user runs it: a process of its own, on CPU devices."""
    result = subprocess.run(
        [sys.executable, "-m", f"weavejax.{door}", *map(str, arguments)],
        cwd=ROOT,
        env={
            **os.environ,
            "JAX_COMPILATION_CACHE_DIR": COMPILED,
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
def world(tmp_path_factory):
    """Flags that put data sets and decoded clips into a directory of this session."""
    room = tmp_path_factory.mktemp("world")
    return (f"--config.data.directory={room}", f"--config.data.cache={room}/decoded")


@pytest.fixture(scope="session")
def compiled():
    """Environment of a door that is started otherwise: programs compiled once."""
    return {"JAX_COMPILATION_CACHE_DIR": COMPILED}


@pytest.fixture(scope="session")
def trained(world, tmp_path_factory):
    """(working directory, what the run printed) of the smoke variant."""
    workdir = tmp_path_factory.mktemp("run") / "gram"
    return workdir, run("train", *SMOKE, *world, "--workdir", workdir)
