"""Converted weights: a safetensors file of parameters that says where they came from.

Paths are those of a model with separate blocks (``vision/blocks_0/…``); what only the published
file needs stands under ``published/``. A file, or a directory with `NAME` in it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from weavejax.errors import UserError
from weavejax.weights.safe import SafeFile, open_safetensors, save_safetensors

NAME = "params.safetensors"
PREFIX = "weavejax."


@dataclass(frozen=True)
class Origin:
    """Where converted weights came from, and what is needed to write that file again.

    Attributes:
        format: name of the published layout.
        source: name of the file.
        sha256: of the file.
        sizes: of each part.
        spellings: official key → the file's, where they differ.
        ties: official key → the one whose tensor it shares.
        entry: name within the file under which the tensors stood.
        beside: what stood beside them, as JSON.
        metadata: of a safetensors file.
        files: texts that stood in the directory: name → content.
    """

    format: str
    source: str
    sha256: str
    sizes: Mapping[str, Mapping[str, Any]]
    spellings: Mapping[str, str] = field(default_factory=dict)
    ties: Mapping[str, str] = field(default_factory=dict)
    entry: str = ""
    beside: str = "{}"
    metadata: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


def write_converted(path: Path, leaves: Mapping[str, np.ndarray], origin: Origin) -> None:
    """Writes parameters with their origin; UserError when it cannot be written."""
    texts = {PREFIX + name: json.dumps(value) for name, value in asdict(origin).items()}
    save_safetensors(path, leaves, texts)


def open_converted(path: str | Path) -> SafeFile:
    """Opens a file of parameters, or the one in a directory.

    Raises:
        UserError: there is none, or it is not a sound safetensors file.
    """
    path = Path(path)
    return open_safetensors(path / NAME if path.is_dir() else path)


def origin_of(file: SafeFile) -> Origin:
    """Where a file's parameters came from; UserError when it does not say."""
    try:
        values = {f.name: json.loads(file.metadata[PREFIX + f.name]) for f in fields(Origin)}
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{file.path} does not say which published file it was: python -m weavejax.convert "
            "writes that into the files it makes"
        ) from error
    return Origin(**values)
