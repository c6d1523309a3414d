"""The annotation JSON of the published GRAM code, whatever set it is of."""

from functools import partial
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from weavejax.data.annotations import Row, Splits, id_of, merged, subtitle_of, text_of, texts_of
from weavejax.data.clip_options import options_of
from weavejax.data.clip_set import ClipSet
from weavejax.data.tables import json_entries
from weavejax.errors import UserError

# The first of these that an entry has is taken, as in the published loader.
IDS = ("clip_id", "video_id", "image_id", "image", "id")
CAPTIONS = ("desc", "caption", "vast_cap")

with tfds.core.registered.skip_registration():

    class GramJson(ClipSet):
        """Clips annotated in the JSON of the published GRAM code."""


def row_of(entry: dict[str, Any], every: bool, place: str) -> Row:
    """One entry. Of a list of captions the published code uses the first, in training too."""
    key = next((key for key in IDS if key in entry), IDS[0])
    said = next((key for key in CAPTIONS if key in entry), CAPTIONS[0])
    name = id_of(entry, key, place)
    if isinstance(entry.get(said), list):
        captions = texts_of(entry, said, place)
        captions = captions if every else captions[:1]
        if not captions:
            raise UserError(f"{place}: {said} is empty")
    else:
        captions = (text_of(entry, said, place),)
    return Row(name, captions, (name,), subtitle_of(entry, place))


def read_file(file: Path, every: bool) -> list[Row]:
    """One row a clip: entries of one id (MSR-VTT's 20 sentences are 20 entries) are one clip."""
    found = json_entries(file)
    return merged(row_of(entry, every, f"{file.name}, {place}") for place, entry in found)


def read(files: dict[str, Path], every: bool) -> Splits:
    """Rows by split."""
    return {split: read_file(file, every) for split, file in files.items()}


def builder(
    data_dir: str,
    *,
    train: str = "train.json",
    test: str = "test.json",
    captions: str = "first",
    videos: str = "videos",
    audios: str = "audios",
    **media: Any,
) -> ClipSet:
    """The builder of a set in GRAM's JSON.

    Args:
      data_dir: folder of prepared data sets.
      train: JSON file of the training clips, relative to the root; "" for none.
      test: of the test clips; "" for none.
      captions: "first" of a list, as published, or "all" of it.
      videos: folder of video files.
      audios: folder of audio files; "" takes the sound of the video files.
      **media: see `weavejax.data.clip_options.MediaOptions`; `root` is needed.

    Raises:
      UserError: an option is unknown or impossible.
    """
    own = ("train", "test", "captions")
    options = options_of({**media, "videos": videos, "audios": audios}, "gram_json", own)
    if captions not in ("first", "all"):
        raise UserError(f"gram_json: captions must be first or all, not {captions!r}")
    names = {split: name for split, name in (("train", train), ("test", test)) if name}
    if not names:
        raise UserError("gram_json: give train, test or both: JSON files of annotations")
    files = {split: Path(options.root) / name for split, name in names.items()}
    label = "-".join([*(Path(name).stem for name in names.values()), captions])
    rows = partial(read, files, captions == "all")
    return GramJson(data_dir, label, list(files.values()), rows, options)
