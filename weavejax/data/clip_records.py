"""One annotated clip with its files → its record, and what turned out to be missing in them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from weavejax.data.clip import DecodeError
from weavejax.data.decode import MediaInfo, probe
from weavejax.data.inventory import NO_PICTURE, NO_SOUND, UNREADABLE, Item, Lack
from weavejax.data.opening import read_file
from weavejax.data.spans import cut_audio, cut_video


def record_features() -> tfds.features.FeaturesDict:
    """Of a clip's record: `data.clip.Clip`, and the facts that galleries are made by."""
    text, data = tfds.features.Text, tfds.features.Scalar
    return tfds.features.FeaturesDict(
        {
            "id": text(),
            "video": data(np.object_),
            "audio": data(np.object_),
            "captions": tfds.features.Sequence(text()),
            "subtitle": text(),
            "controls": text(),
            "has_video": data(np.bool_),
            "has_audio": data(np.bool_),
            "file": text(),
        }
    )


LONGER = 1.5  # a file that lasts this many times its clip (and a second) is not the clip


def clip_record(
    split: str, item: Item, cut: bool = False, side: int = 0
) -> tuple[dict[str, Any] | None, list[Lack]]:
    """The record of a clip; None when its files cannot be read.

    Args:
      split: that it belongs to.
      item: the clip and its files.
      cut: the files hold more than the clip: its span is decoded and encoded again. Files that are
        the clip keep their bytes.
      side: see `cut_video`.

    Raises:
      OSError: a file is there but cannot be read now: that is the storage's affair, not the clip's.
    """
    row = item.row
    try:
        media = _cut(item, side) if cut else _whole(item)
    except DecodeError as error:
        file = item.video or item.audio
        return None, [Lack(split, row.id, UNREADABLE, f"{Path(file).name}: {error}")]
    lacks = []
    if not media["has_audio"]:
        lacks.append(Lack(split, row.id, NO_SOUND))
    if item.video and not media["has_video"]:
        lacks.append(Lack(split, row.id, NO_PICTURE, "its video file holds no picture"))
    texts = {"captions": list(row.captions), "subtitle": row.subtitle, "controls": ""}
    return {"id": row.id, **media, **texts, "file": Path(item.video or item.audio).name}, lacks


def _whole(item: Item) -> Mapping[str, Any]:
    video, audio = (read_file(path) if path else b"" for path in (item.video, item.audio))
    pictured = heard = False
    if video:
        info = probe(video)
        if info.still:
            raise DecodeError("a single picture")
        pictured, heard = info.video is not None, info.audio is not None
        if not pictured and not heard:
            raise DecodeError("no video or audio stream")
        _check_length(info, item)
    if audio:
        info = probe(audio)
        if info.audio is None:
            raise DecodeError("the audio file has no audio stream")
        _check_length(info, item)
        heard = True
    return {"video": video, "audio": audio, "has_video": pictured, "has_audio": heard}


def _check_length(info: MediaInfo, item: Item) -> None:
    """Refuses a whole film under the name of a clip of it."""
    if item.row.span is None or info.duration is None:
        return
    length = item.row.span[1] - item.row.span[0]
    if info.duration > LONGER * length + 1:
        raise DecodeError(
            f"it lasts {info.duration:.1f} s and the clip {length:.1f} s; media=sources cuts it out"
        )


def _cut(item: Item, side: int) -> Mapping[str, Any]:
    assert item.row.span is not None
    video, audio = cut_video(Path(item.video), item.row.span, side) if item.video else (b"", b"")
    if item.audio:
        audio = cut_audio(Path(item.audio), item.row.span)
    return {"video": video, "audio": audio, "has_video": bool(video), "has_audio": bool(audio)}
