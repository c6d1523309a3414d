"""DiDeMo as published: one JSON a split, one entry a description of a moment."""

from functools import partial
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from weavejax.data.annotations import Row, Splits, id_of, text_of
from weavejax.data.clip_options import options_of
from weavejax.data.clip_set import ClipSet
from weavejax.data.tables import json_entries

FILES = {"train": "train_data.json", "val": "val_data.json", "test": "test_data.json"}

with tfds.core.registered.skip_registration():

    class Didemo(ClipSet):
        """DiDeMo (Hendricks et al., ICCV 2017) for paragraph-to-video retrieval."""


def read_file(file: Path) -> list[Row]:
    """One row a video: its descriptions joined, in their order, as retrieval papers do.

    The annotations name videos with the extension they had on Flickr. People hold them so, or with
    another extension in its place, or after it.
    """
    told: dict[str, list[str]] = {}
    for place, entry in json_entries(file):
        where = f"{file.name}, {place}"
        video = id_of(entry, "video", where)
        told.setdefault(video, []).append(text_of(entry, "description", where))
    return [
        Row(Path(video).stem, (" ".join(each),), (video, Path(video).stem))
        for video, each in told.items()
    ]


def read(root: Path) -> Splits:
    """Rows of train, val and test."""
    return {split: read_file(root / name) for split, name in FILES.items()}


def builder(data_dir: str, **media: Any) -> ClipSet:
    """The builder of DiDeMo.

    Args:
      data_dir: folder of prepared data sets.
      **media: see `weavejax.data.clip_options.MediaOptions`; `root` is needed.

    Raises:
      UserError: an option is unknown or impossible.
    """
    options = options_of(media, "didemo")
    root = Path(options.root)
    files = [root / name for name in FILES.values()]
    return Didemo(data_dir, "paragraphs", files, partial(read, root), options)
