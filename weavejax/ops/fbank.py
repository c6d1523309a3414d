"""Kaldi-style log mel filter bank in NumPy, the front end of BEATs.

Runs in data workers, so it imports no JAX. Same definition as Kaldi's ``compute-fbank-feats``
(``feature-window.cc``, ``mel-computations.cc``) with ``--dither=0 --use-energy=false``.
"""

from functools import lru_cache

import numpy as np

from weavejax.ops.bands import sum_bands

PREEMPHASIS = 0.97
LOW_HZ, HIGH_HZ = 20.0, 8000.0
INT16_SCALE = 2.0**15  # Kaldi expects the range of 16-bit samples
# Kaldi floors mel energies at the float32 epsilon, so digital silence gives log(eps) ≈ -15.94.
ENERGY_FLOOR = float(np.finfo(np.float32).eps)


def kaldi_fbank(wave: np.ndarray, *, rate: int = 16000, mels: int = 64) -> np.ndarray:
    """Log mel energies of Kaldi's filter bank: 25 ms Povey windows every 10 ms.

    Each window has its mean removed, then pre-emphasis 0.97, window, power spectrum (512 bins at
    16 kHz), triangular filters from 20 to 8000 Hz on Kaldi's mel scale, natural logarithm.
    Only whole windows count (snip edges): ``1 + (S - 400) // 160`` frames at 16 kHz.

    Args:
        wave: float32 ``[S]`` mono samples in [-1, 1].
        rate: sampling rate in Hz; at least 16000, twice the upper edge of the filters.
        mels: number of mel filters (GRAM uses 64, BEATs' own front end 128).

    Returns:
        float32 ``[frames, mels]``; zero frames when the input is shorter than one window.

    Raises:
        ValueError: the input is not one-dimensional, or the rate is below 16000 Hz.
    """
    if wave.ndim != 1:
        raise ValueError(f"kaldi_fbank takes one channel of samples [S], got shape {wave.shape}")
    if rate < 2 * HIGH_HZ:
        raise ValueError(f"kaldi_fbank needs a rate of at least {2 * HIGH_HZ:.0f} Hz, got {rate}")
    length, hop = int(rate * 0.025), int(rate * 0.010)
    if wave.size < length:
        return np.zeros((0, mels), np.float32)
    fft_size = 1 << (length - 1).bit_length()
    samples = np.ascontiguousarray(wave, np.float32) * np.float32(INT16_SCALE)
    frames = np.lib.stride_tricks.sliding_window_view(samples, length)[::hop]
    frames = frames - frames.mean(axis=1, keepdims=True)
    # Zero-padding to the transform's size is written here: one buffer, no copy inside the FFT.
    windowed = np.zeros((len(frames), fft_size), np.float32)
    windowed[:, 1:length] = frames[:, 1:] - np.float32(PREEMPHASIS) * frames[:, :-1]
    windowed[:, 0] = np.float32(1 - PREEMPHASIS) * frames[:, 0]
    windowed[:, :length] *= povey_window(length)
    spectrum = np.fft.rfft(windowed, axis=1)
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    energies = sum_bands(power[:, :-1], mel_filters(rate, fft_size, mels))
    return np.log(np.maximum(energies, np.float32(ENERGY_FLOOR)))


@lru_cache(maxsize=8)
def povey_window(length: int) -> np.ndarray:
    """Povey's window, a Hann window to the power 0.85: float32 ``[length]``."""
    phase = 2 * np.pi * np.arange(length) / (length - 1)
    window = (0.5 - 0.5 * np.cos(phase)) ** 0.85
    window[-1] = window[0]  # rounding can leave the last value a hair off zero
    return _frozen(window)


@lru_cache(maxsize=8)
def mel_filters(rate: int, fft_size: int, mels: int) -> np.ndarray:
    """Triangular filters on Kaldi's mel scale, 20 to 8000 Hz: float32 ``[fft_size / 2, mels]``.

    The triangles are straight lines in mel, not in Hz, and the Nyquist bin is left out, as in
    Kaldi.
    """
    low, high = _mel(np.array([LOW_HZ, HIGH_HZ]))
    edges = low + (high - low) / (mels + 1) * np.arange(mels + 2)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    bins = _mel(rate / fft_size * np.arange(fft_size // 2))[:, None]
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    return _frozen(np.maximum(0.0, np.minimum(rising, falling)))


def _mel(hertz: np.ndarray) -> np.ndarray:
    return 1127.0 * np.log1p(hertz / 700.0)


def _frozen(array: np.ndarray) -> np.ndarray:
    """A read-only float32 array: cached values are shared by all callers."""
    result = array.astype(np.float32)
    result.setflags(write=False)
    return result
