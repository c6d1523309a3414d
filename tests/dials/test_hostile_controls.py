"""Hostile controls files: whatever the text, the documented error or a document within bounds."""

import base64
import json
import random
import time
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weavejax.dials import controls, controls_depth, controls_reader
from weavejax.dials.controls import ControlsError

WHOLE: dict[str, Any] = {
    "version": 1,
    "duration": 4.0,
    "when": {
        "onsets": [{"time": 0.5, "strength": 0.8, "label": "hit", "material": "m", "action": "a"}],
        "sections": [{"start": 0.0, "end": 2.1, "label": "grass"}],
        "envelope": {"rate": 50.0, "db": [-80.0, -23.5]},
    },
    "what": {"caption": "a bell", "subtitle": "ding", "references": ["sounds/bell.wav"]},
    "where": {
        "boxes": [{"label": "p", "times": [0.0, 1], "boxes": [[0.1, 0.2, 0.4, 0.9], None]}],
        "depth": {
            "shape": [1, 2, 2],
            "fps": 15.0,
            "near": 0.3,
            "far": 60.0,
            "data": base64.b64encode(zlib.compress(bytes(4))).decode(),
        },
        "view": {"projection": "pinhole", "fov": 60.0, "times": [0], "yaw": [0], "pitch": [-10]},
        "sources": [
            {"label": "p", "times": [0], "azimuth": [12], "elevation": [-5], "distance": [2]}
        ],
    },
}
KEYS = sorted({*WHOLE, *(key for part in WHOLE.values() if type(part) is dict for key in part)})
KEYS += ["label", "time", "times", "shape", "data", "rate", "db", "fps"]
surrogates = st.text(st.characters(), max_size=6)  # halves of characters, too
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | surrogates
    | st.sampled_from([10**400, -1, 1e308, "../x", "\n"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(KEYS) | surrogates, inner, max_size=4)
    ),
    max_leaves=15,
)


def outcome(text: str) -> str:
    """ "read" or the error's line; anything else that `parse` raises goes through."""
    try:
        parsed = controls.parse(text)
    except ControlsError as error:
        return str(error)
    assert controls.parse(controls.dump(parsed)) == parsed
    return "read"


def assert_documented(text: str) -> None:
    line = outcome(text)
    assert line == "read" or line.startswith("controls")
    assert "\n" not in line
    assert len(line) < 400


def test_the_whole_document_is_read() -> None:
    assert outcome(json.dumps(WHOLE)) == "read"


@settings(max_examples=300, deadline=None)
@given(values)
def test_any_json(value: Any) -> None:
    assert_documented(json.dumps(value))


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
def test_any_text(text: str) -> None:
    assert_documented(text)


def replaced(node: Any, path: list[int], value: Any) -> Any:
    """The document with another value at a place that the numbers of `path` lead to."""
    if not path or not isinstance(node, dict | list) or not node:
        return value
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    key = keys[path[0] % len(keys)]
    copy = dict(node) if isinstance(node, dict) else list(node)
    copy[key] = replaced(node[key], path[1:], value)
    return copy


@settings(max_examples=500, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), values)
def test_any_value_anywhere(path: list[int], value: Any) -> None:
    assert_documented(json.dumps(replaced(WHOLE, path, value)))


def test_spoilt_characters() -> None:
    text = json.dumps(WHOLE)
    rng = random.Random(0)
    lines = set()
    for _ in range(2000):
        at, length = rng.randrange(len(text)), rng.choice((0, 1, 1, 5, 100))
        filling = "".join(rng.choice('{}[]",:0123456789.-eE\\\ud800é nul') for _ in range(length))
        spoilt = text[:at] + filling + text[at + rng.choice((0, 1, length)) :]
        assert_documented(spoilt)
        lines.add(outcome(spoilt))
    assert "read" in lines  # some strokes hit a label
    assert len(lines) > 200


@pytest.mark.parametrize(
    "path",
    [
        *("../x.wav", "a/../../x.wav", "/etc/passwd", "C:\\x.wav", "\\\\host\\x", "a\\..\\..\\x"),
        *("C:x.wav", "", " ", "a\0b", "a\nb", "x" * 2000),
    ],
)
def test_references_do_not_leave_the_folder(path: str) -> None:
    text = json.dumps({"version": 1, "duration": 1, "what": {"references": ["a.wav", path]}})
    assert outcome(text).startswith("controls.what.references[1]")


def in_what(**fields: Any) -> str:
    return json.dumps({"version": 1, "duration": 1, "what": fields})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (in_what(caption="x" * 10_001), "controls.what.caption: has 10001 characters, at most"),
        (in_what(caption="a\ud800"), "controls.what.caption: holds half a character"),
        (in_what(references=["a"] * 10_001), "controls.what.references: has 10001 items, at most"),
        (json.dumps({"version": 1, "duration": 1, "a\nb" * 99: 1}), "controls: unknown key 'a\\nb"),
        ('{"version": 1, "duration": 1, "when": {"onsets": ' + "[" * 10**6, "controls: not JSON"),
        ('{"a":' * 10**5, "controls: not JSON"),
        (" " * (controls.MAX_CHARACTERS + 1), "controls: more than"),
    ],
)
def test_bounds(text: str, message: str) -> None:
    assert outcome(text).startswith(message)


def test_bounds_of_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controls, "MAX_EVENTS", 1)
    assert "has 2 items, at most 1" in outcome(json.dumps(WHOLE))
    monkeypatch.undo()
    monkeypatch.setattr(controls, "MAX_TRACKS", 0)
    assert outcome(json.dumps(WHOLE)).startswith("controls.where.boxes: has 1 items, at most 0")
    monkeypatch.undo()
    monkeypatch.setattr(controls_depth, "MAX_VALUES", 3)
    assert "at most 3 values" in outcome(json.dumps(WHOLE))
    assert controls_reader.MAX_TEXT < controls.MAX_CHARACTERS


def test_the_largest_rubbish_is_refused_soon() -> None:
    """Sixteen million characters that would be five million objects."""
    start = time.process_time()
    assert outcome("[" + "{}," * (controls.MAX_CHARACTERS // 3 - 2) + "{}]").startswith("controls:")
    assert time.process_time() - start < 20
