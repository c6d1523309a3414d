"""The response to a control, on sounds whose answer is known."""

import math

import numpy as np
import pytest

from weavejax.metrics.response import (
    gain_db,
    gains_db,
    lag_steps,
    lags_seconds,
    measure_gain,
    measure_lag,
    measure_skill,
)

RATE = 16_000


def hits(times, seconds=2.0, level=0.3, seed=0):
    """Bursts of noise that die away, at these times."""
    rng = np.random.default_rng(seed)
    wave = np.zeros(round(seconds * RATE))
    for time in times:
        start = round(time * RATE)
        tail = np.arange(len(wave) - start) / RATE
        wave[start:] += level * rng.normal(size=len(tail)) * np.exp(-tail / 0.05)
    return wave.astype(np.float32)


def test_gain_is_that_of_the_levels():
    wave = hits([0.2, 0.9])
    assert gain_db(wave, 2 * wave) == pytest.approx(20 * math.log10(2), abs=1e-6)
    assert gain_db(wave, -0.5 * wave) == pytest.approx(-6.0206, abs=1e-3)
    assert math.isnan(gain_db(0 * wave, wave))
    assert math.isnan(gain_db(wave, 0 * wave))


@pytest.mark.parametrize("lag", [-7, 0, 12])
def test_lag_is_found_to_the_step(lag):
    curve = np.square(np.random.default_rng(1).normal(size=80))
    moved = np.roll(curve, lag)
    assert lag_steps(curve, moved, 20) == lag
    assert lag_steps(curve, np.ones(80), 20) is None
    assert lag_steps(np.ones(80), np.ones(80), 20) is None


def test_a_model_that_obeys_and_one_that_does_not():
    sounds = [hits([0.2, 0.7], seed=1), hits([0.35], seed=2), np.zeros(2 * RATE, np.float32)]
    late = [np.concatenate([np.zeros(4000, np.float32), wave[:-4000]]) for wave in sounds]
    found = measure_lag(lags_seconds(sounds, late, RATE), 0.25, RATE, "m")
    assert found.variant == "lag_error_250ms"
    assert found.value <= 0.004 + 1e-9  # half a step of the curve
    assert found.beside["lag"] == pytest.approx(0.25, abs=0.004)
    assert found.skipped == {"level is constant": 1}
    ignored = measure_lag(lags_seconds(sounds, sounds, RATE), 0.25, RATE, "m")
    assert ignored.value == pytest.approx(0.25)
    assert ignored.beside["not listening"] == 0.25
    loud = measure_gain(gains_db(sounds, [2 * wave for wave in sounds]), 6.0206, "m")
    assert (loud.variant, loud.count) == ("gain_error_6db", 2)
    assert loud.value < 1e-3
    assert loud.beside["gain"] == pytest.approx(6.0206, abs=1e-3)
    assert measure_gain(gains_db(sounds, sounds), 6.0206, "m").value == pytest.approx(6.0206)


def test_skill_is_what_control_takes_off_the_error():
    truth = [hits([0.2, 0.7]), hits([0.5])]
    other = [hits([1.5]), hits([1.1])]
    assert measure_skill(truth, truth, other, RATE, "m").value == 1.0
    assert measure_skill(truth, other, other, RATE, "m").value == 0.0
    half = measure_skill(truth, [0.5 * wave for wave in truth], [0 * w for w in truth], RATE, "m")
    assert half.value == pytest.approx(0.5, abs=1e-6)
    assert half.interval is not None
    silent = [0 * wave for wave in truth]
    assert math.isnan(measure_skill(silent, truth, silent, RATE, "m").value)
