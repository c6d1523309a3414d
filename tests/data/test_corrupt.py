"""Spoilt and hostile media: each file is decoded within bounds or rejected, and counted; no more.

The files are decoded in a process of its own under a limit of memory, so a crash, a hang or an
endless allocation would fail these tests and not end them.
"""

import io
import itertools
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter
from bombs import PLAYLISTS, far_apart, gif, many_tracks
from making_media import counting_movie, small_clips, sound_file, tone
from mutating import MUTATIONS, clip_of, mutants, specimens

from weavejax.data import boxes, opening
from weavejax.data.broken import BrokenLog
from weavejax.data.clip import Clip, DecodeError, Source
from weavejax.data.decode import decode_audio, decode_frames, probe
from weavejax.data.example import ExampleSpec, decode_clip
from weavejax.data.folder import open_folder
from weavejax.data.pipeline import Batch, eval_batches, train_batches
from weavejax.data.sources import TfdsSource
from weavejax.data.text import train_tokenizer
from weavejax.errors import UserError

SPEC = ExampleSpec(size=16, audio_frames=30, text_length=10, candidates=4)
MUTANTS = 2200
SECONDS, MEGABYTES = 15.0, 1500  # of processor time for one file, and in all


@pytest.fixture(scope="module")
def reports() -> list[dict[str, Any]]:
    program = [sys.executable, str(Path(__file__).with_name("mutating.py")), "0", str(MUTANTS)]
    done = subprocess.run([*program, "absurd"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_spoilt_file_is_decoded_or_rejected(reports: list[dict[str, Any]]) -> None:
    assert len(reports) >= MUTANTS + 200
    raised = [row for row in reports if row["outcome"].startswith("raised")]
    assert not raised, raised[:5]
    rejected = sum(row["outcome"].startswith("rejected: ") for row in reports)
    decoded = sum(row["outcome"] == "decoded" for row in reports)
    assert rejected + decoded == len(reports)
    assert min(rejected, decoded) > MUTANTS / 4  # neither a deaf nor a credulous decoder


def test_no_spoilt_file_takes_long_or_much_memory(reports: list[dict[str, Any]]) -> None:
    slowest = max(reports, key=lambda row: row["seconds"])
    assert slowest["seconds"] < SECONDS, slowest
    assert reports[-1]["megabytes"] < MEGABYTES


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("constant samples", "tables state more than"),
        ("png of 225 Mpixel", ""),
        ("png 60000×60000", ""),
        ("gif of 268 Mpixel", ""),
        ("silence far between", "longer than the limit"),
        ("tracks", ""),
        ("wav of 0 Hz", ""),
        ("wav of 1 Hz", "a sampling rate of 1 Hz"),
        ("wav of 255 channels", "sound of 255 channels"),
        ("flac of 2^36 samples", "longer than the limit"),
        ("y4m W99999 H99999 F25:1", ""),
        ("y4m W8 H8 F25:1 A2147483647:1", "too large"),
    ],
)
def test_bombs_are_rejected(reports: list[dict[str, Any]], name: str, reason: str) -> None:
    (row,) = [row for row in reports if row["name"] == name]
    assert row["outcome"].startswith("rejected: ")
    assert reason in row["outcome"]


def test_mutations_are_the_same_every_time() -> None:
    sources = {"a": bytes(range(256)) * 9}
    first = list(mutants(sources, 40, 3))
    assert first == list(mutants(sources, 40, 3))
    assert len({media for _, media in first}) > 35
    assert {name.split()[2] for name, _ in first} == set(MUTATIONS)


def test_more_pixels_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = gif(1000, 1000, 50)
    assert decode_frames(bomb, count=4, size=(8, 8)).shape == (4, 8, 8, 3)
    monkeypatch.setattr(opening, "MAX_FILE_PIXELS", 20_000_000)
    with pytest.raises(DecodeError, match="pixels had to be decoded"):
        decode_frames(bomb, count=4, size=(8, 8))


def test_more_samples_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "MAX_FILE_SAMPLES", 10_000)
    for media in (sound_file(tone(1.0)), counting_movie(15, sound=tone(1.0))):
        with pytest.raises(DecodeError, match="samples: cut the sound"):
            decode_audio(media, 16000)


def test_more_bytes_than_allowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(opening, "MAX_BYTES", 1000)
    (tmp_path / "long.wav").write_bytes(sound_file(tone(1.0), form="WAV"))
    for media in (tmp_path / "long.wav", (tmp_path / "long.wav").read_bytes()):
        with pytest.raises(DecodeError, match="cut it into clips"):
            decode_audio(media, 16000)
    with pytest.raises(DecodeError, match="cut it into clips"):
        open_folder(tmp_path)[0]


def test_more_streams_than_allowed() -> None:
    assert "59 more video streams" in str(probe(many_tracks(59)))
    with pytest.raises(DecodeError):
        probe(many_tracks(100))


def test_time_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    film, tune = counting_movie(15, sound=tone(1.0)), sound_file(tone(1.0))
    monkeypatch.setattr(opening, "MAX_CPU_SECONDS", -1.0)
    for media in (film, tune):
        with pytest.raises(DecodeError, match="processor time"):
            decode_audio(media, 16000)
    with pytest.raises(DecodeError, match="processor time"):
        decode_frames(film, [0.0])


def test_waiting_is_not_working(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine must not turn good clips into broken ones."""
    monkeypatch.setattr(opening, "MAX_CPU_SECONDS", 0.2)
    allowance = opening.Allowance()
    time.sleep(0.3)
    allowance.check_time()


def test_a_read_stops_when_the_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    file = opening.MeteredFile(io.BytesIO(bytes(10)), opening.Allowance())
    assert file.read(4) == bytes(4)
    monkeypatch.setattr(opening, "MAX_CPU_SECONDS", -1.0)
    with pytest.raises(DecodeError, match="processor time"):
        file.read(4)


def test_silence_between_is_filled_in_little_memory() -> None:
    wave = decode_audio(far_apart(1000.0), 16000)
    assert wave.shape == (round(1000.1 * 16000),)
    with pytest.raises(DecodeError, match="limit of 999 s"):
        decode_audio(far_apart(1000.0), 16000, limit=999.0)


def test_tables_of_honest_films_are_far_from_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = specimens()
    for name in ("mp4", "hevc", "m4a", "mov"):
        boxes.check_tables(io.BytesIO(samples[name]))
    monkeypatch.setattr(boxes, "MAX_ENTRIES", 5)
    for name in ("mp4", "hevc", "m4a"):
        with pytest.raises(DecodeError, match="tables state more than 5"):
            boxes.check_tables(io.BytesIO(samples[name]))
    boxes.check_tables(io.BytesIO(samples["webm"]))


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.mp4").write_bytes(counting_movie(15, sound=tone(1.0)))
    return tmp_path / "secret.mp4"


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("target", ["secret.mp4", "{path}", "file:{path}", "http://127.0.0.1:9/x"])
def test_a_media_file_opens_no_other(secret: Path, kind: str, target: str) -> None:
    content = PLAYLISTS[kind].format(target=target.format(path=secret)).encode()
    for name in ("list.mp4", "list.m3u8", "list.mpd", "list.mkv"):
        path = secret.with_name(name)
        path.write_bytes(content)
        for media in (content, path):
            with pytest.raises(DecodeError):
                probe(media)
            with pytest.raises(DecodeError):
                decode_audio(media, 16000)


def test_ffmpeg_by_itself_would_open_another(secret: Path) -> None:
    """What the test before guards against is real."""
    content = PLAYLISTS["concat"].format(target="secret.mp4").encode()
    with av.open(io.BytesIO(content)) as container:
        assert len(container.streams) == 2


def test_a_path_is_not_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    film = counting_movie(5)
    Path("data:x").write_bytes(film)
    Path("film%03d.png").write_bytes(film)
    for name in ("data:x", "film%03d.png"):
        assert probe(name).video is not None
    with pytest.raises(DecodeError, match="No such file"):
        probe("concat:data:x")


FEATURES = tfds.features.FeaturesDict(
    {name: tfds.features.Text() for name in ("id", "video", "audio", "subtitle", "controls")}
    | {"captions": tfds.features.Sequence(tfds.features.Text())}
)


def record(number: int, clip: Clip) -> bytes:
    fields = {"video": clip.video, "audio": clip.audio, "captions": ["a", "é"], "subtitle": "s"}
    packed: bytes = FEATURES.serialize_example(fields | {"id": f"clip{number}", "controls": "{}"})
    return packed


def outcomes(source: Source) -> list[str]:
    found = []
    for index in range(len(source)):
        try:
            decode_clip(source[index], SPEC)
        except Exception as error:  # as the loader does: any error of a record is a broken record
            found.append(type(error).__name__)
        else:
            found.append("decoded")
    return found


def test_spoilt_records() -> None:
    """The bytes of a record, past the checksums of the file it stands in."""
    good = record(0, Clip("x", b"", sound_file(tone(0.05))))
    spoilt = [
        MUTATIONS[name](good, random.Random(number)) for number in range(50) for name in MUTATIONS
    ]
    found = outcomes(TfdsSource(spoilt, FEATURES, "spoilt"))
    assert len(found) == len(spoilt) >= 500
    assert min(found.count("decoded"), len(found) - found.count("decoded")) > 10


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shards") / "toy.array_record"
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for number, clip in enumerate(small_clips(6)):
        writer.write(record(number, clip))
    writer.close()
    return path


def shard_source(path: Path) -> TfdsSource:
    # The count as TFDS states it, in a file of its own: the shard is opened when it is read.
    return TfdsSource(ArrayRecordDataSource([f"{path}[0:6]"]), FEATURES, "shard")


def test_spoilt_shards(shard: Path, tmp_path: Path) -> None:
    good = shard.read_bytes()
    assert outcomes(shard_source(shard)) == ["decoded"] * 6
    kinds = ("truncate", "flip_bits", "overwrite", "remove", "insert", "flip_header")
    broken = 0
    for number in range(60):
        path = tmp_path / f"{number}.array_record"
        path.write_bytes(MUTATIONS[kinds[number % len(kinds)]](good, random.Random(number)))
        found = outcomes(shard_source(path))
        assert len(found) == 6
        broken += found.count("decoded") < 6
    assert broken > 20


def test_a_truncated_shard_is_counted_record_by_record(shard: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.array_record"
    cut.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    source = shard_source(cut)
    with eval_batches(source, SPEC, train_tokenizer(["a"], 30), batch=4) as batches:
        valid = np.concatenate([batch["valid"] for batch in batches])
    assert not valid.any()
    log = BrokenLog(tmp_path / "broken.jsonl", 6)
    assert len(log.update(range(6), [9] * 6, source)) == 6
    with pytest.raises(UserError, match="6 of 6 clips are broken"):
        BrokenLog(tmp_path / "other.jsonl", 5).update(range(6), [9] * 6, source)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, set[int]]:
    """Twelve good files and 48 spoilt ones; the records that a plain loop finds broken."""
    root = tmp_path_factory.mktemp("mixed")
    for number, clip in enumerate(small_clips(12)):
        (root / f"good{number}.mp4").write_bytes(clip.video)
    for name, media in mutants(specimens(), 48, 7):
        which, form, _ = name.split()
        (root / f"spoilt{which}.{form.replace('y4m', 'avi')}").write_bytes(media)
    rows = [{"video": path.name, "caption": path.stem} for path in sorted(root.iterdir())]
    (root / "captions.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    source = open_folder(root)
    found = outcomes(source)
    assert set(found) == {"decoded", "DecodeError"}
    assert all(found[i] == "decoded" for i in range(len(source)) if "good" in source.id(i))
    return source, {i for i, outcome in enumerate(found) if outcome != "decoded"}


def trained(source: Source, workers: int) -> list[Batch]:
    tokenizer = train_tokenizer(source.captions(), 60)
    options: dict[str, Any] = {"batch": 12, "seed": 3, "workers": workers}
    with train_batches(source, SPEC, tokenizer, **options) as batches:
        return list(itertools.islice(batches, 10))  # two epochs of 60


def test_evaluation_marks_exactly_the_broken(folder: tuple[Source, set[int]]) -> None:
    source, broken = folder
    tokenizer = train_tokenizer(source.captions(), 60)
    with eval_batches(source, SPEC, tokenizer, batch=16) as batches:
        rows = [
            (int(i), bool(v)) for b in batches for i, v in zip(b["index"], b["valid"], strict=True)
        ]
    assert {i for i, valid in rows if not valid and i >= 0} == broken
    assert sum(valid for _, valid in rows) == len(source) - len(broken)
    assert 10 < len(broken) < 48


@pytest.fixture(scope="module")
def in_thread(folder: tuple[Source, set[int]]) -> list[Batch]:
    return trained(folder[0], workers=0)


def test_training_counts_and_replaces_exactly_the_broken(
    folder: tuple[Source, set[int]], in_thread: list[Batch], tmp_path: Path
) -> None:
    source, broken = folder
    log = BrokenLog(tmp_path / "broken.jsonl", len(broken))
    fresh = [name for b in in_thread for name in log.update(b["wanted"], b["index"], source)]
    assert set(log.records) == broken
    assert len(fresh) == len(broken)
    rows = [json.loads(line) for line in (tmp_path / "broken.jsonl").read_text().splitlines()]
    assert {row["record"] for row in rows} == broken
    assert all(row["reason"].startswith("DecodeError: ") for row in rows)
    assert not {int(i) for batch in in_thread for i in batch["index"]} & broken


def test_a_worker_process_replaces_them_the_same(
    folder: tuple[Source, set[int]], in_thread: list[Batch]
) -> None:
    for here, there in zip(in_thread, trained(folder[0], workers=1), strict=True):
        for key in here:
            np.testing.assert_array_equal(here[key], there[key], err_msg=key)


def test_a_codec_that_is_not_read_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    film = counting_movie(5, sound=tone(0.3))
    monkeypatch.setattr(opening, "AUDIO_CODECS", "opus")
    assert decode_frames(film, [0.0]).shape[0] == 1
    for read in (probe, lambda media: decode_audio(media, 16000)):
        with pytest.raises(DecodeError, match=r"codec of audio stream 1 \(aac\) is not read"):
            read(film)


def test_every_format_is_decoded_before_it_is_spoilt() -> None:
    for name, media in specimens().items():
        found = decode_clip(clip_of(name, media), SPEC)
        assert found["video_mask"] or found["audio_mask"], name
