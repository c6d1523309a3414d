"""The adapters of published sets: dummy annotations of each set's true layout, through to clips."""

import contextlib
import importlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weavejax.data.annotations import Row, Splits
from weavejax.data.clip_options import MediaOptions
from weavejax.data.example import ExampleSpec, decode_clip
from weavejax.data.sources import make_builder, open_tfds, prepare_tfds
from weavejax.errors import UserError
from weavejax.runtime import cli

DATASETS = Path(__file__).parents[2] / "datasets"
sys.path[:0] = [str(DATASETS), str(DATASETS.parent / "tests" / "data")]

from making_media import movie, numbered, sound_file, tone  # noqa: E402

SETS = (
    "activitynet",
    "audiocaps",
    "didemo",
    "gram_json",
    "msrvtt",
    "vast27m",
    "vatex",
    "vggsound",
)
OPTIONS: dict[str, dict[str, Any]] = {"vast27m": {"holdout": 0.4}}
SPEC = ExampleSpec(frames=1, size=16, candidates=1, mels=16, audio_frames=32)


@pytest.fixture
def root(tmp_path: Path) -> Callable[[str], Path]:
    """root(set) → a copy of its dummy annotations, with empty media folders."""

    def copied(name: str) -> Path:
        place = tmp_path / name
        shutil.copytree(DATASETS / name / "dummy", place)
        (place / "videos").mkdir()
        (place / "audios").mkdir()
        return place

    return copied


def rows_of(name: str, place: Path, **options: Any) -> Splits:
    """What the adapter reads."""
    module = importlib.import_module(name)
    given = {**OPTIONS.get(name, {}), **options}
    return module.builder(str(place / "prepared"), root=str(place), **given)._read()


def all_rows(splits: Splits) -> list[Row]:
    return [row for rows in splits.values() for row in rows]


@pytest.mark.parametrize("name", SETS)
def test_a_set_becomes_clips(name: str, root: Callable[[str], Path]) -> None:
    place = root(name)
    film = movie([numbered(k, 16) for k in range(6)], sound=tone(0.4))
    splits = rows_of(name, place)
    # The last of a clip's names where it has several, so that each way of naming files is tried.
    for number, row in enumerate(all_rows(splits)):
        chosen = row.names[number % len(row.names)]
        (place / "videos" / f"{chosen}.mp4").write_bytes(film)
    options = {"root": str(place), **OPTIONS.get(name, {})}
    prepared = prepare_tfds(DATASETS / name, place / "prepared", options)
    for split, rows in splits.items():
        source = open_tfds(prepared, split)
        assert [source.id(i) for i in range(len(source))] == [row.id for row in rows]
        for i, row in enumerate(rows):
            assert source.text(i) == (row.captions, row.subtitle)
        clip = source[0]
        assert clip.video == film  # not encoded again
        decoded = decode_clip(clip, SPEC)
        assert (decoded["video_mask"], decoded["audio_mask"]) == (True, True)
    assert (prepared / "missing.jsonl").exists()


def test_msrvtt_has_all_sentences_in_training_and_one_in_the_test(
    root: Callable[[str], Path],
) -> None:
    place = root("msrvtt")
    splits = rows_of("msrvtt", place)
    assert [row.id for row in splits["train"]] == ["video1", "video10", "video100", "video7"]
    assert splits["train"][0].captions == (
        "a man sings in video1",
        "a band plays in video1",
        "someone performs in video1",
    )
    assert [(row.id, row.captions) for row in splits["test"]] == [
        ("video9770", ("a clerk stamps a letter",)),
        ("video7010", ("a child, wearing boots, jumps over puddles",)),
    ]
    assert len(rows_of("msrvtt", place, train="7k")["train"]) == 2


def test_paragraphs_join_what_is_said_of_a_video(root: Callable[[str], Path]) -> None:
    didemo = rows_of("didemo", root("didemo"))
    stem = "10000001@N02_10000000001_0a0a0a0a0a"
    assert didemo["train"][0] == Row(
        stem,
        ("the red cart rolls left the cart comes back the red cart rolls left",),
        (f"{stem}.mov", stem),
    )
    assert [len(didemo[split]) for split in ("train", "val", "test")] == [2, 1, 1]
    place = root("activitynet")
    net = rows_of("activitynet", place)
    assert net["train"][0].captions == (
        "A gardener fills a green bucket. She waters seven pots in a row.",
    )
    assert net["train"][1].names == ("v_-C_dummyid03", "-C_dummyid03")
    assert rows_of("activitynet", place, test="val_2")["test"][0].captions == (
        "Someone repairs a clock.",
    )


def test_vatex_ids_hold_the_source_and_its_span(root: Callable[[str], Path]) -> None:
    place = root("vatex")
    row = rows_of("vatex", place)["train"][0]
    assert (row.id, row.span, len(row.captions)) == ("Dd_du-mmy04_000122_000132", (122, 132), 10)
    assert rows_of("vatex", place, media="sources")["train"][0].names == ("Dd_du-mmy04",)
    chosen = rows_of("vatex", place, test_ids="test_ids.txt", language="zh")["test"]
    assert [(r.id, r.captions[1]) for r in chosen] == [("FFdummyid06_000025_000035", "说明1")]
    (place / "test_ids.txt").write_text("FFdummyid06_000025_000036\n")
    with pytest.raises(UserError, match="names 1 clips that are not annotated: FFdummyid06_000025"):
        rows_of("vatex", place, test_ids="test_ids.txt")


def test_audiocaps_rows_of_a_clip_are_one_clip(root: Callable[[str], Path]) -> None:
    splits = rows_of("audiocaps", root("audiocaps"))
    assert [(r.id, len(r.captions)) for r in splits["test"]] == [
        ("7Ldummyid12_0", 5),
        ("6Mdummyid13_10", 5),
    ]
    first, *_, twice, again = splits["train"]
    assert first.names == (
        "Hh_dummyi08_130",
        "Hh_dummyi08_130000_140000",
        "Hh_dummyi08",
        "YHh_dummyi08",
    )
    # Of a video that two clips are of, its bare name tells neither.
    assert twice.names == ("3Jdummyid10_0", "3Jdummyid10_0_10000")
    assert again.span == (40.0, 50.0)


def test_vggsound_has_no_header_and_classes_as_captions(root: Callable[[str], Path]) -> None:
    splits = rows_of("vggsound", root("vggsound"))
    assert [row.id for row in splits["test"]] == ["---g-dumm14_000001", "zzz_dummy18_000020"]
    assert splits["train"][2].captions == ("bird chirping, tweeting",)
    assert splits["train"][1].names == ("--5Odummy16_000185", "--5Odummy16_185000_195000")


def test_vast_reads_shards_with_clock_times(root: Callable[[str], Path]) -> None:
    place = root("vast27m")
    splits = rows_of("vast27m", place)
    rows = {row.id: row for row in all_rows(splits)}
    assert len(rows) == 8
    assert all(splits.values())
    assert rows["PPdummyid19.1"] == Row(
        "PPdummyid19.1",
        ("PPdummyid19.1: all of it.",),
        ("PPdummyid19.1",),
        "so we begin",
        (131.097, 136.238),
    )
    cut = {row.id: row for row in all_rows(rows_of("vast27m", place, media="sources"))}
    assert cut["_0_dumm-y20.2"].names == ("_0_dumm-y20",)
    heard = {row.id: row for row in all_rows(rows_of("vast27m", place, captions="audio_cap"))}
    assert heard["_0_dumm-y20.0"].captions == ("_0_dumm-y20.0 heard 0", "_0_dumm-y20.0 heard 1")


def test_gram_json_takes_the_first_key_and_the_first_caption(root: Callable[[str], Path]) -> None:
    place = root("gram_json")
    splits = rows_of("gram_json", place)
    assert splits["train"] == [
        Row("video1", ("a man sings", "somebody sings a song"), ("video1",), "la la"),
        Row("video10", ("a band plays",), ("video10",)),
        Row("PPdummyid19.17", ("the first is used",), ("PPdummyid19.17",)),
    ]
    every = rows_of("gram_json", place, captions="all")["train"][2]
    assert every.captions == ("the first is used", "the second is not")
    assert list(rows_of("gram_json", place, train="")) == ["test"]


@pytest.mark.parametrize(
    ("name", "file", "content", "words"),
    [
        ("msrvtt", "MSRVTT_data.json", "[", "MSRVTT_data.json is not JSON"),
        ("msrvtt", "MSRVTT_data.json", "{}", "MSRVTT_data.json, sentences is not a list"),
        (
            "msrvtt",
            "MSRVTT_data.json",
            '{"sentences": [{"video_id": "video1", "caption": "a"}, {"video_id": "v"}]}',
            "MSRVTT_data.json, sentences, entry 2 has no caption",
        ),
        ("msrvtt", "MSRVTT_train.9k.csv", "video\nvideo1\n", "9k.csv, line 2 has no video_id"),
        ("msrvtt", "MSRVTT_train.9k.csv", "video_id\nvideo2\n", "names video2, which MSRVTT_data"),
        ("didemo", "val_data.json", '[{"video": "a/b.mov"}]', "entry 1: video 'a/b.mov' cannot be"),
        ("activitynet", "train.json", '{"v_1": {"sentences": "x"}}', "train.json, v_1: sentences"),
        ("activitynet", "train.json", '{"v_1": {"sentences": [" "]}}', "v_1 has no sentence"),
        ("vatex", "vatex_training_v1.0.json", '[{"videoID": "a_1_2", "enCap": ["x"]}]', "entry 1"),
        (
            "audiocaps",
            "test.csv",
            "audiocap_id,youtube_id,start_time,caption\n1,a,x,c\n",
            "line 2: st",
        ),
        (
            "audiocaps",
            "test.csv",
            "audiocap_id,youtube_id\n1,a,3\n",
            "test.csv, line 2 has 3 cells",
        ),
        ("vggsound", "vggsound.csv", "a,1,b,val\n", "vggsound.csv, line 1: the split is 'val'"),
        ("vggsound", "vggsound.csv", "a,-1,b,test\n", "line 1: start '-1' is not a time"),
        (
            "vast27m",
            "annotations/part-00000.jsonl",
            '{"clip_id": "a"}\n',
            "part-00000.jsonl, line 1",
        ),
        (
            "vast27m",
            "annotations/part-00000.jsonl",
            '{"clip_id": "a", "vast_cap": "b", "clip_span": ["00:00:03.0", 1]}\n',
            "line 1: clip_span ends at 1 s, before it starts at 3 s",
        ),
        ("gram_json", "test.json", '[{"desc": "a"}]', "test.json, entry 1 has no clip_id"),
        (
            "gram_json",
            "test.json",
            '[{"id": "a", "desc": []}]',
            "test.json, entry 1: desc is empty",
        ),
    ],
)
def test_faulty_annotations_name_the_file_and_the_row(
    name: str, file: str, content: str, words: str, root: Callable[[str], Path]
) -> None:
    place = root(name)
    (place / file).write_text(content)
    with pytest.raises(UserError) as caught:
        rows_of(name, place)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


KEYS = [
    *("video_id", "desc", "caption", "sentences", "video", "description", "videoID", "enCap"),
    *("clip_id", "vast_cap", "clip_span", "subtitle", "timestamps", "id"),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)
FILES = {
    "activitynet": "train.json",
    "didemo": "train_data.json",
    "gram_json": "train.json",
    "msrvtt": "MSRVTT_data.json",
    "vast27m": "annotations/part-00000.jsonl",
    "vatex": "vatex_training_v1.0.json",
}


@pytest.mark.parametrize("name", sorted(FILES))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(value=JSON)
def test_no_annotation_raises_anything_else(
    name: str, value: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.getbasetemp() / f"fuzzed_{name}"
    if not place.exists():
        shutil.copytree(DATASETS / name / "dummy", place)
    (place / FILES[name]).write_text(json.dumps(value))
    with contextlib.suppress(UserError):
        rows = all_rows(rows_of(name, place))
        assert all(row.captions and row.names for row in rows)


@settings(max_examples=60, deadline=None)
@given(
    label=st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1).filter(
        lambda text: text.strip() and text.isprintable()
    ),
    start=st.integers(0, 999_999),
)
def test_any_label_survives_the_table(
    label: str, start: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.getbasetemp()
    quoted = label.replace('"', '""')
    (place / "vggsound.csv").write_text(f'some_id,{start},"{quoted}",train\n', encoding="utf-8")
    (row,) = rows_of("vggsound", place)["train"]
    assert row.captions == (label.strip(),)
    assert row.id == f"some_id_{start:06d}"


def test_options(root: Callable[[str], Path], tmp_path: Path) -> None:
    msrvtt = importlib.import_module("msrvtt")
    with pytest.raises(UserError, match=r"msrvtt: unknown option rot \(known: train, root, videos"):
        msrvtt.builder(str(tmp_path), rot="x")
    with pytest.raises(UserError, match="train must be 9k or 7k, not '8k'"):
        msrvtt.builder(str(tmp_path), train="8k", root="x")
    with pytest.raises(UserError, match="msrvtt: root is empty"):
        msrvtt.builder(str(tmp_path)).prepare()
    with pytest.raises(UserError, match="have no spans to cut: media must be clips"):
        prepare_tfds(
            DATASETS / "msrvtt", tmp_path / "p", {"root": str(root("msrvtt")), "media": "sources"}
        )
    for options, words in (
        ({"media": "films"}, "media must be clips or sources"),
        ({"missing": "no"}, "missing must be error or skip"),
        ({"limit": 1.5}, "limit must be from 0 to 1"),
        ({"videos": ""}, "give videos, audios or both"),
    ):
        with pytest.raises(UserError, match=words):
            MediaOptions(root="x", **options).check("any")


def test_sounds_alone_are_a_set_too(root: Callable[[str], Path]) -> None:
    place = root("audiocaps")
    for row in all_rows(rows_of("audiocaps", place)):
        sound = sound_file(tone(0.3), form="WAV")
        (place / "audios" / f"{row.names[0]}.wav").write_bytes(sound)
    options = {"root": str(place), "videos": "", "audios": "audios"}
    source = open_tfds(prepare_tfds(DATASETS / "audiocaps", place / "p", options), "test")
    decoded = decode_clip(source[0], SPEC)
    assert (decoded["video_mask"], decoded["audio_mask"]) == (False, True)


@pytest.mark.parametrize("name", SETS)
def test_each_set_is_one_variant_of_the_config(name: str, root: Callable[[str], Path]) -> None:
    place = root(name)
    for variant in (name, f"published-{name}"):
        config = cli.load(f"{DATASETS.parent}/configs/gram.py:{variant}")
        assert (config.data.source, config.data.dataset) == ("dataset", f"datasets/{name}")
        config.data.options.update({"root": str(place), **OPTIONS.get(name, {})})
        folder = DATASETS.parent / config.data.dataset
        builder = make_builder(folder, place / "prepared", config.data.options.to_dict())
        assert {"train", "test"} <= set(builder._read())
        longest = max(config.inputs.text_length, config.inputs.subtitle_length)
        assert longest <= config.model.text.positions
    with pytest.raises(
        UserError, match="no variant 'small-msrvtt'; there are files, matching, published"
    ):
        cli.load(f"{DATASETS.parent}/configs/gram.py:small-msrvtt")
