"""ActivityNet Captions as published: one JSON a split, video id → timestamps and sentences."""

from functools import partial
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from weavejax.data.annotations import Row, Splits, id_of, texts_of
from weavejax.data.clip_options import options_of
from weavejax.data.clip_set import ClipSet
from weavejax.data.tables import json_value
from weavejax.errors import UserError

TESTS = ("val_1", "val_2")

with tfds.core.registered.skip_registration():

    class Activitynet(ClipSet):
        """ActivityNet Captions (Krishna et al., ICCV 2017) for paragraph-to-video retrieval."""


def read_file(file: Path) -> list[Row]:
    """One row a video: its sentences joined, in order of the file (that of their time)."""
    content = json_value(file)
    if not isinstance(content, dict):
        raise UserError(f"{file.name} is not an object of videos")
    return [_row(video, entry, file.name) for video, entry in content.items()]


def _row(video: str, entry: Any, name: str) -> Row:
    place = f"{name}, {video}"
    if not isinstance(entry, dict):
        raise UserError(f"{place} is not a JSON object")
    id_of({"id": video}, "id", name)
    sentences = texts_of(entry, "sentences", place)
    if not sentences:
        raise UserError(f"{place} has no sentence")
    # The annotations write v_ before the YouTube id; many downloads do not.
    return Row(video, (" ".join(sentences),), (video, video.removeprefix("v_")))


def read(root: Path, test: str) -> Splits:
    """Rows of train, and of a validation annotation as test."""
    return {"train": read_file(root / "train.json"), "test": read_file(root / f"{test}.json")}


def builder(data_dir: str, *, test: str = "val_1", **media: Any) -> ClipSet:
    """The builder of ActivityNet Captions.

    Args:
      data_dir: folder of prepared data sets.
      test: "val_1" (the usual retrieval test, 4,917 videos) or "val_2" (other annotators).
      **media: see `weavejax.data.clip_options.MediaOptions`; `root` is needed.

    Raises:
      UserError: an option is unknown or impossible.
    """
    options = options_of(media, "activitynet", ("test",))
    if test not in TESTS:
        raise UserError(f"activitynet: test must be {' or '.join(TESTS)}, not {test!r}")
    root = Path(options.root)
    files = [root / "train.json", root / f"{test}.json"]
    return Activitynet(data_dir, test, files, partial(read, root, test), options)
