"""Strict settings for every test: eight CPU devices, no silent promotion, warnings are errors."""

import fcntl
import os

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """once(name, make) → a directory that `make(directory)` filled, once for all test processes."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent

    def made(name, make):
        directory = base / name
        with open(base / f"{name}.lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not (base / f"{name}.made").exists():
                directory.mkdir()
                make(directory)
                (base / f"{name}.made").touch()
        return directory

    return made


@pytest.fixture(scope="session", autouse=True)
def compiled_once(once):
    """Programs that subprocesses compile are kept for all tests. JAX here has read its settings."""
    kept = {
        "JAX_COMPILATION_CACHE_DIR": str(once("compiled", lambda directory: None)),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }
    os.environ.update(kept)
    yield
    for name in kept:
        del os.environ[name]
