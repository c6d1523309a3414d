"""AudioCaps as published: one CSV a split; in val and test each clip has five rows."""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from weavejax.data.annotations import Row, Splits, id_of, merged, seconds_of, text_of
from weavejax.data.clip_options import options_of
from weavejax.data.clip_set import ClipSet
from weavejax.data.tables import csv_rows

SPLITS = ("train", "val", "test")
SECONDS = 10.0

with tfds.core.registered.skip_registration():

    class Audiocaps(ClipSet):
        """AudioCaps (Kim et al., NAACL 2019)."""


def read_file(file: Path, sources: bool) -> list[Row]:
    """One row a clip: rows of the same video and start are one, with all their captions."""
    table = []
    for place, cells in csv_rows(file):
        where = f"{file.name}, {place}"
        video = id_of(cells, "youtube_id", where)
        start = seconds_of(cells.get("start_time"), "start_time", where)
        table.append((video, start, text_of(cells, "caption", where)))
    starts = Counter(video for video, _ in {(video, start) for video, start, _ in table})
    return merged(
        Row(
            f"{video}_{start:g}",
            (caption,),
            (video,) if sources else _names(video, start, alone=starts[video] == 1),
            span=(start, start + SECONDS),
        )
        for video, start, caption in table
    )


def _names(video: str, start: float, alone: bool) -> tuple[str, ...]:
    """What people call the file of a clip; by the video alone only where that is not ambiguous."""
    timed = (f"{video}_{start:g}", f"{video}_{int(start * 1000)}_{int((start + SECONDS) * 1000)}")
    return (*timed, video, f"Y{video}") if alone else timed


def read(root: Path, sources: bool) -> Splits:
    """Rows of train, val and test."""
    return {split: read_file(root / f"{split}.csv", sources) for split in SPLITS}


def builder(data_dir: str, **media: Any) -> ClipSet:
    """The builder of AudioCaps.

    Args:
      data_dir: folder of prepared data sets.
      **media: see `weavejax.data.clip_options.MediaOptions`; `root` is needed.

    Raises:
      UserError: an option is unknown or impossible.
    """
    options = options_of(media, "audiocaps")
    root = Path(options.root)
    files = [root / f"{split}.csv" for split in SPLITS]
    sources = options.media == "sources"
    return Audiocaps(data_dir, "clips", files, partial(read, root, sources), options)
