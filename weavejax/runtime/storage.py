"""Where runs and data lie: a local path, or an object store (gs://, s3://)."""

import importlib.util
import os
import re
from pathlib import Path
from typing import Any

from etils import epath

from weavejax.errors import UserError

# pathlib.Path here, epath.Path on an object store: the same methods as far as we use them.
Storage = Any
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
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
