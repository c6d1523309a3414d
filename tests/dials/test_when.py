"""From a sound to its controls, from an envelope to a curve, and the edits between."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weavejax.dials import controls
from weavejax.dials.controls import Controls, Envelope
from weavejax.dials.envelope import conditioning_envelope, sample_count
from weavejax.dials.when import (
    amplitude_curve,
    amplitudes,
    conditioning_curve,
    extract_when,
    gain,
    gate,
    measure_envelope,
    shift,
    smooth,
)

levels = st.lists(st.just(-80.0) | st.floats(-79.9, 0), min_size=1, max_size=60)
envelopes = levels.map(lambda db: Envelope(50.0, tuple(db)))


def clicks(times, rate, seconds, decay=0.03):
    rng = np.random.default_rng(0)
    wave = np.zeros(round(seconds * rate))
    burst = rng.normal(size=round(0.2 * rate)) * np.exp(
        -np.arange(round(0.2 * rate)) / decay / rate
    )
    for time in times:
        start = round(time * rate)
        wave[start : start + len(burst)] += 0.2 * burst[: len(wave) - start]
    return wave


def test_a_click_train_gives_its_onsets_and_a_valid_controls_file():
    times = [0.5, 1.1, 1.6, 2.4]
    wave = np.stack([clicks(times, 48_000, 3.0)] * 2, axis=1)
    when = extract_when(wave, 48_000)
    assert [o.time for o in when.onsets] == pytest.approx(times, abs=0.025)
    assert all(0 < o.strength <= 1 for o in when.onsets)
    document = Controls(3.0, when)
    assert controls.parse(controls.dump(document)) == document
    assert extract_when(np.zeros(48_000), 48_000).onsets == ()


def test_the_envelope_is_the_level_of_the_mono_mix():
    rate = 16_000
    tone = np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate)
    envelope = measure_envelope(np.stack([tone, tone], axis=1), rate)
    assert len(envelope.db) == 100
    np.testing.assert_allclose(envelope.db[1:], -3.01, atol=0.1)
    assert envelope.db[0] == pytest.approx(-6.02, abs=0.1)  # half of its window is outside
    # Opposite channels cancel in the mix.
    assert set(measure_envelope(np.stack([tone, -tone], axis=1), rate).db) == {-80.0}


@settings(max_examples=20, deadline=None)
@given(envelopes, st.floats(-20, 0))
def test_edits_of_any_envelope_can_be_written(envelope, db):
    for edited in (
        gain(envelope, db),
        gain(envelope, -db),
        shift(envelope, db / 40),
        smooth(envelope, -db / 20),
        gate(envelope, db),
    ):
        assert len(edited.db) == len(envelope.db)
        document = Controls(2.0, controls.When(envelope=edited))
        assert controls.parse(controls.dump(document)) == document


def test_six_decibels_double_and_leave_silence_silent():
    envelope = Envelope(50.0, (-80.0, -30.0, -12.0, 3.0))
    louder = gain(envelope, 20 * np.log10(2))
    np.testing.assert_allclose(amplitudes(louder)[:3], 2 * amplitudes(envelope)[:3], rtol=1e-12)
    assert louder.db[0] == -80.0
    assert louder.db[3] == 6.0
    assert gain(envelope, -60).db[1] == -80.0


def test_a_shift_moves_and_brings_silence():
    envelope = Envelope(30.0, (-80.0, -20.0, -10.0, -80.0, -5.0))
    later = shift(envelope, 2 / 30)
    np.testing.assert_allclose(later.db, [-80, -80, -80, -20, -10], atol=1e-9)
    np.testing.assert_allclose(shift(later, -2 / 30).db, [-80, -20, -10, -80, -80], atol=1e-9)
    half = shift(Envelope(10.0, (-80.0, 0.0, -80.0)), 0.05)
    np.testing.assert_allclose(amplitudes(half), [0, 0.5, 0.5], rtol=1e-9)


def test_smoothing_keeps_power_and_level():
    flat = Envelope(50.0, (-20.0,) * 30)
    np.testing.assert_allclose(smooth(flat, 0.2).db, flat.db, atol=1e-9)
    one = Envelope(50.0, (-80.0,) * 15 + (0.0,) + (-80.0,) * 14)
    smoothed = np.square(amplitudes(smooth(one, 0.2)))
    assert smoothed.sum() == pytest.approx(1.0)
    assert (smoothed > 0).sum() == 11
    np.testing.assert_allclose(smooth(one, 0.0).db, one.db, atol=1e-9)


def test_a_gate_silences_what_is_below():
    assert gate(Envelope(50.0, (-50.0, -40.0, -39.9)), -40.0).db == (-80.0, -40.0, -39.9)


def test_the_curve_has_the_exact_length_and_keeps_seconds():
    fps = Fraction(24000, 1001)
    samples = sample_count(96, fps, 44_100)
    db = [-80.0] * 40
    db[20] = -6.0
    curve = amplitude_curve(Envelope(float(fps), tuple(db)), samples, 44_100)
    assert curve.shape == (samples, 2)
    assert curve.dtype == np.float32
    assert abs(int(curve[:, 0].argmax()) - 20 * 44_100 / float(fps)) < 1
    assert curve.max() == pytest.approx(10 ** (-6 / 20), rel=1e-3)
    np.testing.assert_array_equal(curve[:, 0], curve[:, 1])


@pytest.mark.parametrize("profile", ["parity", "better"])
def test_an_extracted_envelope_conditions_like_the_sound_itself(profile):
    rate = 44_100
    wave = clicks([0.4, 1.2, 1.5, 2.3], rate, 3.0, decay=0.2)
    direct = conditioning_envelope(wave, profile)
    curve = conditioning_curve(measure_envelope(wave, rate, 100.0), len(wave), rate, profile)
    assert curve.shape == (len(wave), 2)
    assert np.abs(curve[:, 0] - direct).mean() < 0.02 * direct.max()
    assert np.corrcoef(curve[:, 0], direct)[0, 1] > 0.995


def test_the_envelope_is_part_of_a_frozen_document():
    when = controls.When(envelope=Envelope(50.0, (-20.0,) * 50))
    document = Controls(1.0, when)
    edited = dataclasses.replace(
        document, when=dataclasses.replace(when, envelope=gain(when.envelope, 6.0))
    )
    again = controls.parse(controls.dump(edited)).when.envelope
    np.testing.assert_allclose(amplitudes(again), amplitudes(when.envelope) * 10 ** (6 / 20))
