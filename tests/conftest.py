"""Strict settings for every test: eight CPU devices, no silent promotion, warnings are errors."""

import fcntl
import os

import hypothesis
import jax
import pytest
from jax._src import compiler

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Property tests try the same examples in every run, so that a run tells of the code alone;
# `pytest --hypothesis-profile=search` looks for new ones.
hypothesis.settings.register_profile("suite", derandomize=True, deadline=None)
hypothesis.settings.register_profile("search", deadline=None)
hypothesis.settings.load_profile("suite")

kept_or_compiled = compiler.compile_or_get_cached


def compiled(backend, program, devices, options, callbacks, placed, *rest, **others):
    """As JAX does it; programs for several devices are not kept, see `workdir.keep_compiled`."""
    if devices.size > 1:
        return compiler.backend_compile_and_load(backend, program, placed, options, callbacks)
    return kept_or_compiled(backend, program, devices, options, callbacks, placed, *rest, **others)


compiler.compile_or_get_cached = compiled


def pytest_configure(config):
    """Programs compile in a third of the time, here and in subprocesses; benches as users have them.

    They are kept beside pytest's other caches (`pytest --cache-clear` forgets them): compiling is most
    of the time of a first run.
    """
    if config.option.markexpr == "bench":
        return
    flags = os.environ.get("XLA_FLAGS", "")
    # The emitters of fusions that XLA had before its present ones compile in half their time.
    flags += " --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    os.environ["XLA_FLAGS"] = flags.lstrip()
    if getattr(config, "cache", None):
        jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("compiled")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


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
def compiled_once(request, once):
    """Programs of subprocesses are compiled once for all tests, and kept where those of tests are."""
    jax.devices()  # this process has read its settings: what follows is for subprocesses
    cache = getattr(request.config, "cache", None)
    place = cache.mkdir("compiled") if cache else once("compiled", lambda directory: None)
    kept = {
        "JAX_COMPILATION_CACHE_DIR": str(place),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in kept.items():
            patch.setenv(name, value)
        yield
