"""MSR-VTT as published: one JSON of videos and sentences, and the CSV files of the 1k-A split."""

from functools import partial
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from weavejax.data.annotations import Row, Splits, id_of, text_of
from weavejax.data.clip_options import options_of
from weavejax.data.clip_set import ClipSet
from weavejax.data.tables import csv_rows, entries, json_value
from weavejax.errors import UserError

SENTENCES, TEST = "MSRVTT_data.json", "MSRVTT_JSFUSION_test.csv"
TRAIN = {"9k": "MSRVTT_train.9k.csv", "7k": "MSRVTT_train.7k.csv"}

with tfds.core.registered.skip_registration():

    class Msrvtt(ClipSet):
        """MSR-VTT (Xu et al., CVPR 2016), split 1k-A (JSFusion)."""


def read(root: Path, train: str) -> Splits:
    """Rows of "train" (all sentences of a video) and "test" (the one sentence that 1k-A names)."""
    spoken = _sentences(root / SENTENCES)
    ids = [id_of(row, "video_id", f"{TRAIN[train]}, {place}") for place, row in _csv(root, train)]
    unknown = [name for name in ids if name not in spoken]
    if unknown:
        raise UserError(f"{TRAIN[train]} names {unknown[0]}, which {SENTENCES} has no sentence of")
    return {
        "train": [Row(name, tuple(spoken[name]), (name,)) for name in dict.fromkeys(ids)],
        "test": [_test_row(row, f"{TEST}, {place}") for place, row in csv_rows(root / TEST)],
    }


def _csv(root: Path, train: str) -> Any:
    return csv_rows(root / TRAIN[train])


def _sentences(file: Path) -> dict[str, dict[str, None]]:
    """Video id → its sentences, in order, each once."""
    content = json_value(file)
    sentences = content.get("sentences") if isinstance(content, dict) else None
    out: dict[str, dict[str, None]] = {}
    for place, row in entries(sentences, f"{file.name}, sentences"):
        where = f"{file.name}, sentences, {place}"
        name, sentence = id_of(row, "video_id", where), text_of(row, "caption", where)
        out.setdefault(name, {})[sentence] = None
    return out


def _test_row(row: dict[str, Any], place: str) -> Row:
    name = id_of(row, "video_id", place)
    return Row(name, (text_of(row, "sentence", place),), (name,))


def builder(data_dir: str, *, train: str = "9k", **media: Any) -> ClipSet:
    """The builder of MSR-VTT.

    Args:
      data_dir: folder of prepared data sets.
      train: "9k" or "7k": which training list.
      **media: see `weavejax.data.clip_options.MediaOptions`; `root` is needed.

    Raises:
      UserError: an option is unknown or impossible.
    """
    options = options_of(media, "msrvtt", ("train",))
    if train not in TRAIN:
        raise UserError(f"msrvtt: train must be {' or '.join(TRAIN)}, not {train!r}")
    root = Path(options.root)
    files = [root / name for name in (SENTENCES, TRAIN[train], TEST)]
    return Msrvtt(data_dir, train, files, partial(read, root, train), options)
