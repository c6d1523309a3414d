"""The controls file (`*.controls.json`): what a person reads and edits, one schema for all systems.

Extracted from a clip, drawn by hand or predicted by a model, it is the same file:

    {"version": 1, "duration": 4.0,
     "when":  {"onsets": [{"time": 0.5, "strength": 0.8, "label": "hit metal", "material": "metal",
                           "action": "hit"}],
               "sections": [{"start": 0.0, "end": 2.1, "label": "grass"}],
               "envelope": {"rate": 50.0, "db": [-80.0, -23.5]}},
     "what":  {"caption": "...", "subtitle": "...", "references": ["bell.wav"]},
     "where": {"boxes": [{"label": "person", "times": [0.0], "boxes": [[0.1, 0.2, 0.4, 0.9]]}],
               "depth": {"shape": [60, 28, 28], "fps": 15.0, "near": 0.3, "far": 60.0,
                         "data": "..."},
               "view": {"projection": "pinhole", "fov": 60.0, "times": [0.0], "yaw": [0.0],
                        "pitch": [-10.0]},
               "sources": [{"label": "person", "times": [0.0], "azimuth": [12.0],
                            "elevation": [-5.0], "distance": [2.5]}]}}

Times are seconds in [0, duration]; levels dBFS; positions [0, 1] of the frame, from its top left;
angles degrees; azimuth is left-positive and elevation up-positive (as in AmbiX), both as seen by
the viewer (relative to the view); distances metres. Onsets and sections are sorted by time; a
track of one time is constant; between the times of a track values are linear.
`when`, `what`, `where` and each of their parts may be absent. Unknown keys are errors, so that a
misspelt one is noticed.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from weavejax.dials.controls_depth import Depth
from weavejax.dials.controls_reader import ControlsError, Reader

__all__ = [
    "ENVELOPE_CEILING_DB",
    "ENVELOPE_FLOOR_DB",
    "VERSION",
    "BoxTrack",
    "Controls",
    "ControlsError",
    "Depth",
    "Envelope",
    "Onset",
    "Section",
    "SourceTrack",
    "View",
    "What",
    "When",
    "Where",
    "dump",
    "parse",
]

VERSION = 1
ENVELOPE_FLOOR_DB, ENVELOPE_CEILING_DB = -80.0, 6.0

Box = tuple[float, float, float, float]
Projection = Literal["pinhole", "equirectangular"]

# Bounds that no honest file meets: a hostile or broken one must fail fast, in little memory.
MAX_CHARACTERS = 16 * 2**20
MAX_DURATION = 24 * 3600.0
MAX_EVENTS = 1_000_000
MAX_TRACKS = 1_000
MAX_WORDS = 10_000


@dataclass(frozen=True)
class Onset:
    """Something starts to sound, at the moment at which the picture shows it."""

    time: float
    strength: float = 1.0
    label: str | None = None
    material: str | None = None
    action: str | None = None


@dataclass(frozen=True)
class Section:
    """A stretch of time with a name: the ground that is walked on, say."""

    start: float
    end: float
    label: str


@dataclass(frozen=True)
class Envelope:
    """RMS level of the mono mix (mean of the channels).

    `db[k]` is 20·log10 of the root mean square over the window of 2/rate seconds centred on
    k/rate; samples outside the clip count as zeros, and the level is floored at -80 dBFS.
    """

    rate: float
    db: tuple[float, ...]


@dataclass(frozen=True)
class When:
    """The when dial: what starts to sound, on what ground or in what part, and how loud."""

    onsets: tuple[Onset, ...] | None = None
    sections: tuple[Section, ...] | None = None
    envelope: Envelope | None = None


@dataclass(frozen=True)
class What:
    """The what dial: meaning, in words or by reference.

    `references` are files in the folder of the controls file or below it.
    """

    caption: str | None = None
    subtitle: str | None = None
    references: tuple[str, ...] | None = None


@dataclass(frozen=True)
class BoxTrack:
    """`boxes[k]` is (x0, y0, x1, y1) at `times[k]`, or None while the thing is out of view."""

    label: str
    times: tuple[float, ...]
    boxes: tuple[Box | None, ...]


@dataclass(frozen=True)
class View:
    """Where the viewer looks in the world: yaw left-positive, pitch up-positive.

    `fov` is the horizontal field of view (360 for equirectangular).
    """

    projection: Projection
    fov: float
    times: tuple[float, ...] = (0.0,)
    yaw: tuple[float, ...] = (0.0,)
    pitch: tuple[float, ...] = (0.0,)


@dataclass(frozen=True)
class SourceTrack:
    """A sounding thing as the viewer hears it: direction relative to the view, and distance."""

    label: str
    times: tuple[float, ...]
    azimuth: tuple[float, ...]
    elevation: tuple[float, ...]
    distance: tuple[float, ...]


@dataclass(frozen=True)
class Where:
    """The where dial: places in the picture, distances, the view, directions of sound."""

    boxes: tuple[BoxTrack, ...] | None = None
    depth: Depth | None = None
    view: View | None = None
    sources: tuple[SourceTrack, ...] | None = None


@dataclass(frozen=True)
class Controls:
    """All dials of one clip. `duration` is the clip's length in seconds."""

    duration: float
    when: When | None = None
    what: What | None = None
    where: Where | None = None


def parse(text: str) -> Controls:
    """Reads and checks a controls file.

    Args:
      text: the JSON document.

    Raises:
      ControlsError: a `UserError` whose line names the place, e.g. `when.onsets[3].time`.
    """
    if len(text) > MAX_CHARACTERS:
        raise ControlsError(f"controls: more than {MAX_CHARACTERS} characters")
    root = Reader(_load(text), "")
    root.keys({"version", "duration", "when", "what", "where"})
    version = root["version"].integer(0, 2**31)
    if version != VERSION:
        raise ControlsError(f"controls.version: {version} is not supported (known: {VERSION})")
    duration = root["duration"].number(0.0, MAX_DURATION)
    if duration == 0.0:
        raise ControlsError("controls.duration: must be more than 0 s")
    return Controls(
        duration,
        root.part("when", lambda reader: _when(reader, duration)),
        root.part("what", _what),
        root.part("where", lambda reader: _where(reader, duration)),
    )


def dump(controls: Controls) -> str:
    """Writes the JSON document; `parse(dump(c)) == c` exactly.

    Raises:
      ControlsError: `controls` holds something that `parse` would refuse.
    """
    document = {"version": VERSION, **_without_none(asdict(controls))}
    try:
        text = json.dumps(document, allow_nan=False, separators=(",", ":"), default=_plain)
    except (TypeError, ValueError) as error:
        raise ControlsError(f"controls: cannot be written: {error}") from error
    if parse(text) != controls:
        raise ControlsError("controls: values change when written (are all numbers floats?)")
    return text


def _load(text: str) -> Any:
    def refuse(token: str) -> Any:
        raise ControlsError(f"controls: {token} is not a number JSON knows")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) != len(pairs):
            raise ControlsError("controls: the same key stands twice in one object")
        return values

    try:
        return json.loads(text, parse_constant=refuse, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ControlsError(f"controls: not JSON: {error.msg} at {place}") from error
    except ControlsError:
        raise
    except (RecursionError, ValueError) as error:  # nesting, or an integer of too many digits
        raise ControlsError("controls: not JSON of a sane shape") from error


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not a plain value")


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    """Absent parts are absent keys; the Nones inside a box track are values and stay."""
    return {
        key: _without_none(value)
        if isinstance(value, dict)
        else tuple(_without_none(v) if isinstance(v, dict) else v for v in value)
        if isinstance(value, tuple)
        else value
        for key, value in values.items()
        if value is not None
    }


def _when(reader: Reader, duration: float) -> When:
    reader.keys({"onsets", "sections", "envelope"})
    onsets = reader.part(
        "onsets", lambda r: tuple(_onset(each, duration) for each in r.items(MAX_EVENTS))
    )
    sections = reader.part(
        "sections", lambda r: tuple(_section(each, duration) for each in r.items(MAX_EVENTS))
    )
    if onsets is not None:
        reader["onsets"].ascending([onset.time for onset in onsets], "times")
    if sections is not None:
        reader["sections"].ascending([section.start for section in sections], "starts")
    return When(onsets, sections, reader.part("envelope", lambda r: _envelope(r, duration)))


def _onset(reader: Reader, duration: float) -> Onset:
    reader.keys({"time", "strength", "label", "material", "action"})
    strength = reader.part("strength", lambda r: r.number(0.0, 1.0))
    return Onset(
        reader["time"].number(0.0, duration),
        1.0 if strength is None else strength,
        *(reader.part(key, Reader.text) for key in ("label", "material", "action")),
    )


def _section(reader: Reader, duration: float) -> Section:
    reader.keys({"start", "end", "label"})
    start = reader["start"].number(0.0, duration)
    return Section(start, reader["end"].number(start, duration), reader["label"].text())


def _envelope(reader: Reader, duration: float) -> Envelope:
    reader.keys({"rate", "db"})
    rate = reader["rate"].number(1e-3, 1e5)
    db = reader["db"].numbers(ENVELOPE_FLOOR_DB, ENVELOPE_CEILING_DB, MAX_EVENTS)
    if len(db) - 1 > duration * rate:
        raise ControlsError(
            f"{reader['db'].path}: {len(db)} values at {rate:g} Hz reach beyond {duration:g} s"
        )
    return Envelope(rate, db)


def _what(reader: Reader) -> What:
    reader.keys({"caption", "subtitle", "references"})
    return What(
        reader.part("caption", Reader.text),
        reader.part("subtitle", Reader.text),
        reader.part("references", lambda r: tuple(each.file_path() for each in r.items(MAX_WORDS))),
    )


def _where(reader: Reader, duration: float) -> Where:
    reader.keys({"boxes", "depth", "view", "sources"})
    return Where(
        reader.part("boxes", lambda r: tuple(_boxes(b, duration) for b in r.items(MAX_TRACKS))),
        reader.part("depth", lambda r: _depth(r, duration)),
        reader.part("view", lambda r: _view(r, duration)),
        reader.part("sources", lambda r: tuple(_source(s, duration) for s in r.items(MAX_TRACKS))),
    )


def _boxes(reader: Reader, duration: float) -> BoxTrack:
    reader.keys({"label", "times", "boxes"})
    times = _times(reader, duration)
    boxes = tuple(None if b.empty else _box(b) for b in reader["boxes"].items(MAX_EVENTS))
    reader["boxes"].same_length(boxes, times)
    return BoxTrack(reader["label"].text(), times, boxes)


def _box(reader: Reader) -> Box:
    corners = reader.numbers(0.0, 1.0, 4)
    if len(corners) != 4:
        raise ControlsError(f"{reader.path}: a box is [x0, y0, x1, y1] or null")
    x0, y0, x1, y1 = corners
    if x1 < x0 or y1 < y0:
        raise ControlsError(f"{reader.path}: x1 and y1 must not be less than x0 and y0")
    return x0, y0, x1, y1


def _depth(reader: Reader, duration: float) -> Depth:
    depth = Depth.read(reader)
    if (depth.shape[0] - 1) / depth.fps > duration:
        raise ControlsError(f"{reader.path}.shape: its frames reach beyond {duration:g} s")
    return depth


def _view(reader: Reader, duration: float) -> View:
    reader.keys({"projection", "fov", "times", "yaw", "pitch"})
    projection = reader["projection"].text()
    if projection not in ("pinhole", "equirectangular"):
        raise ControlsError(
            f"{reader.path}.projection: {projection[:40]!r} is neither pinhole nor equirectangular"
        )
    widest = 179.0 if projection == "pinhole" else 360.0
    times = _times(reader, duration)
    yaw, pitch = (
        _track(reader, "yaw", -360.0, 360.0, times),
        _track(reader, "pitch", -90, 90, times),
    )
    return View(projection, reader["fov"].number(1.0, widest), times, yaw, pitch)  # type: ignore[arg-type]


def _source(reader: Reader, duration: float) -> SourceTrack:
    reader.keys({"label", "times", "azimuth", "elevation", "distance"})
    times = _times(reader, duration)
    return SourceTrack(
        reader["label"].text(),
        times,
        _track(reader, "azimuth", -180.0, 180.0, times),
        _track(reader, "elevation", -90.0, 90.0, times),
        _track(reader, "distance", 0.0, 1e6, times),
    )


def _times(reader: Reader, duration: float) -> tuple[float, ...]:
    times = reader["times"].numbers(0.0, duration, MAX_EVENTS)
    if not times:
        raise ControlsError(f"{reader['times'].path}: a track needs at least one time")
    reader["times"].ascending(list(times), "times")
    return times


def _track(
    reader: Reader, key: str, low: float, high: float, times: tuple[float, ...]
) -> tuple[float, ...]:
    values = reader[key].numbers(low, high, MAX_EVENTS)
    reader[key].same_length(values, times)
    return values
