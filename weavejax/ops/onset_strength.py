"""Onsets of a sound: how fast its mel spectrum rises, and the peaks of that.

The same as librosa 0.11's ``onset.onset_strength`` and ``onset.onset_detect`` with their defaults, on
which the published onset metrics stand (CondFoleyGen's ``predict_onset.py``, SyncFusion's
``script/evaluate_onset.py``), in NumPy. Peaks are told from an envelope stretched to [0, 1] clip by
clip: a clip of pure noise has onsets too, and one loud hit hides the soft ones.
"""

import numpy as np

from weavejax.ops.bands import sum_bands
from weavejax.ops.log_mel import POWER_FLOOR, mel_filters

RATE = 22_050  # Hz, of the published metrics
WINDOW, HOP, MELS = 2048, 512, 128
RANGE_DB = 80.0  # below the loudest band of the clip
DELTA = 0.07  # how far a peak stands above its surroundings; the published metrics take 0.3


def onset_strength(wave: np.ndarray, rate: int = RATE) -> np.ndarray:
    """Rise of the mel spectrogram in dB, mean over bands.

    Args:
        wave: ``[S]`` mono samples, at least one.
        rate: of the samples, Hz.

    Returns:
        float64 ``[1 + S // 512]``; value k belongs to the time ``k · 512 / rate``.

    Raises:
        ValueError: the input is empty or not one-dimensional.
    """
    if wave.ndim != 1 or not wave.size:
        raise ValueError(f"onset_strength takes one channel [S], got shape {wave.shape}")
    padded = np.pad(wave.astype(np.float64), WINDOW // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    spectrum = np.fft.rfft(frames * hann, axis=1)
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    filters = mel_filters(MELS, "slaney", rate=rate, window=WINDOW, high_hz=rate / 2)
    level = 10 * np.log10(np.maximum(sum_bands(power, filters), POWER_FLOOR))
    level = np.maximum(level, level.max() - RANGE_DB)
    rise = np.maximum(0.0, np.diff(level, axis=0)).mean(1)
    # A frame is told from the one before it, and a window sees a sound half its length too early.
    late = 1 + WINDOW // (2 * HOP)
    return np.concatenate([np.zeros(late), rise])[: len(level)]


def detect_onsets(wave: np.ndarray, rate: int = RATE, *, delta: float = DELTA) -> np.ndarray:
    """Times at which something starts to sound.

    Args:
        wave: ``[S]`` mono samples, at least one.
        rate: of the samples, Hz.
        delta: how far a peak of the strength, stretched to [0, 1], stands above the mean around it.

    Returns:
        Samples at which frames with an onset are centred, ascending, int64 ``[N]``; none in silence.
    """
    strength = onset_strength(wave, rate)
    strength = strength - strength.min()
    if not strength.max() > 0:
        return np.zeros(0, np.int64)
    strength /= strength.max()
    short, wide = int(0.03 * rate // HOP), int(0.10 * rate // HOP)
    peaks = pick_peaks(strength, (short, 1), (wide, wide + 1), delta, wait=short)
    return np.flatnonzero(peaks) * HOP


def pick_peaks(
    values: np.ndarray,
    highest: tuple[int, int],
    mean: tuple[int, int],
    delta: float,
    *,
    wait: int,
) -> np.ndarray:
    """Peaks as Böck et al. (ISMIR 2012) pick them: bool ``[T]``.

    A value is one when it is the highest of those from ``highest[0]`` before it up to and without
    ``highest[1]`` after it, at least ``delta`` above the mean of those from ``mean[0]`` before it to
    ``mean[1]`` after it, and more than ``wait`` values after the last one.
    """
    peaks = np.zeros(len(values), bool)
    place = 0
    while place < len(values):
        near = values[max(0, place - highest[0]) : place + highest[1]]
        around = values[max(0, place - mean[0]) : place + mean[1]]
        peaks[place] = values[place] >= near.max() and values[place] >= around.mean() + delta
        place += 1 + wait * peaks[place]
    return peaks
