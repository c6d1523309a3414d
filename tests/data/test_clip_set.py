"""Preparing a set: resumable at any moment, by any number of processes, always the same bytes."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tensorflow_datasets as tfds
from making_media import counting_movie, movie, numbered, read_number, sound_file, tone

from weavejax import prepare
from weavejax.data import clip_tasks, shards
from weavejax.data.annotations import Row
from weavejax.data.clip_options import MediaOptions, options_of
from weavejax.data.clip_set import ClipSet
from weavejax.data.decode import decode_frames
from weavejax.data.sources import open_tfds, prepare_tfds
from weavejax.errors import UserError

ROOT = Path(__file__).parents[2]
CLIPS = 14

with tfds.core.registered.skip_registration():

    class TestedSet(ClipSet):
        """A set of the tests."""

        __test__ = False


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with annotations of 14 clips in "train" and two in "test", and all their media."""
    folder = tmp_path / "root"
    (folder / "videos").mkdir(parents=True)
    (folder / "list.json").write_text("[]")
    for n in range(CLIPS + 2):
        film = movie([numbered(n, 16)] * 3, sound=tone(0.2) if n % 2 else None)
        (folder / "videos" / f"clip{n}.mp4").write_bytes(film)
    return folder


Make = Callable[..., ClipSet]


@pytest.fixture
def make(root: Path, tmp_path: Path) -> Make:
    """make(where, **options) → its builder."""

    def made(where: str = "prepared", **options: Any) -> ClipSet:
        rows = [Row(f"clip{n}", (f"number {n}",), (f"clip{n}",)) for n in range(CLIPS + 2)]
        splits = {"train": rows[:CLIPS], "test": rows[CLIPS:]}
        given = MediaOptions(**{"root": str(root), "shard": 4, **options})
        files = [root / "list.json"]
        return TestedSet(str(tmp_path / where), "all", files, lambda: splits, given)

    return made


def contents(builder: ClipSet) -> dict[str, str]:
    """Name → hash of every shard."""
    files = sorted(Path(builder.data_dir).glob("*array_record*"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_set_is_prepared_in_shards_in_order(make: Make) -> None:
    builder = make()
    assert builder.prepare()
    assert not builder.staging.exists()
    assert len(contents(builder)) == 4 + 1
    source = open_tfds(builder.data_dir, "train")
    assert [source.id(i) for i in range(len(source))] == [f"clip{n}" for n in range(CLIPS)]
    assert [read_number(decode_frames(source[n].video, [0])[0]) for n in (0, 5, 13)] == [0, 5, 13]
    raw = tfds.builder_from_directory(builder.data_dir).as_data_source("train")
    assert [r["has_audio"] for r in raw] == [bool(n % 2) for n in range(CLIPS)]
    assert all(r["has_video"] for r in raw)
    assert raw[3]["file"] == b"clip3.mp4"
    report = Path(builder.data_dir, "report.txt").read_text().splitlines()
    assert report[1].split() == ["train", "14", "14", "7"]
    assert open_tfds(builder.data_dir, "test").report.splitlines() == report
    before = contents(builder)
    assert make().prepare()
    assert contents(builder) == before
    assert len(open_tfds(builder.data_dir, "train[:5]")) == 5


def test_stopped_anywhere_it_goes_on_to_the_same_bytes(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make("whole")
    whole.prepare()
    write, written = clip_tasks.write_task, []

    def failing(task: clip_tasks.Task) -> None:
        if len(written) % 2:
            written.append("")
            raise OSError("the storage went away")
        write(task)
        written.append(task.path.name)

    monkeypatch.setattr(clip_tasks, "write_task", failing)
    for _ in range(4):
        with pytest.raises(OSError, match="went away"):
            make("again", threads=1).prepare()
    assert make("again", threads=1).prepare()
    names = [name for name in written if name]
    assert sorted(names) == sorted(contents(whole))  # each shard once
    assert contents(make("again")) == contents(whole)


def test_killed_in_the_middle_of_a_shard_it_ends_with_the_same_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    (root / "videos").mkdir(parents=True)
    film = counting_movie(200, sound=tone(200 / 15))
    lines = [f"id_{n:08d},{n % 3},a sound,{'train' if n < 24 else 'test'}" for n in range(26)]
    (root / "vggsound.csv").write_text("\n".join(lines) + "\n")
    for n in range(26):
        (root / "videos" / f"id_{n:08d}.mp4").write_bytes(film)
    options = f"root={root},media=sources,shard=2,threads=1"
    command = [
        sys.executable,
        "-m",
        "weavejax.prepare",
        "--dataset",
        str(ROOT / "datasets/vggsound"),
    ]
    command += ["--options", options, "--directory"]
    process = subprocess.Popen(
        [*command, str(tmp_path / "killed")], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    found: list[Path] = []
    while process.poll() is None and time.monotonic() < deadline and len(found) < 3:
        found = list((tmp_path / "killed").rglob("*.array_record-*-of-00012"))
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in found if not path.name.startswith(".")}
    assert kept
    assert not list((tmp_path / "killed").rglob("dataset_info.json"))
    for where in ("killed", "whole"):
        prepare.main([*command[3:], str(tmp_path / where)])
        assert capsys.readouterr().out.startswith("prepared: ")
    killed, whole = (
        sorted((tmp_path / where).rglob("*.array_record-*")) for where in ("killed", "whole")
    )
    assert [path.read_bytes() for path in killed] == [path.read_bytes() for path in whole]
    assert len(whole) == 13
    by_name = {path.name: path.stat().st_mtime_ns for path in killed}
    assert {name: by_name[name] for name in kept} == kept  # what was there was not made again
    prepare.main([*command[3:], str(tmp_path / "whole")])
    assert capsys.readouterr().out.startswith("already prepared: ")


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_processes_share_the_shards_and_the_last_one_finishes(
    make: Make, order: tuple[int, ...]
) -> None:
    make("alone").prepare()
    done = [make("shared").prepare(process, 3) for process in order]
    assert done == [False, False, True]
    assert contents(make("shared")) == contents(make("alone"))


def test_processes_may_all_start_at_once(make: Make) -> None:
    make("alone").prepare()
    builders = [make("shared") for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(lambda k: builders[k].prepare(k, 6), range(6)))
    assert any(done)
    assert contents(builders[0]) == contents(make("alone"))
    assert not builders[0].staging.exists()
    left = {path.name for path in Path(builders[0].data_dir).iterdir()} - set(contents(builders[0]))
    assert left == {
        "dataset_info.json",
        "features.json",
        "missing.jsonl",
        "plan.json",
        "report.txt",
    }


def test_another_process_may_finish_first(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = make(), make()
    inventory = first.inventory()
    tasks = first.tasks(inventory)
    for task in tasks:
        clip_tasks.write_task(task)
    check = type(inventory).check

    def finished_meanwhile(self: Any, *arguments: Any) -> None:
        monkeypatch.setattr(type(inventory), "check", check)
        assert second.finish(inventory, tasks)
        check(self, *arguments)

    monkeypatch.setattr(type(inventory), "check", finished_meanwhile)
    monkeypatch.setattr(first, "inventory", lambda: inventory)
    monkeypatch.setattr(first, "tasks", lambda _: tasks)
    assert first.prepare()
    assert len(open_tfds(first.data_dir, "train")) == CLIPS


def test_two_may_finish_at_the_same_moment(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = make(), make()
    move = os.replace

    def late(old: Any, new: Any) -> None:
        """Just before the first one moves the set to its place, the second one does all of it."""
        if Path(new) == Path(first.data_dir):
            monkeypatch.setattr(os, "replace", move)
            assert second.prepare()
        move(old, new)

    monkeypatch.setattr(os, "replace", late)
    assert first.prepare()
    assert os.replace is move
    assert not list(Path(first.data_dir).glob("*.lacks.json"))
    assert len(open_tfds(first.data_dir, "train")) == CLIPS


def test_missing_and_broken_clips(make: Make, root: Path) -> None:
    (root / "videos" / "clip3.mp4").unlink()
    with pytest.raises(UserError, match=r"1 of 14 clips of train cannot be used .*: clip3; all of"):
        make().prepare()
    with pytest.raises(UserError, match=r"missing\.jsonl"):
        make(missing="skip", limit=0.05).prepare()
    (root / "videos" / "clip4.mp4").write_bytes(b"not a film")
    with pytest.raises(UserError, match=r"2 of 14 .*: clip3, clip4"):  # found when it was opened
        make(missing="skip", limit=0.1).prepare()
    builder = make(missing="skip", limit=0.2)
    assert builder.prepare()
    source = open_tfds(builder.data_dir, "train")
    assert [source.id(n) for n in range(4)] == ["clip0", "clip1", "clip2", "clip5"]
    lacks = [
        json.loads(x) for x in Path(builder.data_dir, "missing.jsonl").read_text().splitlines()
    ]
    lost = {row["id"]: row["lacks"] for row in lacks if row["lacks"] in ("no file", "unreadable")}
    assert lost == {"clip3": "no file", "clip4": "unreadable"}
    silent = [row["id"] for row in lacks if row["lacks"] == "no sound" and row["split"] == "train"]
    assert silent == ["clip0", "clip2", "clip6", "clip8", "clip10", "clip12"]  # kept all the same


def test_a_clip_that_was_mended_is_read_again(make: Make, root: Path) -> None:
    file = root / "videos" / "clip4.mp4"
    film = file.read_bytes()
    file.write_bytes(film[:100])
    with pytest.raises(UserError, match=r"1 of 14 .*: clip4"):
        make().prepare()
    kept = list(make().staging.glob("*array_record*00[0-9]"))
    assert len([path for path in kept if not path.name.startswith(".")]) == 4  # of five
    file.write_bytes(film)
    assert make().prepare()
    assert open_tfds(make().data_dir, "train")[4].video == film


def test_audio_files_take_the_place_of_the_sound_in_the_film(make: Make, root: Path) -> None:
    (root / "audios").mkdir()
    sound = sound_file(tone(0.3))
    (root / "audios" / "clip0.flac").write_bytes(sound)
    builder = make(audios="audios")
    builder.prepare()
    source = open_tfds(builder.data_dir, "train")
    assert (source[0].audio, source[1].audio) == (sound, b"")
    raw = tfds.builder_from_directory(builder.data_dir).as_data_source("train")
    assert [raw[n]["has_audio"] for n in range(3)] == [True, True, False]


def test_one_split_alone(make: Make, root: Path) -> None:
    (root / "videos" / "clip3.mp4").unlink()
    builder = make(splits="test")
    builder.prepare()
    assert list(tfds.builder_from_directory(builder.data_dir).info.splits) == ["test"]
    with pytest.raises(UserError, match="no split 'valid'; there are train, test"):
        make(splits="test,valid").inventory()


def test_what_was_begun_is_not_mixed_with_something_else(make: Make, root: Path) -> None:
    make(threads=1).prepare(0, 2)
    with pytest.raises(UserError, match="was begun with other annotations, media or options"):
        make(shard=5).prepare()
    (root / "videos" / "clip3.mp4").rename(root / "videos" / "clip3.mkv")
    with pytest.raises(UserError, match="was begun with other"):
        make().prepare()
    (root / "videos" / "clip3.mkv").rename(root / "videos" / "clip3.mp4")
    assert make().prepare()
    (root / "list.json").write_text("[1]")
    with pytest.raises(UserError, match="the annotations have changed since"):
        make()
    (root / "list.json").unlink()
    assert make().is_prepared()  # the records need the annotations no more


def test_a_whole_film_does_not_pass_for_a_clip_of_it(root: Path, tmp_path: Path) -> None:
    film = root / "videos" / "long.mp4"
    film.write_bytes(counting_movie(75))  # 5 s
    row = Row("long", ("x",), ("long",), span=(1.0, 2.0))

    def built(where: str, span: tuple[float, float] | None, **options: Any) -> ClipSet:
        splits = {
            "train": [replace(row, span=span), Row("clip1", ("y",), ("clip1",), span=(0, 0.2))]
        }
        given = MediaOptions(root=str(root), missing="skip", **options)
        return TestedSet(str(tmp_path / where), "x", [], lambda: splits, given)

    refused = built("a", (1.0, 2.0))
    refused.prepare()
    assert "lasts 5.0 s and the clip 1.0 s" in Path(refused.data_dir, "missing.jsonl").read_text()
    whole = built("b", (1.0, 5.0))
    whole.prepare()
    assert open_tfds(whole.data_dir, "train")[0].video == film.read_bytes()
    cut = built("c", (1.0, 2.0), media="sources", side=24)
    cut.prepare()
    pictures = decode_frames(open_tfds(cut.data_dir, "train")[0].video, count=15)
    assert pictures.shape[1] == 24
    assert read_number(pictures[0]) == 15


def test_damaged_shards_and_unknown_options(make: Make, root: Path) -> None:
    builder = make()
    inventory = builder.inventory()
    tasks = builder.tasks(inventory)
    for task in tasks:
        clip_tasks.write_task(task)
    content = tasks[2].path.read_bytes()
    tasks[2].path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"of-00004 is damaged: remove it and run the same command"):
        builder.finish(inventory, tasks)
    with pytest.raises(UserError, match=r"set: unknown option vidios \(known: mine, root, videos"):
        options_of({"vidios": ""}, "set", ("mine",))
    with pytest.raises(UserError, match="could not convert"):
        options_of({"limit": "half"}, "set")
    assert options_of({"limit": "0.5", "side": 256.0}, "set").side == 256


def test_a_shard_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def records() -> Any:
        yield b"one"
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        shards.write_shard(tmp_path / "a", records())
    assert list(tmp_path.iterdir()) == []
    assert shards.write_shard(tmp_path / "a", [b"one", b"two"]) == 2
    assert shards.count_records(tmp_path / "a") == 2


def test_the_door_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    def refusal(*arguments: str) -> str:
        with pytest.raises(UserError) as caught:
            prepare.main(arguments)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    msrvtt = ("--dataset", str(ROOT / "datasets" / "msrvtt"), "--directory", str(tmp_path))
    assert "'root' is not key=value" in refusal(*msrvtt, "--options", "root")
    assert "give both --process and --processes" in refusal(*msrvtt, "--process", "3")
    missing = refusal(*msrvtt, "--options", f"root={tmp_path}")
    assert missing.endswith("MSRVTT_data.json does not exist")


def test_preparing_through_the_trainer_s_own_way(root: Path, tmp_path: Path) -> None:
    (root / "list.json").write_text(
        json.dumps([{"video_id": f"clip{n}", "desc": f"number {n}"} for n in range(4)])
    )
    options = {"root": str(root), "train": "list.json", "test": "", "audios": ""}
    prepared = prepare_tfds(ROOT / "datasets" / "gram_json", tmp_path / "p", options)
    assert len(open_tfds(prepared, "train")) == 4


@pytest.mark.filterwarnings("ignore")  # Beam's own
def test_beam_shares_out_the_same_shards(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("apache_beam", reason="needs the beam extra")
    (root / "list.json").write_text(
        json.dumps([{"video_id": f"clip{n}", "desc": f"number {n}"} for n in range(CLIPS)])
    )
    command = ["--dataset", str(ROOT / "datasets/gram_json"), "--options"]
    command += [f"root={root},train=list.json,test=,audios=,shard=3", "--directory"]
    prepare.main([*command, str(tmp_path / "one")])
    prepare.main([*command, str(tmp_path / "beam"), "--beam", "--runner=DirectRunner"])
    assert capsys.readouterr().out.count("prepared: ") == 2
    one, beam = (sorted((tmp_path / where).rglob("*array_record*")) for where in ("one", "beam"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in beam]
    assert len(one) == 5
