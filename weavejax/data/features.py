"""What frozen encoders gave for every clip, kept on disk: records, reading them, batches of them.

A directory holds one split: ArrayRecord shards that any TFDS reader opens, and `manifest.json` that
says by what they were made and of what. Record k belongs to record k of the source.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from weavejax.data.order import record_order
from weavejax.errors import UserError

NAME, SPLIT, MANIFEST = "features", "clips", "manifest.json"  # "all" means something to TFDS
RAW = tfds.core.decode.DeserializeMethod.RAW_BYTES
TEXTS = ("id", "captions", "subtitle")


def feature_record(arrays: Mapping[str, tuple[int, ...]]) -> tfds.features.FeaturesDict:
    """Of one clip's record: its texts, `valid`, and float32 arrays of these shapes with masks."""
    text, flag = tfds.features.Text, tfds.features.Scalar(np.bool_)
    fields: dict[str, Any] = {
        "id": text(),
        "captions": tfds.features.Sequence(text()),
        "subtitle": text(),
        "valid": flag,
    }
    for name, shape in arrays.items():
        fields[name] = tfds.features.Tensor(shape=shape, dtype=np.float32)
        fields[f"{name}_mask"] = flag
    return tfds.features.FeaturesDict(fields)


class FeatureSource:
    """The features of one split; see `open_features`. Picklable.

    Attributes:
      manifest: what they were made by, and of what.
      fingerprint: changes with the weights, the clips and what of them was kept.
    """

    def __init__(self, records: Sequence[bytes], features: Any, manifest: dict[str, Any]) -> None:
        self._records, self._all = records, features
        self._texts = tfds.features.FeaturesDict({name: features[name] for name in TEXTS})
        self.manifest = manifest
        self.fingerprint = str(manifest["fingerprint"])

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """`<modality>` float32, `<modality>_mask` bool and `valid` bool of record `index`."""
        record = self._all.deserialize_example_np(self._records[index])
        return {name: np.asarray(value) for name, value in record.items() if name not in TEXTS}

    def id(self, index: int) -> str:
        """The id of the clip of record `index`."""
        return str(self._text(index)["id"].decode())

    def text(self, index: int) -> tuple[tuple[str, ...], str]:
        """Captions and subtitle of the clip of record `index`."""
        record = self._text(index)
        captions = tuple(caption.decode() for caption in record["captions"])
        return captions, record["subtitle"].decode()

    def captions(self) -> Sequence[str]:
        """Every caption, in order."""
        return [caption for index in range(len(self)) for caption in self.text(index)[0]]

    def _text(self, index: int) -> Any:
        return self._texts.deserialize_example_np(self._records[index])


def open_features(directory: str | Path) -> FeatureSource:
    """Opens what `weavejax.extract` wrote.

    Raises:
      UserError: nothing finished is there.
    """
    directory = Path(directory)
    if not (directory / "dataset_info.json").is_file():
        begun = (directory / MANIFEST).is_file()
        rest = "they are not finished: start the same command again" if begun else "there are none"
        raise UserError(f"{directory} holds no features to read: {rest}")
    builder = tfds.builder_from_directory(str(directory))
    records = builder.as_data_source(SPLIT, deserialize_method=RAW)
    manifest = json.loads((directory / MANIFEST).read_bytes())
    return FeatureSource(records, builder.info.features, manifest)


def feature_batches(
    source: FeatureSource,
    *,
    batch: int,
    seed: int,
    start_step: int = 0,
    rows: Sequence[int] | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Training batches without end, in the very order of `data.pipeline.train_batches`.

    Args:
      source: the features.
      batch: global batch size, B.
      seed: of the order.
      start_step: the first step: resuming is starting here.
      rows: the rows of each global batch that this process holds (b of them); default all.

    Yields:
      The arrays of the records, stacked, and `index` int32 [b].
    """
    order = record_order(len(source), seed)
    mine = tuple(range(batch) if rows is None else rows)
    step = start_step
    while True:
        index = [int(order[step * batch + row]) for row in mine]
        records = [source[each] for each in index]
        stacked = {name: np.stack([record[name] for record in records]) for name in records[0]}
        yield stacked | {"index": np.asarray(index, np.int32)}
        step += 1
