"""Writing a data set as ArrayRecord shards that appear whole, and the TFDS metadata beside them.

Without TensorFlow, and resumable: a shard is written under another name and renamed when it is
finished, so a run that was ended at any moment goes on with the shards that are not there.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from weavejax.errors import UserError

# One record a group: random access. Not compressed: media already is.
WRITING = "group_size:1,uncompressed"
PART = ".part"
INFO = "dataset_info.json"


def shard_name(name: str, split: str, number: int, count: int) -> str:
    """File name of a shard, as TFDS expects it."""
    return f"{name}-{split}.array_record-{number:05d}-of-{count:05d}"


def write_shard(
    path: Path, records: Iterable[bytes], ready: Callable[[], None] = lambda: None
) -> int:
    """Writes a shard, whole or not at all; the same records give the same bytes.

    Args:
      path: of the shard.
      records: of it.
      ready: called when all are written, before the shard appears.

    Returns:
      How many records there were.

    Raises:
      OSError: it could not be written; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    writer, count = ArrayRecordWriter(str(part), WRITING), 0
    try:
        try:
            for record in records:
                writer.write(record)
                count += 1
        finally:
            writer.close()
        with part.open("rb") as file:
            os.fsync(file.fileno())
        ready()
        os.replace(part, path)
    except RuntimeError as error:  # what ArrayRecord says of a full disk
        raise OSError(str(error)) from error
    finally:
        part.unlink(missing_ok=True)
    return count


def count_records(path: Path) -> int:
    """How many records a finished shard holds.

    Raises:
      FileNotFoundError: it is not there.
      UserError: it is damaged.
    """
    path.stat()
    try:
        reader = ArrayRecordReader(str(path))
        count = int(reader.num_records())
        reader.close()
    except (RuntimeError, ValueError) as error:
        path.stat()  # or moved away meanwhile
        raise UserError(f"{path} is damaged: remove it and run the same command again") from error
    return count


def write_info(
    folder: Path,
    name: str,
    features: tfds.features.FeaturesDict,
    shards: Mapping[str, int],
    *,
    config: str | None = None,
    version: str = "1.0.0",
    description: str = "",
) -> dict[str, int]:
    """Writes `features.json` and, last of all, `dataset_info.json` for finished shards.

    Args:
      folder: that holds the shards.
      name: of the data set.
      features: of a record.
      shards: split → how many there are.
      config: name of the options.
      version: of the data set.
      description: a sentence or two.

    Returns:
      split → records.

    Raises:
      UserError: a shard is damaged.
    """
    identity = tfds.core.dataset_info.DatasetIdentity(
        name=name,
        version=tfds.core.Version(version),
        data_dir=str(folder),
        module_name="weavejax",
        config_name=config,
    )
    info = tfds.core.DatasetInfo(
        builder=identity, description=description, features=features, disable_shuffling=True
    )
    info.set_file_format("array_record")
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=name, filetype_suffix="array_record"
    )
    splits = []
    for split, count in shards.items():
        paths = [folder / shard_name(name, split, number, count) for number in range(count)]
        splits.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[count_records(path) for path in paths],
                num_bytes=sum(path.stat().st_size for path in paths),
                filename_template=template,
            )
        )
    info.set_splits(tfds.core.splits.SplitDict(splits))
    # Beside one another first: whoever opens the set never finds half a file.
    with tempfile.TemporaryDirectory(PART, ".info-", folder, ignore_cleanup_errors=True) as made:
        info.write_to_directory(made)
        for path in sorted(Path(made).iterdir(), key=lambda path: path.name == INFO):
            os.replace(path, folder / path.name)
    return {split.name: sum(split.shard_lengths) for split in splits}


def remove_parts(folder: Path) -> None:
    """Removes what processes that were killed left behind; only when none is writing."""
    for path in (*folder.glob(f".*{PART}"), *folder.glob("*.partial")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def serialiser(features: tfds.features.FeaturesDict) -> Callable[[Mapping[str, Any]], bytes]:
    """example → the bytes of its record, always the same ones.

    TFDS's own serialisation puts the fields in an order that changes from process to process.
    """
    proto = tfds.core.example_serializer.ExampleSerializer(features.get_serialized_info())

    def serialise(example: Mapping[str, Any]) -> bytes:
        encoded = proto.get_tf_example(features.encode_example(example))
        return bytes(encoded.SerializeToString(deterministic=True))

    return serialise
