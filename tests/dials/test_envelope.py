"""The conditioning envelope in both profiles, and lengths at odd frame rates."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weavejax.dials.envelope import (
    PARITY_LAG,
    WINDOWS,
    conditioning_envelope,
    sample_count,
    smooth_zero_phase,
    stretch,
    window_mean,
    windows_at,
)

RATE = 44_100


def half_power(curve, start):
    return int(np.argmax(np.square(curve) >= 0.5 * np.square(curve[start + 20_000]))) - start


def test_the_parity_profile_lags_a_step_by_113_ms_and_the_centred_one_does_not():
    step = np.zeros(88_200, np.float32)
    step[30_000:] = 0.5
    lag = half_power(conditioning_envelope(step, "parity"), 30_000)
    assert abs(lag - PARITY_LAG) < 30
    assert 0.112 < lag / RATE < 0.1145
    # A centred window reaches half of a step's power at the step itself.
    assert abs(half_power(conditioning_envelope(step, "better"), 30_000)) < 30


def published(wave, rms_window, mean_window):
    """The published filters written as sums: zeros before, and to both sides."""
    padded = np.concatenate([np.zeros(rms_window - 1), np.square(wave)])
    level = np.sqrt(np.convolve(padded, np.ones(rms_window) / rms_window, "valid"))
    padded = np.pad(level, mean_window // 2)
    return np.convolve(padded, np.ones(mean_window) / mean_window, "valid")[:-1]


def test_the_parity_profile_is_the_published_one():
    wave = np.random.default_rng(0).normal(size=900)
    ours = conditioning_envelope(wave, "parity", rms_window=100, mean_window=20)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, published(wave, 100, 20), rtol=1e-5, atol=1e-7)


def test_a_steady_sound_sags_at_the_ends_in_the_parity_profile_alone():
    wave = np.ones((30_000, 2), np.float32)
    wave[:, 1] = 0.25
    parity, better = (conditioning_envelope(wave, name) for name in ("parity", "better"))
    assert parity.shape == better.shape == wave.shape
    assert parity[0, 0] < 0.2
    np.testing.assert_allclose(parity[-1, 0], 0.5, atol=1e-3)
    np.testing.assert_allclose(better, wave, rtol=1e-6)
    np.testing.assert_allclose(parity[:, 1], 0.25 * parity[:, 0], rtol=1e-6)


def test_silence_after_a_loud_passage_is_silent():
    wave = np.zeros(60_000, np.float32)
    wave[:20_000] = np.random.default_rng(0).normal(size=20_000)
    for profile in ("parity", "better"):
        assert not conditioning_envelope(wave, profile)[32_000:].any()


def test_the_centred_profile_is_symmetric_in_time():
    wave = np.random.default_rng(1).normal(size=5_000)
    one, other = (
        conditioning_envelope(w, "better", rms_window=400, mean_window=80)
        for w in (wave, wave[::-1])
    )
    # Even windows: half a sample early and half a sample late, in this order and in the other.
    np.testing.assert_allclose(one, other[::-1], atol=2e-2)
    with pytest.raises(ValueError, match="parity or better"):
        conditioning_envelope(wave, "best")


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(0, 12), st.integers(1, 12), st.booleans())
def test_window_mean_is_the_mean_of_a_window(length, before, ahead, inside):
    values = np.random.default_rng(length).random(length)
    for n, found in enumerate(window_mean(values, before, ahead, inside=inside)):
        part = values[max(0, n - before) : n + ahead]
        assert found == pytest.approx(part.sum() / (len(part) if inside else before + ahead))


def test_zero_phase_smoothing_moves_nothing_and_is_never_negative():
    levels = np.zeros(1250)
    levels[600] = 1.0
    smoothed = smooth_zero_phase(levels)
    assert smoothed.argmax() == 600
    np.testing.assert_allclose(smoothed[560:641], smoothed[560:641][::-1], atol=1e-6)
    assert smoothed.min() == 0
    np.testing.assert_allclose(smooth_zero_phase(np.full((2, 300), 0.3)), 0.3, rtol=4e-3)


def test_a_stretched_curve_keeps_its_ends():
    curve = stretch(np.array([0.0, 1.0, 0.5]), 441)
    assert curve.shape == (441,)
    assert curve[[0, 220, 440]].tolist() == [0.0, 1.0, 0.5]
    assert stretch(np.array([0.25]), 3).tolist() == [0.25] * 3


def test_lengths_at_odd_frame_rates_are_exact():
    film = Fraction(24000, 1001)
    assert sample_count(240, film, 44_100) == 441_441
    assert sample_count(1, film, 48_000) == 2002
    assert sample_count(1, film, 44_100) == 1839  # 1839.3
    assert sample_count(2, Fraction(30000, 1001), 44_100) == 2943  # 2942.94
    assert sample_count(300, 30, 16_000) == 160_000
    # A day of film: no drift.
    assert sample_count(24 * 3600 * 24, film, 48_000) == 24 * 3600 * 24 * 2002


def test_windows_last_as_long_at_every_rate():
    assert windows_at(44_100, "parity") == (10_000, 2_000)
    for profile, usual in WINDOWS.items():
        for rate in (8_000, 16_000, 48_000):
            for window, samples in zip(windows_at(rate, profile), usual, strict=True):
                assert window % 2 == 0
                assert abs(window / rate - samples / 44_100) <= 1 / rate
