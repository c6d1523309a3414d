"""CLAP's front end by what its definition says; transformers' is held in parity tests."""

import numpy as np
import pytest

from weavejax.ops.log_mel import SAMPLES, fusion_views, log_mel, mel_filters, repeat_pad


@pytest.mark.parametrize("scale", ["slaney", "htk"])
def test_a_tone_is_loudest_in_its_band(scale: str) -> None:
    time = np.arange(9600) / 48_000
    centres = (np.arange(513)[:, None] * mel_filters(64, scale)).sum(0) / mel_filters(
        64, scale
    ).sum(0)
    for hertz in (500.0, 3000.0, 9000.0):
        mel = log_mel(np.sin(2 * np.pi * hertz * time), scale=scale)
        assert mel.shape == (21, 64)
        loudest = np.abs(centres * 46.875 - hertz).argmin()
        assert abs(int(mel[10].argmax()) - int(loudest)) <= 1
    assert (log_mel(np.zeros(5000)) == -100).all()


def test_twice_the_amplitude_is_six_decibels() -> None:
    wave = np.random.default_rng(0).standard_normal(5000)
    np.testing.assert_allclose(log_mel(2 * wave) - log_mel(wave), 20 * np.log10(2), atol=1e-4)


def test_long_sounds_give_parts_from_the_middles_of_their_thirds() -> None:
    wave = np.random.default_rng(0).standard_normal(480 * 40)
    views, longer = fusion_views(wave, samples=480 * 10)
    whole = log_mel(wave, scale="htk")
    assert longer
    assert views.shape == (4, 11, 64)
    # 41 frames leave 31 places: 11, 10 and 10.
    for view, start in zip(views[1:], (5, 16, 26), strict=True):
        np.testing.assert_array_equal(view, whole[start : start + 11])
    assert SAMPLES // 480 + 1 == 1001


def test_what_is_no_sound_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one channel of samples \[S\], got shape \(2, 9\)"):
        log_mel(np.zeros((2, 9)))
    with pytest.raises(ValueError, match=r"got shape \(0,\)"):
        log_mel(np.zeros(0))
    with pytest.raises(ValueError, match="unknown mel scale 'bark'"):
        log_mel(np.zeros(9), scale="bark")
    assert repeat_pad(np.array([1.0, 2.0]), 5).tolist() == [1, 2, 1, 2, 0]
