"""A plain folder as clips: scanning, caption tables, splits, and their errors."""

import json
import logging
import os
import pickle
from pathlib import Path

import pytest
from making_media import counting_movie, movie, numbered, sound_file, tone

from weavejax.data.folder import open_folder
from weavejax.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "hitting_metal.mp4").write_bytes(movie([numbered(1)] * 5, sound=tone(0.4)))
    (tmp_path / "sub" / "long-rain.mp3").write_bytes(counting_movie(5))  # not an mp3 at all
    (tmp_path / "bell.wav").write_bytes(sound_file(tone(0.2), form="WAV"))
    return tmp_path


def write(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


def test_scan_finds_media_by_content(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(root / "notes.txt", "not media")
    write(root / "unknown.dat", "not media either")
    (root / "film.data").write_bytes(counting_movie(5))
    (root / ".hidden.mp4").write_bytes(counting_movie(5))
    with caplog.at_level(logging.WARNING):
        source = open_folder(root)
    ids = [source.id(i) for i in range(len(source))]
    assert ids == ["bell.wav", "film.data", "hitting_metal.mp4", "sub/long-rain.mp3"]
    assert source.captions() == ["bell", "film", "hitting metal", "long rain"]
    assert len(caplog.records) == 1
    assert "no caption file" in caplog.text
    bell, film = source[0], source[1]
    assert (bell.video, film.audio) == (b"", b"")
    assert bell.audio == (root / "bell.wav").read_bytes()
    assert film.captions == ("film",)


def test_broken_media_is_kept_to_be_reported(root: Path) -> None:
    (root / "broken.mp4").write_bytes(b"")
    source = open_folder(root)
    assert "broken.mp4" in [source.id(i) for i in range(len(source))]
    assert "broken.mp4: unreadable (empty file)" in source.describe()


def test_description_names_the_streams(root: Path) -> None:
    lines = open_folder(root).describe()
    assert lines[0] == "bell.wav: audio #0 pcm_s16le 16000 Hz mono"
    assert lines[1] == ("hitting_metal.mp4: video #0 h264 64×48 15 fps, audio #1 aac 16000 Hz mono")
    rows = list(open_folder(root).streams())
    assert rows[2]["video"]["file"] == os.path.join("sub", "long-rain.mp3")
    json.dumps(rows)


def test_csv_with_several_captions_per_clip(root: Path) -> None:
    write(
        root / "captions.csv",
        "id,video,audio,caption,subtitle\n"
        'a,hitting_metal.mp4,bell.wav,"hit, once",hello\n'
        "a,hitting_metal.mp4,bell.wav,a second one,hello\n"
        "b,,bell.wav,,\n",
    )
    source = open_folder(root)
    assert [source.id(i) for i in range(len(source))] == ["a", "b"]
    assert source.text(0) == (("hit, once", "a second one"), "hello")
    assert source[0].audio == (root / "bell.wav").read_bytes()
    assert source[0].video == (root / "hitting_metal.mp4").read_bytes()
    assert source[1].captions == ()
    assert source[1].video == b""


def test_jsonl_tsv_and_a_named_file(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    rows = [{"video": "hitting_metal.mp4", "caption": ["one", "two"]}, {"audio": "bell.wav"}]
    write(root / "captions.jsonl", "\n".join(json.dumps(row) for row in rows))
    assert open_folder(root).captions() == ["one", "two"]
    elsewhere = tmp_path_factory.mktemp("tables") / "mine.tsv"
    write(elsewhere, "\ufeffvideo\tcaption\nhitting_metal.mp4\tthree\n")
    assert open_folder(root, str(elsewhere)).captions() == ["three"]


def test_same_file_for_both_counts_once(root: Path) -> None:
    write(root / "captions.csv", "video,audio\nhitting_metal.mp4,hitting_metal.mp4\n")
    clip = open_folder(root)[0]
    assert clip.audio == b""
    assert clip.video


TABLES = {
    "unknown columns 'text', 'fps'": "video,text,fps\na,b,c\n",
    "allowed are id, video, audio, caption": "video,text\na,b\n",
    "neither a video nor an audio column": "id,caption\na,b\n",
    "names a column twice": "video,caption,caption\na,b,c\n",
    "2 files named in .* are not under .*: x.mp4, y.mp4": "video\nx.mp4\ny.mp4\n",
    "line 2: ../secret.mp4 leaves the data folder": "video\n../secret.mp4\n",
    "/etc/passwd leaves the data folder": "video\n/etc/passwd\n",
    "sub/../../x leaves": "video\nsub/../../x\n",
    "line 2 has 3 cells for 2 columns": "video,caption\nbell.wav,a,b\n",
    "line 2 names neither": "video,caption\n,hello\n",
    "has no rows": "video,caption\n",
    "has video 'bell.wav' here and": "id,video\na,hitting_metal.mp4\na,bell.wav\n",
}


@pytest.mark.parametrize("message", list(TABLES))
def test_faulty_tables(root: Path, message: str) -> None:
    write(root / "captions.csv", TABLES[message])
    with pytest.raises(UserError, match=message) as caught:
        open_folder(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1 is not JSON"),
        ("[1]", "not a JSON object"),
        ('{"video": "bell.wav", "caption": 3}', "caption must be a text"),
        ('{"video": 7}', "video must be a text"),
        ('{"video": "bell.wav", "label": 1}', "unknown columns 'label'"),
    ],
)
def test_faulty_json_lines(root: Path, line: str, message: str) -> None:
    write(root / "captions.jsonl", line)
    with pytest.raises(UserError, match=message):
        open_folder(root)


def test_many_missing_files_are_listed_in_part(root: Path) -> None:
    write(root / "captions.csv", "video\n" + "\n".join(f"clip{i:02}.mp4" for i in range(30)))
    with pytest.raises(UserError, match=r"30 files named in .*clip09\.mp4, …$"):
        open_folder(root)


def test_faulty_folders(tmp_path: Path, root: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        open_folder(tmp_path / "nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="holds no media files"):
        open_folder(empty)
    with pytest.raises(UserError, match=r"nothing\.csv does not exist"):
        open_folder(root, "nothing.csv")
    write(root / "captions.csv", "video\nbell.wav\n")
    write(root / "captions.tsv", "video\nbell.wav\n")
    with pytest.raises(UserError, match="several caption files"):
        open_folder(root)


def test_split_column(root: Path) -> None:
    table = "audio,split\nbell.wav,train\nhitting_metal.mp4,test\nsub/long-rain.mp3,\n"
    write(root / "captions.csv", table)
    assert len(open_folder(root, split="train")) == 2
    assert open_folder(root, split="test").id(0) == "hitting_metal.mp4"
    assert len(open_folder(root, split="all")) == 3
    with pytest.raises(UserError, match=r"'val' .* has no clips: it has 3 in all, in test, train"):
        open_folder(root, split="val")


def test_holdout_parts_the_clips(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(sound_file(tone(0.1), form="WAV"))
    rows = "\n".join(f"clip{i},x.wav" for i in range(400))
    write(tmp_path / "captions.csv", "id,audio\n" + rows)

    def ids(split: str, share: float) -> set[str]:
        source = open_folder(tmp_path, split=split, holdout=share)
        return {source.id(i) for i in range(len(source))}

    assert ids("train", 0.0) == ids("test", 0.0) == ids("all", 0.2)
    train, test = ids("train", 0.2), ids("test", 0.2)
    assert not train & test
    assert len(train | test) == 400
    assert 50 < len(test) < 110
    assert test < ids("test", 0.4)  # a larger share only adds clips


def test_fingerprint_follows_the_clips(root: Path) -> None:
    before = open_folder(root).fingerprint
    assert open_folder(root).fingerprint == before
    stat = (root / "bell.wav").stat()
    os.utime(root / "bell.wav", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    changed = open_folder(root).fingerprint
    assert changed != before
    write(root / "captions.csv", "video,caption\nhitting_metal.mp4,x\n")
    assert open_folder(root).fingerprint not in (before, changed)


def test_source_travels_to_other_processes(root: Path) -> None:
    source = open_folder(root)
    assert pickle.loads(pickle.dumps(source))[0] == source[0]
