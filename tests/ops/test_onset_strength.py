"""Onset detection by what it must find; librosa itself is held in parity tests."""

import numpy as np
import pytest

from weavejax.ops.onset_strength import HOP, RATE, detect_onsets, onset_strength, pick_peaks
from weavejax.ops.resample import resample


def test_clicks_are_found_within_a_frame():
    wave = np.zeros(3 * RATE)
    places = np.array([0.3, 0.8, 1.31, 2.5]) * RATE
    wave[places.astype(int)] = 0.5
    found = detect_onsets(wave, delta=0.3)
    assert len(found) == 4
    assert np.abs(found - places).max() <= 2 * HOP
    assert onset_strength(wave).shape == (1 + len(wave) // HOP,)


def test_silence_has_no_onsets_and_what_is_no_sound_is_refused():
    assert detect_onsets(np.zeros(RATE)).tolist() == []
    with pytest.raises(ValueError, match="one channel"):
        detect_onsets(np.zeros((RATE, 2)))
    with pytest.raises(ValueError, match="one channel"):
        onset_strength(np.zeros(0))


def test_peaks_stand_out_and_keep_their_distance():
    values = np.array([0, 1, 0.9, 0, 0.1, 0, 0.8, 0.0])
    assert np.flatnonzero(pick_peaks(values, (1, 1), (2, 3), 0.3, wait=1)).tolist() == [1, 6]
    rising = np.array([0.1, 0.5, 0.9, 1.0])
    assert np.flatnonzero(pick_peaks(rising, (0, 1), (4, 4), 0.1, wait=0)).tolist() == [2, 3]
    assert np.flatnonzero(pick_peaks(rising, (0, 1), (4, 4), 0.1, wait=1)).tolist() == [2]


def test_resampling_keeps_time_and_level():
    tone = np.sin(2 * np.pi * 500 * np.arange(48_000) / 48_000)
    again = resample(tone, 48_000, 16_000)
    assert again.shape == (16_000,)
    expected = np.sin(2 * np.pi * 500 * np.arange(16_000) / 16_000)
    np.testing.assert_allclose(again[500:-500], expected[500:-500], atol=1e-3)
    assert resample(np.zeros((100, 2)), 44_100, 44_100).shape == (100, 2)
