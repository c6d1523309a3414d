"""Edits of the when dial as they are written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weavejax.dials import when as dial
from weavejax.dials.controls import Controls, Envelope, Onset, Section, When, dump, parse
from weavejax.dials.edits import edit_when, parse_edits, rounded
from weavejax.errors import UserError

ENVELOPE = Envelope(10.0, (-80.0, -20.0, -40.0, -60.0, -80.0, -10.0))


def test_edits_are_made_in_the_order_written():
    loud_first, gate_first = (
        edit_when(When(envelope=ENVELOPE), parse_edits(text), 0.6).envelope
        for text in ("gain=6, gate=-35", "gate=-35,gain=6")
    )
    assert loud_first == dial.gate(dial.gain(ENVELOPE, 6), -35)
    assert gate_first == dial.gain(dial.gate(ENVELOPE, -35), 6)
    assert loud_first != gate_first
    assert parse_edits("") == ()
    assert parse_edits("shift=-0.1,smooth=0.2") == (("shift", -0.1), ("smooth", 0.2))


def test_a_shift_moves_all_that_has_a_time_and_cuts_off_what_leaves():
    onsets = (Onset(0.1), Onset(0.5, 0.3, "hit"), Onset(1.9))
    sections = (Section(0.0, 0.15, "grass"), Section(0.15, 2.0, "stone"))
    when = edit_when(When(onsets, sections, ENVELOPE), parse_edits("shift=-0.2"), 2.0)
    assert [onset.time for onset in when.onsets] == pytest.approx([0.3, 1.7])
    assert when.onsets[0].label == "hit"
    assert [(s.start, s.end, s.label) for s in when.sections] == [(0.0, 1.8, "stone")]
    assert when.envelope == dial.shift(ENVELOPE, -0.2)
    later = edit_when(When(onsets), parse_edits("shift=0.2"), 2.0)
    assert [onset.time for onset in later.onsets] == pytest.approx([0.3, 0.7])


@given(
    st.lists(st.floats(0, 2), max_size=5),
    st.lists(st.floats(-80, 6), min_size=1, max_size=20),
    st.sampled_from(["gain", "shift", "smooth", "gate"]),
    st.floats(-100, 100),
)
def test_what_is_edited_and_rounded_is_a_valid_file(times, db, name, value):
    when = When(tuple(Onset(t) for t in sorted(times)), None, Envelope(10.0, tuple(db)))
    value = abs(value) if name == "smooth" else value
    found = rounded(edit_when(when, ((name, value),), 2.0), 2.0)
    controls = Controls(2.0, found)
    assert parse(dump(controls)) == controls
    assert rounded(found, 2.0) == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("loud=3", r"'loud' is no edit of an envelope; there are gain \(dB\), shift"),
        ("gain", "'gain' is not of the form name=number"),
        ("gain=x", "'gain=x' is not of the form"),
        ("gain=inf", "'gain=inf' is not of the form"),
        ("smooth=-1", "less than nothing"),
    ],
)
def test_what_is_no_edit_is_one_line(text, words):
    with pytest.raises(UserError, match=words):
        parse_edits(text)


def test_there_must_be_something_to_edit():
    with pytest.raises(UserError, match="gain=6 edits the envelope, and these controls hold none"):
        edit_when(When((Onset(0.1),)), (("gain", 6.0),), 1.0)
