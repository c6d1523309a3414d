"""The Kaldi filter bank against its definition in float64; torchaudio's is held in parity tests."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weavejax.ops.fbank import ENERGY_FLOOR, kaldi_fbank, mel_filters, povey_window


def in_float64(wave: np.ndarray, rate: int, mels: int) -> np.ndarray:
    """The definition, one window and one filter at a time."""
    length, hop = rate // 40, rate // 100
    size = 2 ** int(np.ceil(np.log2(length)))
    mel = [1127 * np.log(1 + hertz / 700) for hertz in (20, 8000)]
    step = (mel[1] - mel[0]) / (mels + 1)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / (length - 1))
    rows = []
    for start in range(0, wave.size - length + 1, hop):
        window = wave[start : start + length].astype(np.float64) * 32768
        window = window - window.mean()
        window = window - 0.97 * np.concatenate([window[:1], window[:-1]])
        power = np.abs(np.fft.rfft(window * hann**0.85, size)) ** 2
        row = []
        for index in range(mels):
            centre = mel[0] + step * (index + 1)
            bins = 1127 * np.log(1 + np.arange(size // 2) * rate / size / 700)
            weights = np.maximum(0, 1 - np.abs(bins - centre) / step)
            row.append(np.log(max(weights @ power[:-1], ENERGY_FLOOR)))
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize(("rate", "mels"), [(16000, 64), (16000, 128), (44100, 64), (48000, 32)])
def test_equals_the_definition(rate: int, mels: int) -> None:
    wave = 0.1 * np.random.default_rng(0).standard_normal(rate // 10).astype(np.float32)
    ours = kaldi_fbank(wave, rate=rate, mels=mels)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, in_float64(wave, rate, mels), atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(samples=st.integers(0, 3000))
def test_only_whole_windows_count(samples: int) -> None:
    frames = kaldi_fbank(np.ones(samples, np.float32)).shape[0]
    assert frames == (0 if samples < 400 else 1 + (samples - 400) // 160)


def test_level_moves_every_band_alike() -> None:
    wave = 0.1 * np.random.default_rng(0).standard_normal(2000).astype(np.float32)
    louder = kaldi_fbank(4 * wave) - kaldi_fbank(wave)
    np.testing.assert_allclose(louder, 2 * np.log(4), atol=1e-4)


def test_a_tone_peaks_in_the_filter_around_it() -> None:
    wave = np.sin(2 * np.pi * 1000 * np.arange(1600) / 16000).astype(np.float32)
    low, high = 1127 * np.log1p(np.array([20, 8000]) / 700)
    edges = np.linspace(low, high, 66)
    nearest = np.abs(edges[1:-1] - 1127 * np.log1p(1000 / 700)).argmin()
    assert (kaldi_fbank(wave).argmax(axis=1) == nearest).all()


def test_silence_and_constant_offset_sit_on_the_floor() -> None:
    for level in (0.0, 0.5):
        bank = kaldi_fbank(np.full(1000, level, np.float32))
        np.testing.assert_allclose(bank, np.log(ENERGY_FLOOR), rtol=1e-6)


def test_cached_tables_cannot_be_changed() -> None:
    for table in (povey_window(400), mel_filters(16000, 512, 64)):
        with pytest.raises(ValueError, match="read-only"):
            table[0] = 1


def test_unusable_input_is_refused() -> None:
    with pytest.raises(ValueError, match="one channel"):
        kaldi_fbank(np.zeros((2, 1000), np.float32))
    with pytest.raises(ValueError, match="at least 16000 Hz"):
        kaldi_fbank(np.zeros(1000, np.float32), rate=8000)


def test_imports_no_jax() -> None:
    code = "import sys, weavejax.ops.fbank; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
