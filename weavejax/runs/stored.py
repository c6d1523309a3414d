"""Parameters that were made before: converted weights, or what a finished run has learnt."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from weavejax.errors import UserError
from weavejax.runtime.checkpoint import Checkpoints
from weavejax.runtime.workdir import CONFIG
from weavejax.storage import storage
from weavejax.weights.converted import PREFIX, open_converted
from weavejax.weights.published import KEPT


class Stored(NamedTuple):
    """Parameters by path.

    Attributes:
      name: of the file, or of the run and its step, for people.
      whence: the published file that they came from; "" of a run.
      shapes: path → shape.
      read: path → array; no other is read.
    """

    name: str
    whence: str
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]

    def __contains__(self, path: object) -> bool:
        return path in self.shapes


def open_stored(place: str) -> Stored:
    """Opens a file of `weavejax.convert`, its directory, or the working directory of a run.

    Of a run they are those of its newest good checkpoint, averaged where an average was kept.

    Raises:
      UserError: there is none of them, a run has no finished checkpoint, or a file is not sound.
    """
    workdir = storage(place)
    if (workdir / CONFIG).exists():
        return _of_run(place)
    file = open_converted(place)
    shapes = {path: tensor.shape for path, tensor in file.tensors.items()}
    shapes = {path: shape for path, shape in shapes.items() if not path.startswith(KEPT)}
    whence = file.metadata.get(f"{PREFIX}source", "").strip('"')
    return Stored(str(file.path), whence, shapes, file.__getitem__)


def _of_run(place: str) -> Stored:
    checkpoints = Checkpoints(storage(place) / "checkpoints", keep=1, read_only=True)
    try:
        step = checkpoints.newest_good()
        if step is None:
            raise UserError(f"{place} holds no finished checkpoint: train it first")
        arrays = checkpoints.read_params(step)
    finally:
        checkpoints.close()
    shapes = {path: array.shape for path, array in arrays.items()}
    return Stored(f"{place}, step {step}", "", shapes, arrays.__getitem__)


def below(stored: Stored, prefix: str) -> Stored:
    """What makes the part of a model at `prefix`, by the paths that it has in that model.

    That is what stands there in the source too (the autoencoder in a file that holds a whole system),
    else all of the source (a run of that part alone).
    """
    start = f"{prefix}/"
    there = [path for path in stored.shapes if path.startswith(start)]
    names = {p: p for p in there} if there else {start + p: p for p in stored.shapes}
    shapes = {path: stored.shapes[name] for path, name in names.items()}
    return stored._replace(shapes=shapes, read=lambda path: stored.read(names[path]))
