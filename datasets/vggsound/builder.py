"""VGGSound as published: one CSV without a header: YouTube id, start, label, train or test."""

from functools import partial
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from weavejax.data.annotations import Row, Splits, id_of, seconds_of, text_of
from weavejax.data.clip_options import options_of
from weavejax.data.clip_set import ClipSet
from weavejax.data.tables import csv_rows
from weavejax.errors import UserError

FILE, COLUMNS = "vggsound.csv", ("id", "start", "label", "split")
SECONDS = 10

with tfds.core.registered.skip_registration():

    class Vggsound(ClipSet):
        """VGGSound (Chen et al., ICASSP 2020); the name of the class is the caption."""


def read(root: Path, sources: bool) -> Splits:
    """Rows of train and test."""
    splits: dict[str, list[Row]] = {"train": [], "test": []}
    for place, cells in csv_rows(root / FILE, COLUMNS):
        where = f"{FILE}, {place}"
        split = cells["split"].strip()
        if split not in splits:
            raise UserError(f"{where}: the split is {split!r}, neither train nor test")
        video, label = id_of(cells, "id", where), text_of(cells, "label", where)
        start = int(seconds_of(cells["start"], "start", where))
        # As the set and MMAudio name files, and as SpecVQGAN and Synchformer do.
        clips = (f"{video}_{start:06d}", f"{video}_{start * 1000}_{(start + SECONDS) * 1000}")
        span = (float(start), float(start + SECONDS))
        names = (video,) if sources else clips
        splits[split].append(Row(clips[0], (label,), names, span=span))
    return splits


def builder(data_dir: str, **media: Any) -> ClipSet:
    """The builder of VGGSound.

    Args:
      data_dir: folder of prepared data sets.
      **media: see `weavejax.data.clip_options.MediaOptions`; `root` is needed.

    Raises:
      UserError: an option is unknown or impossible.
    """
    options = options_of(media, "vggsound")
    root = Path(options.root)
    rows = partial(read, root, options.media == "sources")
    return Vggsound(data_dir, "classes", [root / FILE], rows, options)
