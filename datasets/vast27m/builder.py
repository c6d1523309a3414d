"""VAST-27M and its subsets: shards of JSONL, or one JSON list such as GRAM's 150k subset."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from weavejax.data.annotations import (
    Row,
    Splits,
    held_out,
    id_of,
    merged,
    span_of,
    subtitle_of,
    text_of,
    texts_of,
)
from weavejax.data.clip_options import options_of
from weavejax.data.clip_set import ClipSet
from weavejax.data.tables import json_entries, json_lines
from weavejax.errors import UserError

CAPTIONS = ("vast_cap", "vision_cap", "audio_cap")
_CLIP = re.compile(r"(?P<source>.+)\.\d+")  # the clips of a video are numbered after a dot

with tfds.core.registered.skip_registration():

    class Vast27m(ClipSet):
        """VAST-27M (Chen et al., NeurIPS 2023): clips with vision, audio and omni-modal captions."""


def row_of(entry: dict[str, Any], key: str, sources: bool, place: str) -> Row:
    """One clip. Captions are a text or a list; the span is needed only to cut it out."""
    name = id_of(entry, "clip_id", place)
    given = entry.get(key)
    captions = (
        (text_of(entry, key, place),) if isinstance(given, str) else texts_of(entry, key, place)
    )
    if not captions:
        raise UserError(f"{place} has no caption in {key}")
    span = span_of(entry["clip_span"], "clip_span", place) if "clip_span" in entry else None
    if not sources:
        return Row(name, captions, (name,), subtitle_of(entry, place), span)
    if span is None:
        raise UserError(f"{place} has no clip_span to cut it out by")
    whole = _CLIP.fullmatch(name)
    source = whole["source"] if whole else name
    return Row(name, captions, (source,), subtitle_of(entry, place), span)


def read(files: list[Path], key: str, sources: bool, holdout: float) -> Splits:
    """Rows of train and test: the set has no split of its own."""
    rows = []
    for file in files:
        found = json_lines(file) if file.suffix == ".jsonl" else json_entries(file)
        rows += [row_of(entry, key, sources, f"{file.name}, {place}") for place, entry in found]
    return held_out(merged(rows), holdout)


def builder(
    data_dir: str,
    *,
    annotations: str = "annotations",
    captions: str = "vast_cap",
    holdout: float = 0.01,
    **media: Any,
) -> ClipSet:
    """The builder of VAST-27M or a subset.

    Args:
      data_dir: folder of prepared data sets.
      annotations: relative to the root: a folder of .jsonl and .json shards, or one such file.
      captions: "vast_cap" (omni-modal), "vision_cap" or "audio_cap".
      holdout: share of the clips that is kept for testing, by a hash of the id.
      **media: see `weavejax.data.clip_options.MediaOptions`; `root` is needed.

    Raises:
      UserError: an option is unknown or impossible.
    """
    options = options_of(media, "vast27m", ("annotations", "captions", "holdout"))
    if captions not in CAPTIONS:
        raise UserError(f"vast27m: captions must be {' or '.join(CAPTIONS)}, not {captions!r}")
    place = Path(options.root) / annotations
    files = sorted(p for p in place.glob("*") if p.suffix in (".json", ".jsonl"))
    files = files if place.is_dir() else [place]
    if options.root and not files:
        raise UserError(f"vast27m: {place} holds no .jsonl or .json")
    share = float(holdout)
    rows = partial(read, files, captions, options.media == "sources", share)
    label = f"{Path(annotations).stem}-{captions}-{share:g}"
    return Vast27m(data_dir, label, files, rows, options)
