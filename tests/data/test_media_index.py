"""Media is found by its exact name and by nothing else; what is missing is said before the start."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weavejax.data.annotations import Row
from weavejax.data.inventory import NO_AUDIO_FILE, NO_FILE, NO_SUBTITLE, Lack, take_inventory
from weavejax.data.media_index import MediaIndex
from weavejax.errors import UserError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_never_by_prefix(tmp_path: Path) -> None:
    # As in MSR-VTT, where 948 of the training ids are the beginning of another: here 99 of them,
    # and the files of the short ones are not there.
    ids = [f"video{n}" for n in range(1000)]
    touch(*(tmp_path / f"{name}.mp4" for name in ids if len(name) == len("video100")))
    index = MediaIndex(tmp_path)
    prefixes = [a for a in ids if any(b != a and b.startswith(a) for b in ids)]
    assert len(prefixes) == 99
    assert all(index.find([name]) == "" for name in prefixes)
    assert all(index.find([name]) == f"{name}.mp4" for name in ids[100:])


@settings(max_examples=60, deadline=None)
@given(
    held=st.sets(
        st.text("ab._-1", min_size=1, max_size=5).filter(lambda t: t[0] != "."), max_size=6
    ),
    asked=st.text("ab._-1", min_size=1, max_size=5),
)
def test_only_the_whole_name_counts(
    held: set[str], asked: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("media")
    touch(*(root / f"{name}.mp4" for name in held))
    assert MediaIndex(root).find([asked]) == (f"{asked}.mp4" if asked in held else "")


def test_extensions_names_and_folders(tmp_path: Path) -> None:
    touch(
        *(
            tmp_path / name
            for name in ("a.webm", "a.mp4", "b.MOV", "sub/c.x.wav", "d.txt", ".e.mp4")
        )
    )
    index = MediaIndex(tmp_path)
    assert index.find(["a"]) == "a.mp4"
    assert index.find(["a.webm"]) == "a.webm"
    assert index.find(["A"]) == ""
    assert index.find(["zz", "b"]) == "b.MOV"
    assert index.find(["c.x"]) == "sub/c.x.wav"
    assert index.find(["c"]) == ""
    assert index.find(["d"]) == index.find([".e"]) == index.find(["e"]) == ""
    assert index.files == 4
    touch(tmp_path / "other" / "c.x.wav")
    with pytest.raises(
        UserError, match=r"holds both other/c\.x\.wav and sub/c\.x\.wav: keep the one"
    ):
        MediaIndex(tmp_path).find(["c.x"])
    with pytest.raises(UserError, match="nowhere does not exist"):
        MediaIndex(tmp_path / "nowhere")


def test_links_may_not_lead_out_but_the_folder_may_be_one(tmp_path: Path) -> None:
    touch(tmp_path / "far" / "a.mp4", tmp_path / "secret.mp4")
    (tmp_path / "near").symlink_to(tmp_path / "far")
    assert MediaIndex(tmp_path / "near").find(["a"]) == "a.mp4"
    (tmp_path / "far" / "b.mp4").symlink_to(tmp_path / "secret.mp4")
    with pytest.raises(UserError, match="symbolic link that leaves"):
        MediaIndex(tmp_path / "near").find(["b"])
    (tmp_path / "far" / "c.mp4").symlink_to(tmp_path / "far" / "gone.mp4")
    assert MediaIndex(tmp_path / "far").find(["c"]) == ""


def test_an_inventory_counts_names_and_writes(tmp_path: Path) -> None:
    rows = [Row(f"clip{n}", ("x",), (f"clip{n}",), "said" if n % 2 else "") for n in range(40)]
    touch(*(tmp_path / "videos" / f"clip{n}.mp4" for n in range(28)))
    touch(
        *(tmp_path / "audios" / f"clip{n}.mp3" for n in range(24)), tmp_path / "audios/clip39.mp3"
    )
    videos, audios = (MediaIndex(tmp_path / name) for name in ("videos", "audios"))
    found = take_inventory({"train": rows, "test": rows[:2]}, videos, audios)
    assert [len(found.items[split]) for split in ("train", "test")] == [29, 2]
    assert os.path.basename(found.items["train"][-1].audio) == "clip39.mp3"
    assert found.items["train"][-1].video == ""
    found.write(tmp_path)
    lines = (tmp_path / "report.txt").read_text().splitlines()
    assert lines[1].split() == ["train", "40", "29", "11", "4", "1", "14"]
    assert lines[2].split() == ["test", "2", "2", "0", "0", "0", "1"]
    assert lines[3] == "no file: " + ", ".join(f"clip{n}" for n in range(28, 38)) + ", …"
    written = [json.loads(line) for line in (tmp_path / "missing.jsonl").read_text().splitlines()]
    kinds = [row["lacks"] for row in written if row["split"] == "train"]
    assert (kinds.count(NO_FILE), kinds.count(NO_AUDIO_FILE), kinds.count(NO_SUBTITLE)) == (
        11,
        4,
        14,
    )
    assert {row["reason"] for row in written if row["id"] == "clip30"} == {"none named clip30"}


def test_whether_missing_media_stops_the_run(tmp_path: Path) -> None:
    rows = [Row(f"clip{n}", ("x",), (f"clip{n}",)) for n in range(10)]
    touch(*(tmp_path / f"clip{n}.mp4" for n in range(8)))
    found = take_inventory({"train": rows}, MediaIndex(tmp_path), None)
    assert {lack.kind for lack in found.lacks} == {NO_FILE}  # a set without subtitles lacks none
    with pytest.raises(
        UserError, match=r"2 of 10 clips of train cannot be used .*: clip8, clip9; all"
    ):
        found.check("error", 1.0, tmp_path)
    with pytest.raises(UserError, match=r"limit is 0\.1"):
        found.check("skip", 0.1, tmp_path)
    found.check("skip", 0.2, tmp_path)
    with pytest.raises(UserError, match="3 of 10"):
        found.with_lacks([Lack("train", "clip0", "unreadable")]).check("skip", 0.2, tmp_path)
    found.with_lacks([Lack("train", "clip0", "no sound")]).check("skip", 0.2, tmp_path)
    nothing = take_inventory({"train": rows[8:]}, MediaIndex(tmp_path), None)
    with pytest.raises(UserError, match="2 of 2"):
        nothing.check("skip", 1.0, tmp_path)
