"""The working directory of a run: one config, everything that came of it, readable by a person."""

import json
import os
import re
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import ConfigDict

from weavejax.errors import UserError
from weavejax.storage import Storage, is_remote, storage, write_text

CONFIG = "config.json"
# How a run is carried out and where its data lie, not what it computes: may differ on resume.
FREE = re.compile(r"runtime\.|data\.(directory|local|cache)$|model\..*\.remat$")


def check_workdir(path: str | Storage, config: Any) -> Storage:
    """The directory of a run, which may or may not exist; nothing is written.

    Raises:
      UserError: it holds a run of another config (the differing keys are named), or other files.
    """
    directory = storage(path)
    stored = directory / CONFIG
    if stored.exists():
        differing = [
            f"{key} {old} there, {new} here"
            for key, (old, new) in _differences(read_json(stored), _plain(config)).items()
            if not FREE.match(key)
        ]
        if differing:
            raise UserError(
                f"{directory} is the working directory of another config "
                f"({'; '.join(differing[:5])}{'; …' if len(differing) > 5 else ''}); "
                "give another --workdir"
            )
    elif directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{directory} is not empty and holds no {CONFIG}; give another --workdir")
    return directory


def open_workdir(path: str | Storage, config: Any) -> Storage:
    """Checks and creates the directory of a run, and keeps the config there.

    Called only when everything else was found in order, so that a mistake leaves nothing behind.
    """
    directory = check_workdir(path, config)
    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / CONFIG, json.dumps(_plain(config), indent=2, ensure_ascii=False) + "\n")
    return directory


def keep_compiled(directory: Storage | None) -> None:
    """Compiled programs go to `compiled/` there, so that the next start need not compile again.

    Without a directory, on an object store, and where the directory is somebody else's or read-only,
    they go to `~/.cache/weavejax/compiled`: whoever can write a program there can run it, as whoever
    reads it. JAX_COMPILATION_CACHE_DIR names another one.

    Nothing is kept of programs for several CPU devices: read back, they do not run their collectives in
    the order in which they were compiled to, and wait for one another for ever (jaxlib 0.10.2).
    """
    if jax.default_backend() == "cpu" and jax.device_count() > 1:
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()  # it may have been asked already
        return
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        place: Storage = Path.home() / ".cache/weavejax"
        if directory is not None and not is_remote(directory) and _mine(Path(directory)):
            place = directory
        (place / "compiled").mkdir(parents=True, exist_ok=True, mode=0o700)
        jax.config.update("jax_compilation_cache_dir", str(place / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _mine(directory: Path) -> bool:
    """Whether the directory, and what is kept in it, is this user's own to write to."""
    there = [place for place in (directory, directory / "compiled") if place.exists()]
    return all(p.stat().st_uid == os.getuid() and os.access(p, os.W_OK) for p in there)


def _plain(config: Any) -> Any:
    """The config as JSON gives it back: tuples become lists."""
    return json.loads(config.to_json_best_effort())


def read_config(path: str | Storage) -> Any:
    """The locked config of an existing working directory."""
    stored = storage(path) / CONFIG
    if not stored.exists():
        raise UserError(f"{path} is not a working directory: it holds no {CONFIG}")
    config = ConfigDict(read_json(stored))
    config.lock()
    return config


def read_json(path: Storage) -> Any:
    """Parses a JSON file; UserError when it is damaged."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _differences(old: Any, new: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return {} if old == new else {prefix[:-1]: (old, new)}
    out: dict[str, tuple[Any, Any]] = {}
    for key in {**old, **new}:
        out |= _differences(old.get(key, "absent"), new.get(key, "absent"), f"{prefix}{key}.")
    return out
