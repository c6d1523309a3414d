"""VATEX as published: one JSON a split; ids are a YouTube id with start and end seconds."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from weavejax.data.annotations import Row, Splits, id_of, only, read_ids, texts_of
from weavejax.data.clip_options import options_of
from weavejax.data.clip_set import ClipSet
from weavejax.data.tables import json_entries
from weavejax.errors import UserError

FILES = {
    "training": "vatex_training_v1.0.json",
    "validation": "vatex_validation_v1.0.json",
    "public_test": "vatex_public_test_english_v1.1.json",
}
LANGUAGES = {"en": "enCap", "zh": "chCap"}
# The YouTube id may hold underscores itself: the times are the last two parts.
_ID = re.compile(r"(?P<source>.+)_(?P<start>\d{6})_(?P<end>\d{6})")

with tfds.core.registered.skip_registration():

    class Vatex(ClipSet):
        """VATEX (Wang et al., ICCV 2019)."""


def read_file(file: Path, key: str, sources: bool) -> list[Row]:
    """One row a clip, with all its captions of one language."""
    rows = []
    for place, entry in json_entries(file):
        where = f"{file.name}, {place}"
        name = id_of(entry, "videoID", where)
        captions = texts_of(entry, key, where)
        if not captions:
            raise UserError(f"{where} has no caption in {key}")
        parts = _ID.fullmatch(name)
        if parts is None or int(parts["end"]) <= int(parts["start"]):
            raise UserError(f"{where}: {name!r} is not an id with start and end: id_000010_000020")
        span = (float(parts["start"]), float(parts["end"]))
        names = (parts["source"],) if sources else (name,)
        rows.append(Row(name, captions, names, span=span))
    return rows


def read(root: Path, test: str, test_ids: str, language: str, sources: bool) -> Splits:
    """Rows of train and test."""
    key = LANGUAGES[language]
    rows = read_file(root / FILES[test], key, sources)
    if test_ids:
        rows = only(rows, read_ids(root / test_ids), test_ids)
    return {"train": read_file(root / FILES["training"], key, sources), "test": rows}


def builder(
    data_dir: str,
    *,
    test: str = "validation",
    test_ids: str = "",
    language: str = "en",
    **media: Any,
) -> ClipSet:
    """The builder of VATEX.

    Args:
      data_dir: folder of prepared data sets.
      test: "validation" or "public_test": the file that the test clips are of.
      test_ids: text file (relative to the root) of the ids to test on, one a line, such as the
        1,500 of retrieval papers; "" takes all of the file.
      language: "en" or "zh" (the public test has English only).
      **media: see `weavejax.data.clip_options.MediaOptions`; `root` is needed.

    Raises:
      UserError: an option is unknown or impossible.
    """
    options = options_of(media, "vatex", ("test", "test_ids", "language"))
    if test not in ("validation", "public_test"):
        raise UserError(f"vatex: test must be validation or public_test, not {test!r}")
    if language not in LANGUAGES:
        raise UserError(f"vatex: language must be {' or '.join(LANGUAGES)}, not {language!r}")
    root = Path(options.root)
    files = [root / FILES["training"], root / FILES[test]] + [root / test_ids] * bool(test_ids)
    label = "-".join([language, test, *([Path(test_ids).stem] if test_ids else [])])
    sources = options.media == "sources"
    rows = partial(read, root, test, test_ids, language, sources)
    return Vatex(data_dir, label, files, rows, options)
