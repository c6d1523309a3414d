"""Clips of a prepared TFDS directory (ArrayRecord files, read without TensorFlow)."""

import contextlib
import errno
import fcntl
import hashlib
import importlib
import inspect
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import tensorflow_datasets as tfds

from weavejax.data.clip import Clip, Source
from weavejax.data.inventory import REPORT
from weavejax.errors import UserError

RAW = tfds.core.decode.DeserializeMethod.RAW_BYTES
TEXT_FIELDS = ("id", "captions", "subtitle")
FIELDS = (*TEXT_FIELDS, "video", "audio", "controls")
SAMPLE_BYTES = 2**16  # of each end of a shard, hashed into the fingerprint


class TfdsSource:
    """One split of a prepared data set; see `open_tfds`.

    Attributes:
      fingerprint: see `data.clip.Source`.
      report: what was missing when the set was prepared; empty where nobody counted.
    """

    def __init__(
        self, records: Sequence[bytes], features: Any, fingerprint: str, report: str = ""
    ) -> None:
        self._records = records
        self._all = _subset(features, FIELDS)
        self._text = _subset(features, TEXT_FIELDS)
        self._id = _subset(features, ("id",))
        self.fingerprint, self.report = fingerprint, report

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Clip:
        record = self._all.deserialize_example_np(self._records[index])
        return Clip(
            id=_text(record["id"]),
            video=record.get("video", b""),
            audio=record.get("audio", b""),
            captions=tuple(map(_text, record.get("captions", ()))),
            subtitle=_text(record.get("subtitle", b"")),
            controls=_text(record.get("controls", b"")),
        )

    def id(self, index: int) -> str:
        return _text(self._id.deserialize_example_np(self._records[index])["id"])

    def text(self, index: int) -> tuple[tuple[str, ...], str]:
        record = self._text.deserialize_example_np(self._records[index])
        captions = tuple(map(_text, record.get("captions", ())))
        return captions, _text(record.get("subtitle", b""))

    def captions(self) -> Sequence[str]:
        return [caption for index in range(len(self)) for caption in self.text(index)[0]]


def open_tfds(directory: str | Path, split: str) -> Source:
    """Opens one split of a prepared TFDS directory.

    Args:
      directory: holds `dataset_info.json` and the ArrayRecord shards.
      split: as TFDS writes them: "train", "test[:100]", …

    Raises:
      UserError: no prepared data there, no such split, or records that are not clips.
    """
    directory = Path(directory)
    if not (directory / "dataset_info.json").is_file():
        raise UserError(f"{directory} holds no prepared data set (no dataset_info.json in it)")
    builder = tfds.builder_from_directory(str(directory))
    features = builder.info.features
    if "id" not in features or not {"video", "audio"} & set(features):
        raise UserError(
            f"the records of {directory} are not clips: they hold {', '.join(sorted(features))}; "
            "needed are id and video or audio"
        )
    try:
        records = builder.as_data_source(split, deserialize_method=RAW)
    except ValueError as error:
        have = ", ".join(sorted(builder.info.splits))
        raise UserError(f"{directory} has no split {split!r}: it has {have}") from error
    if not len(records):
        raise UserError(f"split {split!r} of {directory} is empty")
    report = directory / REPORT
    text = report.read_text() if report.is_file() else ""
    return TfdsSource(records, features, _fingerprint(builder.info, split), text)


def prepare_tfds(folder: str | Path, data_dir: str | Path, options: dict[str, Any]) -> Path:
    """Prepares the data set of a folder that is a Python package with a `builder` function.

    Args:
      folder: of the data set, such as `datasets/foley_world`; its parent joins `sys.path`.
      data_dir: where prepared sets go.
      options: keyword arguments for `builder(data_dir=…, **options)`, which returns a TFDS builder.

    Returns:
      The prepared directory, for `open_tfds`; nothing is done again when it is there already.

    Raises:
      UserError: not a data-set folder, an option it does not know, or a full disk.
    """
    builder = make_builder(folder, data_dir, options)
    with _alone(Path(data_dir)):
        if builder.is_prepared():
            return Path(str(builder.data_dir))
        try:
            builder.download_and_prepare(file_format="array_record")
        except Exception as error:
            if not _disk_is_full(error):
                raise
            raise UserError(_full_disk_line(Path(data_dir))) from error
    return Path(str(builder.data_dir))


def make_builder(folder: str | Path, data_dir: str | Path, options: dict[str, Any]) -> Any:
    """The TFDS builder of a data-set folder; nothing is prepared. As `prepare_tfds` otherwise."""
    module = _data_set_module(Path(folder))
    accepted = inspect.signature(module.builder).parameters
    unknown = sorted(set(options) - set(accepted))
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in accepted.values()):
        have = ", ".join(name for name in accepted if name != "data_dir")
        raise UserError(f"{folder} has no option {', '.join(unknown)}: it has {have}")
    return module.builder(data_dir=str(data_dir), **options)


@contextlib.contextmanager
def _alone(data_dir: Path) -> Iterator[None]:
    """Only one process of a host prepares; the others wait here and find it done."""
    data_dir.mkdir(parents=True, exist_ok=True)
    with open(data_dir / ".preparing", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _data_set_module(folder: Path) -> ModuleType:
    folder = folder.resolve()
    if not folder.is_dir():
        raise UserError(f"the data-set folder {folder} does not exist")
    if not (folder / "__init__.py").is_file() or not folder.name.isidentifier():
        raise UserError(f"{folder} is not a data-set folder: no __init__.py with a builder in it")
    if str(folder.parent) not in sys.path:
        sys.path.insert(0, str(folder.parent))
    module = importlib.import_module(folder.name)
    if folder not in [Path(place).resolve() for place in module.__path__]:
        raise UserError(f"rename the data-set folder {folder}: a package of that name is loaded")
    if not callable(getattr(module, "builder", None)):
        raise UserError(f"{folder} is not a data-set folder: its __init__.py has no builder")
    return module


def _disk_is_full(error: BaseException | None) -> bool:
    """Whether a full disk is anywhere in the chain: TFDS and ArrayRecord wrap the OSError."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return True
        if os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _full_disk_line(data_dir: Path) -> str:
    place = data_dir
    while not place.exists():
        place = place.parent
    usage = shutil.disk_usage(place)
    return (
        f"the disk of {data_dir} is full ({usage.free / 1e9:.3g} GB free of "
        f"{usage.total / 1e9:.3g} GB): make room and run the same command again, it goes on with "
        "the clips that are finished"
    )


def _subset(features: Any, names: tuple[str, ...]) -> Any:
    return tfds.features.FeaturesDict({name: features[name] for name in names if name in features})


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode()


def _fingerprint(info: Any, split: str) -> str:
    """Of the name, version, split and shards; a copy on another machine has the same one.

    A shard counts by its size and both its ends: media bytes and the index of records sit there.
    """
    digest = hashlib.sha256(json.dumps([info.full_name, split]).encode())
    names = [name for name in sorted(info.splits) if name in split] or sorted(info.splits)
    for part in (info.splits[name] for name in names):
        for path in part.filepaths:
            size = os.path.getsize(path)
            digest.update(f"{Path(path).name} {size}".encode())
            with open(path, "rb") as file:
                digest.update(file.read(SAMPLE_BYTES))
                file.seek(max(0, size - SAMPLE_BYTES))
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()[:32]
