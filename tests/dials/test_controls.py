"""The controls file: exact round trips, and every kind of bad input named by its place."""

import base64
import dataclasses
import json
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weavejax.dials import controls
from weavejax.errors import UserError

DURATION = 4.0
times = st.floats(0.0, DURATION)
words = st.text(max_size=20)
optional_words = st.none() | words


def tracks(low: float, high: float, length: int) -> st.SearchStrategy[tuple[float, ...]]:
    return st.lists(st.floats(low, high), min_size=length, max_size=length).map(tuple)


onsets = st.lists(
    st.builds(
        controls.Onset, times, st.floats(0, 1), optional_words, optional_words, optional_words
    ),
    max_size=5,
).map(lambda each: tuple(sorted(each, key=lambda onset: onset.time)))
sections = st.lists(st.tuples(times, times, words), max_size=3).map(
    lambda each: tuple(
        controls.Section(min(a, b), max(a, b), w)
        for a, b, w in sorted(each, key=lambda s: min(s[:2]))
    )
)
envelopes = st.builds(
    controls.Envelope, st.just(50.0), st.lists(st.floats(-80, 6), max_size=200).map(tuple)
)
whens = st.builds(controls.When, st.none() | onsets, st.none() | sections, st.none() | envelopes)
whats = st.builds(
    controls.What,
    optional_words,
    optional_words,
    st.none() | st.lists(st.sampled_from(["a.wav", "b/é 1.flac"]), max_size=3).map(tuple),
)
unit = st.floats(0, 1)
boxes = st.tuples(unit, unit, unit, unit).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)


@st.composite
def box_tracks(draw: st.DrawFn) -> controls.BoxTrack:
    moments = sorted(draw(st.lists(times, min_size=1, max_size=4)))
    places = [draw(st.none() | boxes) for _ in moments]
    return controls.BoxTrack(draw(words), tuple(moments), tuple(places))


@st.composite
def sources(draw: st.DrawFn) -> controls.SourceTrack:
    moments = tuple(sorted(draw(st.lists(times, min_size=1, max_size=4))))
    return controls.SourceTrack(
        draw(words),
        moments,
        draw(tracks(-180, 180, len(moments))),
        draw(tracks(-90, 90, len(moments))),
        draw(tracks(0, 100, len(moments))),
    )


@st.composite
def depths(draw: st.DrawFn) -> controls.Depth:
    shape = draw(st.tuples(*[st.integers(1, 4)] * 3))
    values = np.random.default_rng(draw(st.integers(0, 9))).uniform(0.1, 90.0, shape)
    return controls.Depth.encode(values, 15.0, 0.3, 60.0)


views = st.builds(controls.View, st.sampled_from(["pinhole", "equirectangular"]), st.floats(1, 179))
wheres = st.builds(
    controls.Where,
    st.none() | st.lists(box_tracks(), max_size=2).map(tuple),
    st.none() | depths(),
    st.none() | views,
    st.none() | st.lists(sources(), max_size=2).map(tuple),
)


@settings(max_examples=60, deadline=None)
@given(
    st.builds(
        controls.Controls,
        st.just(DURATION),
        st.none() | whens,
        st.none() | whats,
        st.none() | wheres,
    )
)
def test_round_trip_is_exact(value: controls.Controls) -> None:
    text = controls.dump(value)
    assert controls.parse(text) == value
    assert controls.dump(controls.parse(text)) == text


def document(**parts: Any) -> dict[str, Any]:
    return {"version": 1, "duration": DURATION, **parts}


def onset(**fields: Any) -> dict[str, Any]:
    return document(when={"onsets": [{"time": 0.5}, {"time": 1.0, **fields}]})


def depth_of(shape: list[int], data: bytes) -> dict[str, Any]:
    packed = base64.b64encode(data).decode()
    return document(
        where={"depth": {"shape": shape, "fps": 15, "near": 0.3, "far": 60, "data": packed}}
    )


def track_of(**fields: Any) -> dict[str, Any]:
    track = {"label": "a", "times": [0, 1], "boxes": [None, [0, 0, 1, 1]], **fields}
    return document(where={"boxes": [track]})


def source_of(**fields: Any) -> dict[str, Any]:
    source = {"label": "a", "times": [0], "azimuth": [0], "elevation": [0], "distance": [1]}
    return document(where={"sources": [{**source, **fields}]})


BAD = {
    "controls.duration: is missing": {"version": 1},
    "controls.version: 2 is not supported": {"version": 2, "duration": 1},
    "controls.duration: must be more than 0": {"version": 1, "duration": 0},
    "controls.duration: must be a number, is true/false": {"version": 1, "duration": True},
    "controls: unknown key 'whne'": document(whne={}),
    "controls: must be an object": [],
    "controls.when: must be an object, is a list": document(when=[]),
    "controls.when.onsets[1].time: 4.5 lies outside": onset(time=4.5),
    "controls.when.onsets[1].time: must be a number, is text": onset(time="1"),
    "controls.when.onsets[1].strength: 2 lies": onset(strength=2),
    "controls.when.onsets[1].label: must be text": onset(label=3),
    "controls.when.onsets: times must be in ascending order": onset(time=0.1),
    "controls.when.sections[0].end: 1 lies outside [2, 4]": document(
        when={"sections": [{"start": 2, "end": 1, "label": "x"}]}
    ),
    "controls.when.envelope.db[1]: 7 lies": document(
        when={"envelope": {"rate": 50, "db": [-3.0, 7]}}
    ),
    "controls.when.envelope.db: 202 values at 50 Hz": document(
        when={"envelope": {"rate": 50, "db": [0] * 202}}
    ),
    "controls.what.references[0]: must be text, is null": document(what={"references": [None]}),
    "controls.where.boxes[0].boxes: 1 values for 2 times": track_of(boxes=[None]),
    "controls.where.boxes[0].boxes[0]: x1 and y1": track_of(boxes=[[0.5, 0, 0.4, 1], None]),
    "controls.where.boxes[0].boxes[0]: a box is": track_of(boxes=[[0.5, 0], None]),
    "controls.where.boxes[0].boxes[1][2]: 1.1": track_of(boxes=[None, [0, 0, 1.1, 1]]),
    "controls.where.boxes[0].times: times must": track_of(times=[1, 0]),
    "controls.where.boxes[0].times: a track needs": track_of(times=[], boxes=[]),
    "controls.where.view.projection: 'fish' is": document(
        where={"view": {"projection": "fish", "fov": 60}}
    ),
    "controls.where.sources[0].azimuth[0]: 190 lies": source_of(azimuth=[190]),
    "controls.where.sources[0].distance: is missing": {
        **source_of(),
        "where": {"sources": [{"label": "a", "times": [0], "azimuth": [0], "elevation": [0]}]},
    },
    "controls.where.depth.data: is not base64": depth_of([1, 2, 2], b"nonsense"),
    "controls.where.depth.data: does not hold the 4": depth_of([1, 2, 2], zlib.compress(b"123")),
    "controls.where.depth.shape: its frames reach": depth_of(
        [100, 1, 1], zlib.compress(bytes(100))
    ),
    "controls.where.depth.shape: must be [T, h, w]": depth_of([2**20, 2**20, 2], b""),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_values_are_named(message: str) -> None:
    with pytest.raises(UserError) as caught:
        controls.parse(json.dumps(BAD[message]))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ('{"version": 1,\n "duration": }', "line 2, column 14"),
        ('{"version": 1, "duration": NaN}', "NaN is not a number"),
        ('{"version": 1, "duration": 1e999}', "controls.duration: inf lies outside"),
        ('{"version": 1, "duration": 1, "duration": 2}', "stands twice"),
        ("[" * 100_000, "sane shape"),
        ('{"version": 1, "duration": 1' + "0" * 400 + "}", "lies outside"),
        ('{"version": 1, "duration": 1' + "0" * 9000 + "}", "sane shape"),
    ],
)
def test_bad_json_is_named(text: str, message: str) -> None:
    with pytest.raises(controls.ControlsError, match=r"^controls") as caught:
        controls.parse(text)
    assert message in str(caught.value)


def test_depth_keeps_its_stated_error() -> None:
    depth = np.random.default_rng(0).uniform(0.3, 60.0, (7, 28, 28)).astype(np.float32)
    kept = controls.Depth.encode(depth, 15.0, 0.3, 60.0).decode()
    bound = (60.0 / 0.3) ** (1 / 510) - 1
    assert np.abs(kept / depth - 1).max() <= bound * 1.0001
    assert np.abs(kept / depth - 1).max() > 0.8 * bound


def test_depth_beyond_the_range_is_clipped() -> None:
    depth = np.array([[[np.inf, 0.01, 1.0]]])
    kept = controls.Depth.encode(depth, 15.0, 0.3, 60.0).decode()
    np.testing.assert_allclose(kept[0, 0], [60.0, 0.3, 1.0], rtol=0.011)


def test_a_decompression_bomb_is_not_unpacked() -> None:
    bomb = zlib.compress(bytes(50_000_000), 9)
    with pytest.raises(UserError, match="does not hold the 4 bytes"):
        controls.parse(json.dumps(depth_of([1, 2, 2], bomb)))


def test_dump_refuses_what_parse_would_refuse() -> None:
    early = controls.Controls(1.0, controls.When((controls.Onset(2.0),)))
    with pytest.raises(UserError, match=r"when.onsets\[0\].time"):
        controls.dump(early)
    endless = dataclasses.replace(early, duration=float("nan"))
    with pytest.raises(UserError, match="cannot be written"):
        controls.dump(endless)
