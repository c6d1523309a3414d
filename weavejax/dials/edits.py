"""Edits of the when dial as they are written on a command line: "gain=6,shift=-0.1,smooth=0.2"."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from weavejax.dials import when as dial
from weavejax.dials.controls import Envelope, When
from weavejax.errors import UserError

Edit = tuple[str, float]

# Name → what it does to an envelope, and the unit of its number.
ENVELOPE_EDITS: dict[str, tuple[Callable[[Envelope, float], Envelope], str]] = {
    "gain": (dial.gain, "dB"),
    "shift": (dial.shift, "s"),
    "smooth": (dial.smooth, "s"),
    "gate": (dial.gate, "dBFS"),
}


def parse_edits(text: str) -> tuple[Edit, ...]:
    """Edits in the order in which they are written and are to be made.

    Args:
      text: "name=number" with commas between; "" is none.

    Raises:
      UserError: an unknown name, or what is not a number that the edit takes.
    """
    edits = []
    for part in filter(None, (each.strip() for each in text.split(","))):
        name, _, value = part.partition("=")
        if name.strip() not in ENVELOPE_EDITS:
            raise UserError(
                f"{name.strip()!r} is no edit of an envelope; there are "
                + ", ".join(f"{each} ({unit})" for each, (_, unit) in ENVELOPE_EDITS.items())
            )
        edits.append((name.strip(), number_of(part, value)))
        if edits[-1][0] == "smooth" and edits[-1][1] < 0:
            raise UserError(f"{part!r}: a window of less than nothing")
    return tuple(edits)


def number_of(part: str, value: str) -> float:
    """The finite number in `part`, "name=value"; raises UserError where there is none."""
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{part!r} is not of the form name=number")
    return number


def edit_when(when: When, edits: Sequence[Edit], duration: float) -> When:
    """The dial after the edits, one after the other.

    All are made to the envelope. A shift moves onsets and sections too: what leaves the clip is cut
    off, and an onset that leaves it is gone.

    Args:
      when: of a clip.
      edits: from `parse_edits`.
      duration: of the clip, seconds.

    Raises:
      UserError: there is nothing that an edit could be made to.
    """
    for name, value in edits:
        if when.envelope is None and (name != "shift" or when.onsets is None):
            raise UserError(f"{name}={value:g} edits the envelope, and these controls hold none")
        if when.envelope is not None:
            edited = ENVELOPE_EDITS[name][0](when.envelope, value)
            when = replace(when, envelope=edited)
        if name == "shift":
            when = _shift_events(when, value, duration)
    return when


def _shift_events(when: When, seconds: float, duration: float) -> When:
    onsets, sections = when.onsets, when.sections
    if onsets is not None:
        moved = (replace(onset, time=onset.time + seconds) for onset in onsets)
        onsets = tuple(onset for onset in moved if 0 <= onset.time <= duration)
    if sections is not None:
        ends = ((max(s.start + seconds, 0.0), min(s.end + seconds, duration)) for s in sections)
        sections = tuple(
            replace(section, start=start, end=end)
            for section, (start, end) in zip(sections, ends, strict=True)
            if start < end
        )
    return replace(when, onsets=onsets, sections=sections)


def rounded(when: When, duration: float) -> When:
    """As a person would write it: times to 0.1 ms, strengths to 0.001, levels to 0.01 dB."""
    onsets, envelope = when.onsets, when.envelope
    if onsets is not None:
        onsets = tuple(
            replace(
                onset,
                time=min(round(onset.time, 4), duration),
                strength=round(onset.strength, 3),
            )
            for onset in onsets
        )
    if envelope is not None:
        envelope = Envelope(envelope.rate, tuple(round(db, 2) for db in envelope.db))
    return replace(when, onsets=onsets, envelope=envelope)
