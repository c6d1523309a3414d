"""Where runs and data lie: a local path, or an object store (gs://, s3://)."""

import importlib.util
import os
import re
import secrets
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from etils import epath
from tqdm import tqdm

from weavejax.errors import UserError

# pathlib.Path here, epath.Path on an object store: the same methods as far as we use them.
Storage = Any
COPYING_THREADS = 8
_DRIVERS = {"gs": "gcsfs", "s3": "s3fs"}


def storage(path: str | os.PathLike[str]) -> Storage:
    """The path of a file or directory, local or remote.

    Raises:
      UserError: a scheme that is not known, or whose driver is not installed.
    """
    text = os.fspath(path)
    scheme = re.match(r"([a-z0-9]+)://", text)
    if scheme is None:
        return Path(text)
    name = scheme[1]
    if name not in _DRIVERS:
        raise UserError(f"{text}: {name}:// is none of {', '.join(_DRIVERS)}:// and local paths")
    if importlib.util.find_spec(_DRIVERS[name]) is None:
        raise UserError(
            f"{text} needs the package {_DRIVERS[name]}: pip install 'weavejax[{name}]'"
        )
    return epath.Path(text)


def is_remote(path: Storage) -> bool:
    """Whether the path lies on an object store."""
    return not isinstance(path, Path)


def write_text(path: Storage, text: str) -> None:
    """Writes a file whole or not at all."""
    if is_remote(path):
        path.write_text(text)  # an object appears when it is complete
        return
    # Processes of a job may write the same file at once: each under a name of its own.
    partial = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        with open(partial, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def upload(local: Path, remote: Storage) -> None:
    """Copies every file below a local directory to a remote one."""
    files = [path for path in sorted(local.rglob("*")) if path.is_file()]
    with ThreadPoolExecutor(COPYING_THREADS) as threads:
        copies = threads.map(lambda p: _copy(p, remote / p.relative_to(local).as_posix()), files)
        for _ in copies:
            pass  # the first failure is raised here


def download(remote: Storage, local: Path, *, title: str = "") -> None:
    """Copies every file below a remote directory to a local one; those of equal size are there.

    Args:
      remote: directory.
      local: directory, made when absent.
      title: of the progress bar; "" shows none.

    Raises:
      UserError: there is no such directory.
    """
    files = _below(remote)
    if not files:
        raise UserError(f"{remote} does not exist or is empty")
    missing = [name for name in files if not _same_size(remote / name, local / name)]
    with ThreadPoolExecutor(COPYING_THREADS) as threads:
        copies = threads.map(lambda name: _copy(remote / name, local / name), missing)
        for _ in tqdm(copies, title, len(missing), disable=not title or not missing, unit=" files"):
            pass


def remove(path: Storage) -> None:
    """Removes a file or a directory with all in it; nothing happens when there is none."""
    if not path.exists():
        return
    if not path.is_dir():
        path.unlink(missing_ok=True)
    elif is_remote(path):
        path.rmtree()
    else:
        shutil.rmtree(path, ignore_errors=True)


def _below(directory: Storage, prefix: str = "") -> list[str]:
    if not directory.exists():
        return []
    out: list[str] = []
    for path in directory.iterdir():
        name = prefix + path.name
        out += _below(path, f"{name}/") if path.is_dir() else [name]
    return sorted(out)


def _same_size(remote: Storage, local: Path) -> bool:
    return local.exists() and remote.stat().length == local.stat().st_size


def _copy(source: Storage, target: Storage) -> None:
    """One file, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    place = target if is_remote(target) else target.with_name(target.name + ".partial")
    with source.open("rb") as reading, place.open("wb") as writing:
        shutil.copyfileobj(reading, writing, 1 << 22)
    if place is not target:
        os.replace(place, target)
