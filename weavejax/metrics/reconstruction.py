"""How close a sound that was made again, by an autoencoder, is to the first one.

Sounds are float arrays [S, C] of one or two channels; "mid" is the mean of the channels.
"""

from collections.abc import Sequence

import numpy as np

from weavejax.metrics.envelopes import RATES, measure_envelopes
from weavejax.metrics.measured import Measured, Taken, measure_mean
from weavejax.ops.log_mel import mel_filters

SILENT = "truth is silent"
AUDIBLE = 1e-3  # RMS of a truth, −60 dBFS; below it there is nothing to make again
MOST = 100.0  # dB at either end, so that no single clip carries the mean
SIZES = (2048, 512, 128)
FLOOR = 1e-8  # of a squared magnitude
MELS, MEL_WINDOW, RANGE = 64, 1024, 80.0  # bands, samples, dB below the loudest band


def si_sdr(truth: np.ndarray, made: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio (Le Roux et al., arXiv 1811.02508), dB.

    Args:
      truth: [S].
      made: [S].

    Returns:
      Between −100 and 100; NaN where the truth is silent.
    """
    truth, made = truth.astype(np.float64), made.astype(np.float64)
    energy = truth @ truth
    if energy <= len(truth) * AUDIBLE**2:
        return float("nan")
    target = (made @ truth / energy) * truth
    wanted, rest = target @ target, np.square(made - target).sum()
    least = 10.0 ** (-MOST / 10)
    ratio = max(wanted, least * rest) / max(rest, least * wanted, np.finfo(np.float64).tiny)
    return float(np.clip(10 * np.log10(max(ratio, least)), -MOST, MOST))


def power(wave: np.ndarray, size: int) -> np.ndarray:
    """|X|² of Hann windows of `size` samples every quarter of it, the ends reflected.

    Args:
      wave: [S], S > size / 2.
      size: of the transform.

    Returns:
      float64 [1 + S // hop, size // 2 + 1].
    """
    padded = np.pad(wave.astype(np.float64), size // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[:: size // 4]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    return np.square(np.abs(np.fft.rfft(frames * window, axis=1)))


def stft_distance(truth: np.ndarray, made: np.ndarray, sizes: Sequence[int] = SIZES) -> float:
    """Spectral convergence plus the mean difference of log magnitudes (nats), mean over the sizes.

    Args:
      truth: [S].
      made: [S].
      sizes: of the transforms.

    Returns:
      ≥ 0; NaN where the truth is silent.
    """
    if np.sqrt(np.square(truth, dtype=np.float64).mean()) <= AUDIBLE:
        return float("nan")
    total = 0.0
    for size in sizes:
        one, other = (np.sqrt(power(wave, size) + FLOOR) for wave in (truth, made))
        total += float(np.linalg.norm(one - other) / np.linalg.norm(one))
        total += float(np.abs(np.log(one) - np.log(other)).mean())
    return total / len(sizes)


def log_mel_distance(truth: np.ndarray, made: np.ndarray, rate: int) -> float:
    """Mean absolute difference of log mel spectra, dB, of 64 bands and windows of 1024 samples.

    What lies more than 80 dB below the loudest place of the truth counts as 80 dB below it.

    Args:
      truth: [S].
      made: [S].
      rate: of both, Hz.

    Returns:
      ≥ 0; NaN where the truth is silent.
    """
    if np.sqrt(np.square(truth, dtype=np.float64).mean()) <= AUDIBLE:
        return float("nan")
    filters = mel_filters(MELS, "slaney", rate=rate, window=MEL_WINDOW, high_hz=rate / 2)
    one, other = (power(wave, MEL_WINDOW) @ filters for wave in (truth, made))
    least = one.max() * 10.0 ** (-RANGE / 10)
    levels = [10 * np.log10(np.maximum(each, least)) for each in (one, other)]
    return float(np.abs(levels[0] - levels[1]).mean())


def measure_reconstruction(
    truth: Sequence[np.ndarray], made: Sequence[np.ndarray], rate: int, manifest: str
) -> list[Measured]:
    """All of the above, and E-L1 and the correlation of envelopes, with intervals over clips.

    Args:
      truth: [S, C] of each clip.
      made: of the same shapes.
      rate: of all of them, Hz.
      manifest: `measured.manifest_hash` of the clips.

    Returns:
      `si_sdr_mid`; of stereo also `si_sdr_side`, which has no value for clips whose channels are the
      same; `stft_distance_mid_2048_512_128`; `log_mel_distance_mid_64_1024`; envelopes at every rate
      that the sound reaches.
    """
    taken = Taken(manifest, rate, "none")
    pairs = list(zip(truth, made, strict=True))
    mid = [(one.mean(1), other.mean(1)) for one, other in pairs]
    columns = {
        "si_sdr_mid": [si_sdr(*each) for each in mid],
        f"stft_distance_mid_{'_'.join(map(str, SIZES))}": [stft_distance(*each) for each in mid],
        f"log_mel_distance_mid_{MELS}_{MEL_WINDOW}": [log_mel_distance(*e, rate) for e in mid],
    }
    if all(one.shape[1] == 2 for one in truth):
        side = [[(wave[:, 0] - wave[:, 1]) / 2 for wave in pair] for pair in pairs]
        columns["si_sdr_side"] = [si_sdr(*each) for each in side]
    results = [measure_mean(n, v, taken, undefined=SILENT) for n, v in columns.items()]
    rates = [name for name, (hertz, _) in RATES.items() if hertz <= rate]
    return results + (measure_envelopes(truth, made, rate, manifest, rates) if truth else [])
