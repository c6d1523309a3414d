"""The manifest of a checkpoint: written last, it makes a directory a checkpoint.

Storage below flips bits in silence and the checkpoint format does not notice, so the manifest holds
the length and SHA-256 of every file, and of itself, beside what one wants to know years later: config,
tree, versions and commit.
"""

import hashlib
import importlib.metadata
import json
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

from weavejax.runtime import tree
from weavejax.storage import Storage, write_text

NAME = "manifest.json"
PACKAGES = ("weavejax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
CHUNK = 1 << 22
HASHING_THREADS = 4  # hashing lets go of the interpreter lock


def write(directory: Storage, facts: Mapping[str, Any]) -> None:
    """Hashes what is there and writes the manifest; `facts` are JSON."""
    content = {**facts, "files": _hashes(directory)}
    write_text(directory / NAME, json.dumps({"sha256": _own(content), **content}, indent=1))


def read(directory: Storage) -> dict[str, Any]:
    """The manifest, checked against its own hash.

    Raises:
      ValueError: absent or damaged, in one line.
    """
    try:
        content = json.loads((directory / NAME).read_bytes())
        stated = content.pop("sha256")
    except FileNotFoundError:
        raise ValueError(f"{NAME} is missing") from None
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{NAME} cannot be read: {type(error).__name__}") from error
    if stated != _own(content):
        raise ValueError(f"{NAME} is damaged: it does not match its own hash")
    return content


def problems(directory: Storage) -> list[str]:
    """Everything that differs between the files of a checkpoint and its manifest; [] when sound."""
    try:
        stated = read(directory)["files"]
        found = _hashes(directory)
    except (ValueError, OSError) as error:
        return [str(error)]
    wrong = [f"{name} is missing" for name in stated if name not in found]
    wrong += [f"{name} is not in the manifest" for name in found if name not in stated]
    for name in sorted(stated.keys() & found.keys()):
        (size, digest), (held, hashed) = stated[name], found[name]
        if size != held:
            wrong.append(f"{name} has {held:,} bytes instead of {size:,}")
        elif digest != hashed:
            wrong.append(f"{name} is damaged: its SHA-256 differs")
    return wrong


def describe_tree(abstract: Any) -> dict[str, Any]:
    """path → [shape, type, sharding spec] of a tree of shapes with shardings."""
    return {
        path: [list(leaf.shape), str(leaf.dtype), str(tuple(_spec(leaf)))]
        for path, leaf in tree.flatten(abstract).items()
    }


def _spec(leaf: Any) -> Any:
    return getattr(getattr(leaf, "sharding", None), "spec", ())


def origin(config: Any) -> dict[str, Any]:
    """Where a checkpoint comes from: config, package versions, commit, devices."""
    return {
        "config": json.loads(config.to_json_best_effort()),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "commit": commit(),
        "devices": f"{jax.device_count()} × {jax.devices()[0].device_kind}",
        "processes": jax.process_count(),
    }


def commit() -> str:
    """Of the source tree, with "+changes" when it was edited; "unknown" outside a checkout."""
    here = Path(__file__).parent
    git = ["git", "-C", str(here)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        )
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return head.stdout.strip() + ("+changes" if changed.stdout.strip() else "")


def _own(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _hashes(directory: Storage) -> dict[str, list[Any]]:
    """name → (bytes, SHA-256) of every file below, but the manifest."""
    files = sorted(_files(directory, ""))
    with ThreadPoolExecutor(HASHING_THREADS) as threads:
        hashed = threads.map(lambda name: _hash(directory / name), files)
        return {name: each for name, each in zip(files, hashed, strict=True) if name != NAME}


def _files(directory: Storage, prefix: str) -> list[str]:
    out: list[str] = []
    for path in directory.iterdir():
        name = prefix + path.name
        out += _files(path, f"{name}/") if path.is_dir() else [name]
    return out


def _hash(path: Storage) -> list[Any]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return [size, digest.hexdigest()]
