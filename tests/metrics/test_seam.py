"""The seam metric on waveforms whose seams are known."""

import numpy as np
import pytest

from weavejax.metrics.seam import seam_jumps

FRAME = 200


def noise(samples=20_000, channels=2, seed=0):
    return np.random.default_rng(seed).normal(size=(channels, samples)) * 0.1


def test_a_seam_that_is_not_there_is_like_any_place():
    found = seam_jumps(noise(), np.arange(1000, 19_500, 500), FRAME)
    assert found.count == 37
    assert abs(found.excess) < 0.2
    assert 0.35 < found.percentile < 0.65


def test_a_step_of_level_is_heard_in_decibels():
    wave = noise()
    wave[:, 10_000:] *= 10 ** (-6 / 20)
    found = seam_jumps(wave, [10_000], FRAME)
    assert abs(found.jump - 6) < 1
    assert found.excess > 4
    assert found.percentile == 1.0
    away = seam_jumps(wave, [5000], FRAME)
    assert away.excess < 1.5


def test_silence_and_short_clips_have_numbers_or_none():
    silent = seam_jumps(np.zeros(5000), [2500], FRAME)
    assert (silent.jump, silent.excess, silent.percentile) == (0.0, 0.0, 0.5)
    none = seam_jumps(np.zeros(5000), [50, 4990], FRAME)
    assert none.count == 0
    assert np.isnan([none.jump, none.percentile]).all()
    short = seam_jumps(np.ones(2 * FRAME), [FRAME], FRAME)
    assert short.jump == pytest.approx(0.0, abs=1e-9)
    assert np.isnan(short.elsewhere)
