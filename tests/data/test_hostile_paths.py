"""Caption files and folders of strangers: no path leaves the data folder, no row costs much."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making_media import counting_movie, sound_file, tone

from weavejax.data import captions
from weavejax.data.clip import DecodeError
from weavejax.data.decode import decode_audio, decode_frames, probe
from weavejax.data.folder import open_folder
from weavejax.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    (folder / "bell.wav").write_bytes(sound_file(tone(0.2), form="WAV"))
    (tmp_path / "secret.wav").write_bytes(sound_file(tone(0.3), form="WAV"))
    (tmp_path / "data_too").mkdir()
    (tmp_path / "data_too" / "x.wav").write_bytes(sound_file(tone(0.3), form="WAV"))
    return folder


def table(root: Path, *rows: dict[str, Any]) -> Path:
    (root / "captions.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return root


def refused(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        open_folder(root)
    line = str(caught.value)
    assert "\n" not in line
    assert line.isprintable()
    assert len(line) < 600
    return line


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("../secret.wav", "leaves the data folder"),
        ("sub/../../secret.wav", "leaves the data folder"),
        ("../data_too/x.wav", "leaves the data folder"),
        ("..", "leaves the data folder"),
        ("/etc/passwd", "leaves the data folder"),
        ("//etc/passwd", "leaves the data folder"),
        ("/dev/zero", "leaves the data folder"),
        ("bell.wav\0.mp4", "control character"),
        ("bell\n.wav", "control character"),
        ("\x1b[2Jbell.wav", "control character"),
        ("b" * 5000, "longer than 1024"),
        ("b" * 300 + ".wav", "are not under"),
        ("a/" * 500 + "b.wav", "are not under"),
        ("sub", "are not under"),
        (".", "are not under"),
        ("~/x.wav", "are not under"),
        ("file:///etc/passwd", "are not under"),
        ("concat:bell.wav|bell.wav", "are not under"),
        ("bell.wav/", ""),
        ("\ud800.wav", "lone surrogate"),
    ],
)
@pytest.mark.parametrize("column", ["video", "audio"])
def test_paths_that_are_refused(root: Path, column: str, path: str, message: str) -> None:
    table(root, {column: path})
    if message:
        assert message in refused(root)
    else:
        assert len(open_folder(root)) == 1


def test_symbolic_links_that_lead_outside(root: Path) -> None:
    (root / "link.wav").symlink_to(root.parent / "secret.wav")
    (root / "way").symlink_to(root.parent)
    (root / "chain.wav").symlink_to(root / "link.wav")
    for path in ("link.wav", "way/secret.wav", "chain.wav", "way/data_too/x.wav"):
        assert "is a symbolic link that leaves" in refused(table(root, {"audio": path}))
    (root / "captions.jsonl").unlink()
    assert "is a symbolic link that leaves" in refused(root)  # without a caption file


def test_symbolic_links_inside_and_to_the_root(root: Path) -> None:
    (root / "sub" / "same.wav").symlink_to("../bell.wav")
    (root.parent / "alias").symlink_to(root)
    table(root, {"audio": "sub/same.wav"})
    for place in (root, root.parent / "alias"):
        assert open_folder(place)[0].audio == (root / "bell.wav").read_bytes()


def test_a_link_that_bites_its_tail(root: Path) -> None:
    (root / "loop.wav").symlink_to("loop.wav")
    assert "are not under" in refused(table(root, {"audio": "loop.wav"}))


def test_a_caption_file_that_is_a_link(root: Path) -> None:
    (root.parent / "private.csv").write_text("password\nswordfish\n")
    (root / "captions.csv").symlink_to(root.parent / "private.csv")
    line = refused(root)
    assert "leaves the data folder" in line
    assert "password" not in line


@pytest.fixture
def pipe(root: Path) -> Path:
    os.mkfifo(root / "pipe.wav")
    return root / "pipe.wav"


def test_pipes_do_not_block(root: Path, pipe: Path) -> None:
    assert "are not under" in refused(table(root, {"audio": "pipe.wav"}))
    (root / "captions.jsonl").unlink()
    assert [open_folder(root).id(0), len(open_folder(root))] == ["bell.wav", 1]
    for read in (probe, lambda path: decode_audio(path, 16000), lambda p: decode_frames(p, [0])):
        with pytest.raises(DecodeError, match="not a plain file"):
            read(pipe)


def test_devices_folders_and_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s")
        for place in (Path("/dev/zero"), Path("/dev/tty"), tmp_path, tmp_path / "s"):
            with pytest.raises(DecodeError):
                decode_audio(place, 16000)


def test_a_file_that_becomes_a_pipe_is_a_broken_record(root: Path) -> None:
    source = open_folder(table(root, {"audio": "bell.wav"}))
    (root / "bell.wav").unlink()
    os.mkfifo(root / "bell.wav")
    with pytest.raises(DecodeError, match="not a plain file"):
        source[0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("captions.csv", b"\xff\xfe\x00v\x00i", "is not UTF-8 text"),
        ("captions.csv", b"video,caption\nbell.wav,\xe9t\xe9\n", "is not UTF-8 text"),
        ("captions.csv", b"video\n" + b"x" * 200_000, "field larger than field limit"),
        ("captions.csv", b'video\n"never closed', "line 2"),
        ("captions.csv", b",".join(b"c%d" % i for i in range(10**5)), "unknown columns"),
        ("captions.csv", b"\0" * 1000, "unknown columns"),
        ("captions.tsv", b"video\tvideo\nx\ty\n", "names a column twice"),
        ("captions.jsonl", b"[" * 100_000, "is not a plain row: too deep"),
        ("captions.jsonl", b'{"video": ' * 100_000, "is not a plain row: too deep"),
        ("captions.jsonl", b'{"video": ' + b"1" * 10_000 + b"}", "is not a plain row"),
        ("captions.jsonl", b'{"video": "a", "video": "b"}', "a key stands twice"),
        ("captions.jsonl", b'{"video": "' + b"x" * 2_000_000, "has more than 1048576 characters"),
        ("captions.jsonl", b'{"video": {"a": "%s"}}' % (b"x" * 9999), "video must be a text"),
        ("captions.jsonl", b'{"audio": "bell.wav", "id": "%s"}' % (b"x" * 9999), "the id"),
        ("captions.jsonl", b'{"audio": "bell.wav", "caption": "\\ud800"}', "lone surrogate"),
        (
            "captions.jsonl",
            json.dumps({"audio": "bell.wav", "caption": ["x"] * 2000}).encode(),
            "2000 captions of one clip",
        ),
    ],
)
def test_caption_files_beyond_measure(root: Path, name: str, content: bytes, message: str) -> None:
    (root / name).write_bytes(content)
    assert message in refused(root)


def test_captions_of_one_clip_add_up_to_a_bound(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captions, "MAX_CAPTIONS", 3)
    rows = [{"audio": "bell.wav", "caption": [f"a{i}", f"b{i}"]} for i in range(2)]
    assert "has more than 3 captions" in refused(table(root, *rows))


def test_a_caption_file_of_too_many_bytes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captions, "MAX_FILE", 10)
    assert "has more than 10 bytes" in refused(table(root, {"audio": "bell.wav"}))


def test_a_byte_order_mark_and_windows_lines(root: Path) -> None:
    (root / "captions.csv").write_bytes(b"\xef\xbb\xbfaudio,caption\r\nbell.wav,rung\r\n")
    assert open_folder(root).captions() == ["rung"]


cells = st.text(max_size=12) | st.sampled_from(["bell.wav", "../secret.wav", "sub", "\0", "."])
values = st.recursive(
    st.none() | st.booleans() | st.floats() | cells,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(cells, inner, max_size=2),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.dictionaries(st.sampled_from([*captions.COLUMNS, "x"]), values, max_size=4), max_size=3
    )
)
def test_no_row_raises_anything_else(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    root = tmp_path_factory.getbasetemp() / "rows"
    (root / "sub").mkdir(parents=True, exist_ok=True)
    (root / "bell.wav").write_bytes(b"x")
    try:
        source = open_folder(table(root, *rows), split="all")
    except UserError:
        return
    assert all(len(source[i].audio + source[i].video) > 0 for i in range(len(source)))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["csv", "tsv", "jsonl"]), st.binary(max_size=80))
def test_no_bytes_raise_anything_else(
    tmp_path_factory: pytest.TempPathFactory, kind: str, content: bytes
) -> None:
    root = tmp_path_factory.getbasetemp() / "bytes"
    root.mkdir(exist_ok=True)
    file = root / f"table.{kind}"
    file.write_bytes(b"video,caption\n" + content if kind == "csv" else content)
    with pytest.raises(UserError):
        open_folder(root, str(file))


def test_a_folder_of_a_stranger_still_works(root: Path) -> None:
    (root / "ü — 音.mp4").write_bytes(counting_movie(5))
    table(root, {"video": "ü — 音.mp4", "caption": "音"}, {"audio": "./sub/../bell.wav"})
    source = open_folder(root)
    assert [source.id(i) for i in range(2)] == ["ü — 音.mp4", "bell.wav"]
    assert decode_frames(source[0].video, [0.0]).shape[0] == 1
