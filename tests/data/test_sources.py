"""Prepared TFDS directories as sources, and preparing them from a data-set folder."""

import errno
import json
import pickle
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from weavejax.data import sources
from weavejax.data.sources import open_tfds, prepare_tfds
from weavejax.errors import UserError

BUILDER = """
import numpy as np
import tensorflow_datasets as tfds

class Toy(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    CLIPS = 6

    def _info(self):
        text, blob = tfds.features.Text(), tfds.features.Text()
        features = {"id": text, "video": blob, "audio": blob, "subtitle": text, "controls": text,
                    "captions": tfds.features.Sequence(text),
                    "extra": tfds.features.Scalar(np.float32)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(0, self.CLIPS),
                "test": self._generate_examples(9, 2)}

    def _generate_examples(self, first, count):
        for i in range(first, first + count):
            yield i, {"id": f"clip{i}", "video": np.random.default_rng(i).bytes(500), "audio": b"",
                      "extra": 1.0, "captions": [f"clip {i}", "é"], "subtitle": f"s{i}",
                      "controls": "{}"}

def builder(data_dir, clips=6):
    Toy.CLIPS = clips
    return Toy(data_dir=data_dir, file_format="array_record")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("sets") / "toy_set_of_the_tests"
    place.mkdir()
    (place / "__init__.py").write_text(BUILDER)
    yield place
    sys.modules.pop(place.name, None)
    if str(place.parent) in sys.path:
        sys.path.remove(str(place.parent))


@pytest.fixture(scope="module")
def prepared(folder: Path) -> Path:
    return prepare_tfds(folder, folder.parent / "prepared", {"clips": 5})


def test_preparing_twice_does_nothing_the_second_time(folder: Path, prepared: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in prepared.iterdir()}
    assert any("array_record" in file.name for file in before)
    assert prepare_tfds(folder, folder.parent / "prepared", {}) == prepared
    assert {file: file.stat().st_mtime_ns for file in prepared.iterdir()} == before


def test_records_become_clips(prepared: Path) -> None:
    source = open_tfds(prepared, "train")
    assert len(source) == 5
    ids = [source.id(i) for i in range(5)]
    assert sorted(ids) == [f"clip{i}" for i in range(5)]
    for i, name in enumerate(ids):
        clip = source[i]
        number = int(name[4:])
        assert clip.id == name
        assert clip.video == np.random.default_rng(number).bytes(500)
        assert clip.audio == b""
        assert clip.captions == (f"clip {number}", "é")
        assert (clip.subtitle, clip.controls) == (f"s{number}", "{}")
        assert source.text(i) == (clip.captions, clip.subtitle)
    assert source.captions() == [c for i in range(5) for c in source[i].captions]
    assert len(open_tfds(prepared, "test")) == 2
    assert len(open_tfds(prepared, "train[:2]")) == 2


def test_sources_travel_to_other_processes(prepared: Path) -> None:
    source = open_tfds(prepared, "train")
    assert pickle.loads(pickle.dumps(source))[3] == source[3]


def test_a_flipped_byte_breaks_one_record_only(prepared: Path, tmp_path: Path) -> None:
    copy = tmp_path / "toy" / "1.0.0"
    shutil.copytree(prepared, copy)
    shard = next(copy.glob("*train*array_record*"))
    clip = open_tfds(copy, "train")[2]
    content = bytearray(shard.read_bytes())
    content[content.index(clip.video) + 10] ^= 4
    shard.write_bytes(content)
    source = open_tfds(copy, "train")
    with pytest.raises(Exception, match=r"."):
        source[2]
    assert [len(source[i].video) for i in (0, 1, 3, 4)] == [500] * 4


def test_fingerprint(prepared: Path, tmp_path: Path) -> None:
    train = open_tfds(prepared, "train").fingerprint
    assert open_tfds(prepared, "train").fingerprint == train
    assert open_tfds(prepared, "test").fingerprint != train
    assert open_tfds(prepared, "train[:3]").fingerprint != train
    copy = tmp_path / "toy" / "1.0.0"
    shutil.copytree(prepared, copy)
    assert open_tfds(copy, "train").fingerprint == train
    shard = next(copy.glob("*train*array_record*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert open_tfds(copy, "train").fingerprint != train


def test_faulty_directories(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no prepared data set"):
        open_tfds(tmp_path / "nowhere", "train")
    with pytest.raises(UserError, match="no split 'val': it has test, train"):
        open_tfds(prepared, "val")
    copy = tmp_path / "toy" / "1.0.0"
    shutil.copytree(prepared, copy)
    features = json.loads((copy / "features.json").read_text())
    del features["featuresDict"]["features"]["id"]
    (copy / "features.json").write_text(json.dumps(features))
    with pytest.raises(UserError, match="are not clips: they hold audio, captions"):
        open_tfds(copy, "train")


def test_faulty_data_set_folders(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        prepare_tfds(tmp_path / "nowhere", tmp_path, {})
    with pytest.raises(UserError, match="not a data-set folder"):
        prepare_tfds(tmp_path, tmp_path, {})
    with pytest.raises(UserError, match="no option klips: it has clips"):
        prepare_tfds(folder, tmp_path, {"klips": 3})
    namesake = tmp_path / folder.name
    namesake.mkdir()
    (namesake / "__init__.py").write_text("")
    with pytest.raises(UserError, match="rename the data-set folder"):
        prepare_tfds(namesake, tmp_path, {})


def test_a_full_disk_is_one_clear_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules[folder.name]

    def generate(*_: object) -> Iterator[object]:
        raise OSError(errno.ENOSPC, "No space left on device")
        yield

    monkeypatch.setattr(module.Toy, "_generate_examples", generate)
    with pytest.raises(
        UserError, match=r"is full \(.* GB free of .*run the same command"
    ) as caught:
        prepare_tfds(folder, tmp_path / "data", {})
    assert "\n" not in str(caught.value)


def test_other_failures_are_not_taken_for_a_full_disk() -> None:
    wrapped = RuntimeError("writing failed")
    wrapped.__cause__ = OSError(errno.ENOSPC, "x")
    assert sources._disk_is_full(wrapped)
    assert not sources._disk_is_full(RuntimeError("other"))
