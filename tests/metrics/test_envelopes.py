"""E-L1 and its floor, envelope correlation."""

import numpy as np
import pytest

from weavejax.metrics.envelopes import e_l1, envelope_correlation, levels, measure_envelopes


def sound(rate=44_100, seconds=2.0, seed=0, channels=None):
    rng = np.random.default_rng(seed)
    size = round(rate * seconds)
    swell = 0.1 + 0.1 * np.sin(2 * np.pi * 1.5 * np.arange(size) / rate + seed)
    noise = rng.normal(size=(size, channels or 1)).astype(np.float32)
    wave = swell[:, None].astype(np.float32) * noise
    return wave if channels else wave[:, 0]


def by_variant(results):
    return {result.variant: result for result in results}


def test_a_sound_is_no_distance_from_itself_and_silence_is_the_mean_level():
    truth = [sound(seed=k) for k in range(4)]
    same = by_variant(measure_envelopes(truth, truth, 44_100, "m"))
    silent = by_variant(measure_envelopes(truth, [0 * t for t in truth], 44_100, "m"))
    assert len(same) == 4
    for rate in ("16k", "44k"):
        variant = f"e_l1_{rate}_rms512_128"
        assert same[variant].value == 0
        floor = silent[variant].beside["silence"]
        assert silent[variant].value == pytest.approx(floor, rel=1e-12)
        mean = np.mean([levels(t, 44_100, rate, 2.0).mean() for t in truth])
        assert floor == pytest.approx(mean)
        assert floor > 0.03
        variant = f"envelope_correlation_{rate}_rms512_128"
        assert same[variant].value == pytest.approx(1)
        assert silent[variant].value == 0
    assert same["e_l1_16k_rms512_128"].taken.resampler == "soxr_hq"
    assert same["e_l1_44k_rms512_128"].taken.resampler == "none"
    assert same["e_l1_44k_rms512_128"].taken.rate == 44_100


def test_level_matters_to_the_distance_and_shape_to_the_correlation():
    truth = levels(sound(), 44_100, "44k", 2.0)
    assert e_l1(truth, 2 * truth) == pytest.approx(truth.mean())
    assert envelope_correlation(truth, 2 * truth) == pytest.approx(1)
    assert envelope_correlation(truth, truth.max() - truth) == pytest.approx(-1)


def test_ten_seconds_at_16_khz_are_1250_values_and_short_ones_are_filled():
    assert levels(np.ones(160_000, np.float32), 16_000, "16k", 10.0).shape == (1250,)
    short = levels(np.ones(80_000, np.float32), 16_000, "16k", 10.0)
    assert short[:600] == pytest.approx(np.ones(600))
    assert not short[640:].any()
    assert levels(sound(channels=2), 44_100, "44k", 1.0).shape == (345,)


def test_a_constant_truth_has_no_shape():
    results = by_variant(
        measure_envelopes([np.zeros(44_100), sound(seconds=1)], [sound(seconds=1)] * 2, 44_100, "m")
    )
    result = results["envelope_correlation_16k_rms512_128"]
    assert result.count == 1
    assert result.skipped == {"truth is constant": 1}
