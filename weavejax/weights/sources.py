"""Finding and opening a published file of weights, or the directory it is released in."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from weavejax.errors import UserError
from weavejax.weights.safe import open_safetensors
from weavejax.weights.torch_files import read_torch

# The first that is there is taken; transformers' names.
SINGLE = ("model.safetensors", "pytorch_model.bin")
SETTINGS = "log/hps.json"  # of a GRAM directory
STEP = re.compile(r"model_step_(\d+)\.pt")


@dataclass(frozen=True)
class Source:
    """An opened file of weights.

    Attributes:
        path: of the file.
        arrays: key → array, views of the file where it can be mapped.
        entry: name within the file under which the arrays stand.
        beside: what stands beside them, as JSON.
        metadata: of a safetensors file.
        files: texts that belong to it: name within the directory → content.
    """

    path: Path
    arrays: Mapping[str, np.ndarray]
    entry: str = ""
    beside: str = "{}"
    metadata: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    def sha256(self) -> str:
        """Of the file's bytes."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def open_source(place: str | Path) -> Source:
    """Opens a safetensors or PyTorch file, or the one in a directory.

    A GRAM directory holds ``log/hps.json`` and ``ckpt/model_step_<N>.pt``, of which the largest N
    is taken; one of transformers holds ``model.safetensors`` or ``pytorch_model.bin``.

    Raises:
        UserError: there is no such file, or it is not sound.
    """
    path = Path(place)
    files: dict[str, str] = {}
    if path.is_dir():
        path, files = _in_directory(path)
    if not path.is_file():
        raise UserError(f"no file of weights {path}")
    if path.suffix == ".safetensors":
        safe = open_safetensors(path)
        return Source(path, safe, metadata=safe.metadata, files=files)
    torch = read_torch(path)
    return Source(path, torch.arrays, torch.entry, torch.beside, files=files)


def _in_directory(folder: Path) -> tuple[Path, dict[str, str]]:
    steps = {int(m[1]): p for p in folder.glob("ckpt/*") if (m := STEP.fullmatch(p.name))}
    if steps:
        settings = folder / SETTINGS
        try:
            text = settings.read_text()
            json.loads(text)
        except FileNotFoundError:
            return steps[max(steps)], {}
        except (OSError, ValueError) as error:
            raise UserError(f"{settings} cannot be read: {error}") from error
        return steps[max(steps)], {SETTINGS: text}
    for name in SINGLE:
        if (folder / name).is_file():
            return folder / name, {}
    raise UserError(
        f"{folder} holds no weights: neither ckpt/model_step_<N>.pt nor {' nor '.join(SINGLE)}"
    )
