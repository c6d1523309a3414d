"""Clips of the prepared world as files: a silent mp4 each, its sound beside it, its controls.

python datasets/foley_world/clips.py --data_dir data/foley_world/<config>/1.0.1 --out clips
"""

import argparse
import csv
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds


def write_clips(records: Iterable[Mapping[str, Any]], out: Path) -> list[str]:
    """A folder of clips as `data.root` reads it: ID.mp4, ID.flac, ID.controls.json, captions.csv.

    Args:
      records: of the prepared data set.
      out: the folder.

    Returns:
      The ids.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for record in records:
        name = record["id"].decode()
        (out / f"{name}.mp4").write_bytes(record["video"])
        (out / f"{name}.flac").write_bytes(record["audio"])
        (out / f"{name}.controls.json").write_bytes(record["controls"])
        rows.append((name, f"{name}.mp4", f"{name}.flac", record["captions"][0].decode()))
    with (out / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("id", "video", "audio", "caption"), *rows])
    return [row[0] for row in rows]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True, help="folder of the prepared data set")
    parser.add_argument("--out", required=True, help="folder to write to")
    parser.add_argument("--clips", type=int, default=8, help="how many")
    parser.add_argument("--split", default="test")
    arguments = parser.parse_args()
    source = tfds.builder_from_directory(arguments.data_dir).as_data_source(arguments.split)
    print("\n".join(write_clips(islice(source, arguments.clips), Path(arguments.out))))
