"""CLAP's log mel spectrogram in NumPy, and the four views of a long sound for its feature fusion.

Runs in data workers, so it imports no JAX. Same definition as transformers'
``feature_extraction_clap.py``: 48 kHz, Hann windows of 1024 samples every 480, power, 64 mel bands
from 0 to 14 kHz, decibels.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from weavejax.ops.bands import sum_bands

RATE = 48_000
WINDOW, HOP = 1024, 480
LOW_HZ, HIGH_HZ = 0.0, 14_000.0
POWER_FLOOR = 1e-10  # -100 dB
SAMPLES = 480_000  # what the published towers take: ten seconds, 1001 frames


def log_mel(wave: np.ndarray, *, mels: int = 64, scale: str = "slaney") -> np.ndarray:
    """Mel spectrogram in dB, windows centred on every 480th sample, ends reflected.

    Args:
        wave: ``[S]`` mono samples at 48 kHz, at least one.
        mels: number of bands.
        scale: ``"slaney"``, as the towers without fusion were trained with (librosa's default), or
            ``"htk"``, for those with fusion (torchaudio's default).

    Returns:
        float32 ``[1 + S // 480, mels]``.

    Raises:
        ValueError: the input is empty or not one-dimensional, or the scale is unknown.
    """
    if wave.ndim != 1 or not wave.size:
        raise ValueError(f"log_mel takes one channel of samples [S], got shape {wave.shape}")
    # float64: in a quiet band float32's rounding of the loud ones would show.
    samples = np.pad(wave.astype(np.float64), WINDOW // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    spectrum = np.fft.rfft(frames * hann, axis=1)
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    energies = sum_bands(power, mel_filters(mels, scale))
    return (10 * np.log10(np.maximum(energies, POWER_FLOOR))).astype(np.float32)


def repeat_pad(wave: np.ndarray, samples: int) -> np.ndarray:
    """A sound no longer than ``samples``, repeated whole as often as it fits, then zeros."""
    repeated = np.tile(wave, samples // len(wave))
    return np.pad(repeated, (0, samples - len(repeated)))


def middle(places: range) -> int:
    """The middle of some places."""
    return places[len(places) // 2]


def fusion_views(
    wave: np.ndarray,
    *,
    samples: int = SAMPLES,
    mels: int = 64,
    choose: Callable[[range], int] = middle,
) -> tuple[np.ndarray, bool]:
    """What a tower with fusion takes of a sound of any length.

    Args:
        wave: ``[S]`` mono samples at 48 kHz, at least one.
        samples: length the tower takes.
        mels: number of bands.
        choose: picks the first frame of each part; it is asked once for each third of the places.
            The published code draws at random.

    Returns:
        ``[4, 1 + samples // 480, mels]``: the whole sound shrunk in time, and three parts of it;
        and whether the sound is longer than the tower takes. Otherwise all four are the same.
    """
    frames = 1 + samples // HOP
    mel = log_mel(
        wave if len(wave) > samples else repeat_pad(wave, samples), mels=mels, scale="htk"
    )
    if len(mel) == frames:
        return np.stack([mel] * 4), False
    places = len(mel) - frames + 1
    short, longer = divmod(places, 3)
    ends = np.cumsum([short + (third < longer) for third in range(3)]).tolist()
    thirds = [range(start, end) or range(1) for start, end in zip([0, *ends], ends, strict=False)]
    starts = [choose(third) for third in thirds]
    return np.stack([_shrink(mel, frames), *(mel[s : s + frames] for s in starts)]), True


def _shrink(mel: np.ndarray, frames: int) -> np.ndarray:
    """Linear interpolation to fewer frames, half-pixel centres, no antialiasing."""
    place = np.maximum((np.arange(frames) + 0.5) * (len(mel) / frames) - 0.5, 0.0)
    first = place.astype(np.int64)
    second = np.minimum(first + 1, len(mel) - 1)
    weight = (place - first).astype(np.float32)[:, None]
    return mel[first] * (1 - weight) + mel[second] * weight


@lru_cache(maxsize=8)
def mel_filters(
    mels: int,
    scale: str,
    *,
    rate: int = RATE,
    window: int = WINDOW,
    low_hz: float = LOW_HZ,
    high_hz: float = HIGH_HZ,
) -> np.ndarray:
    """Triangular filters, straight lines in Hz: float64 ``[window // 2 + 1, mels]``, read-only.

    Slaney's are divided by half their width in Hz, so that all have the same area.
    """
    if scale not in ("htk", "slaney"):
        raise ValueError(f"unknown mel scale {scale!r}; choose htk or slaney")
    to_mel, to_hertz = (_htk, _htk_hertz) if scale == "htk" else (_slaney, _slaney_hertz)
    low, high = to_mel(np.array([low_hz, high_hz]))
    edges = to_hertz(np.linspace(low, high, mels + 2))
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    bins = np.linspace(0, rate / 2, window // 2 + 1)[:, None]
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    filters = np.maximum(0.0, np.minimum(rising, falling))
    if scale == "slaney":
        filters *= 2 / (right - left)
    filters.setflags(write=False)
    return filters


def _htk(hertz: np.ndarray) -> np.ndarray:
    return 2595 * np.log10(1 + hertz / 700)


def _htk_hertz(mel: np.ndarray) -> np.ndarray:
    return 700 * (10 ** (mel / 2595) - 1)


def _slaney(hertz: np.ndarray) -> np.ndarray:
    """Linear up to 1 kHz, where 15 mels lie; 27 mels for each factor 6.4 above."""
    above = 15 + np.log(np.maximum(hertz, 1000) / 1000) * (27 / np.log(6.4))
    return np.where(hertz < 1000, hertz * (3 / 200), above)


def _slaney_hertz(mel: np.ndarray) -> np.ndarray:
    above = 1000 * np.exp((np.maximum(mel, 15) - 15) * (np.log(6.4) / 27))
    return np.where(mel < 15, mel * (200 / 3), above)
