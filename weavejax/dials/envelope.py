"""The waveform-rate envelope that conditions Fol·AI's ControlNet, and what leads to it.

Two profiles. `parity` is the envelope as the published network was trained: a causal RMS over 10,000
samples, then a moving mean over 2,000, zeros beyond both ends. It lags an attack by about 113 ms at
44.1 kHz, rises from nothing at the beginning of each chunk and sags at its end. `better` has both
windows centred, the mean taken over what there is: no lag, no dip where chunks meet. They are as short
as a latent of Stable Audio Open, 45 and 23 ms, so that blows a fifth of a second apart are still two.
Both are NumPy in float64: a running sum in float32 would leave a floor of noise after loud passages.
"""

from fractions import Fraction
from functools import lru_cache

import numpy as np

RATE = 44_100  # Hz, that the windows are meant for
# Samples of the RMS, and of the mean after it; the first are the published ones.
WINDOWS = {"parity": (10_000, 2_000), "better": (2_000, 1_000)}
PARITY_LAG = WINDOWS["parity"][0] // 2  # samples by which an attack reaches half its power late


def windows_at(rate: int, profile: str) -> tuple[int, int]:
    """Samples of the RMS, and of the mean after it, that last as long as those at 44.1 kHz.

    Args:
        rate: of the sound, Hz.
        profile: of `WINDOWS`.

    Returns:
        Two even numbers.

    Raises:
        ValueError: the profile is unknown.
    """
    rms, mean = (2 * max(1, round(n * rate / RATE / 2)) for n in _windows(profile))
    return rms, mean


def _windows(profile: str) -> tuple[int, int]:
    if profile not in WINDOWS:
        raise ValueError(f"unknown envelope profile {profile!r}; choose {' or '.join(WINDOWS)}")
    return WINDOWS[profile]


def conditioning_envelope(
    wave: np.ndarray,
    profile: str,
    *,
    rms_window: int = 0,
    mean_window: int = 0,
) -> np.ndarray:
    """Envelope of a sound, one value a sample, each channel for itself.

    A level curve (`weavejax.dials.when.amplitude_curve`, or what a network predicted) may stand in
    for the sound: its square is a power, as the sound's is, and so it is smoothed like the curves that
    the network was trained with. Of long sounds take the whole before cutting it into chunks.

    Args:
        wave: ``[S]`` or ``[S, C]``.
        profile: `parity` or `better`.
        rms_window: samples of the RMS; 0 for the profile's at 44.1 kHz.
        mean_window: samples of the mean after it, an even number; 0 as above.

    Returns:
        float32, same shape.

    Raises:
        ValueError: the profile is unknown.
    """
    windows = zip((rms_window, mean_window), _windows(profile), strict=True)
    rms_window, mean_window = (asked or usual for asked, usual in windows)
    power = np.square(wave.astype(np.float64))
    half, after = rms_window // 2, mean_window // 2
    if profile == "parity":
        level = np.sqrt(window_mean(power, rms_window - 1, 1, inside=False))
        level = window_mean(level, after, mean_window - after, inside=False)
    else:
        # Half a sample early, then half a sample late: together exactly centred.
        level = np.sqrt(window_mean(power, half, rms_window - half, inside=True))
        level = window_mean(level, mean_window - after - 1, after + 1, inside=True)
    return level.astype(np.float32)


def window_mean(values: np.ndarray, before: int, ahead: int, *, inside: bool) -> np.ndarray:
    """Mean of the values from ``before`` earlier up to and without ``ahead`` later, float64.

    Args:
        values: ``[S, ...]``, none of them negative.
        before: how many earlier ones count.
        ahead: how many of this and later ones count.
        inside: over those that there are; otherwise zeros stand beyond both ends.
    """
    zero = np.zeros((1, *values.shape[1:]))
    total = np.concatenate([zero, np.cumsum(values, axis=0, dtype=np.float64)])
    place = np.arange(len(values))
    first, last = np.maximum(place - before, 0), np.minimum(place + ahead, len(values))
    size = (last - first) if inside else np.full(len(values), before + ahead)
    sums = np.maximum(total[last] - total[first], 0.0)
    return np.asarray(sums / size.reshape(-1, *[1] * (values.ndim - 1)))


def smooth_zero_phase(levels: np.ndarray) -> np.ndarray:
    """Video-Foley's smoothing of its RMS targets: an elliptic low-pass run both ways.

    Order 4, 0.01 dB ripple, 120 dB stop band, an eighth of Nyquist (7.8 Hz at 125 values a second),
    ends by Gustafsson's method; what becomes negative is set to 0. Source: ``data_utils.py``.

    Args:
        levels: ``[..., T]`` RMS.

    Returns:
        float64 ``[..., T]``.
    """
    return np.maximum(_low_pass(np.asarray(levels, np.float64)), 0.0)


@lru_cache(maxsize=4)
def smoothing_matrix(steps: int) -> np.ndarray:
    """`smooth_zero_phase` of curves of one length as a product, for devices.

    The filter is linear, Gustafsson's treatment of the ends included: only the clipping at 0 is not,
    and that is left to the caller.

    Args:
        steps: T.

    Returns:
        float64 ``[T, T]``, read-only: ``levels @ matrix`` is ``levels`` ``[..., T]`` smoothed.
    """
    matrix = _low_pass(np.eye(steps))
    matrix.setflags(write=False)
    return matrix


def _low_pass(levels: np.ndarray) -> np.ndarray:
    import scipy.signal  # costs every start half a second, and few need it

    numerator, denominator = scipy.signal.ellip(4, 0.01, 120, 0.125)
    return np.asarray(scipy.signal.filtfilt(numerator, denominator, levels, method="gust"))


def stretch(levels: np.ndarray, samples: int) -> np.ndarray:
    """A curve drawn out linearly over exactly so many samples, first on first and last on last.

    As Fol·AI stretches what its first stage predicted (there to 441,000, unsmoothed).

    Args:
        levels: ``[T]``, at least one value.
        samples: of the result.

    Returns:
        float32 ``[samples]``.
    """
    place = np.linspace(0.0, len(levels) - 1, samples)
    return np.interp(place, np.arange(len(levels)), levels).astype(np.float32)


def sample_count(frames: int, fps: Fraction | int, rate: int) -> int:
    """Samples that last exactly as long as so many video frames, rounded once, halves up.

    Args:
        frames: of the video.
        fps: as a fraction: 24000/1001, say.
        rate: of the sound, Hz.
    """
    return int(Fraction(frames) * rate / Fraction(fps) + Fraction(1, 2))
