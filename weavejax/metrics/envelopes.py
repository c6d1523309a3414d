"""How far the loudness over time of a generated sound is from the true one's.

E-L1 rewards silence where the truth is quiet, so the value that silence would have got, the mean level
of the truth, is part of the result.
"""

from collections.abc import Sequence

import numpy as np

from weavejax.metrics.measured import Measured, Taken, measure_mean
from weavejax.ops.resample import RESAMPLER, resample
from weavejax.ops.rms import rms_frames

# Name of the rate → Hz, and samples reflected at the ends: Video-Foley's, and librosa's in Fol·AI's
# notebook, which are half a hop and more apart.
RATES = {"16k": (16_000, 192), "44k": (44_100, 256)}


def e_l1(truth: np.ndarray, generated: np.ndarray) -> float:
    """Mean absolute difference of two RMS curves [T]; no smoothing, no normalising, all frames."""
    return float(np.abs(truth - generated).mean())


def envelope_correlation(truth: np.ndarray, generated: np.ndarray) -> float:
    """Pearson's correlation of two RMS curves [T]: the shape in time, whatever the level.

    0 when the generated sound is constant (silent, say); NaN when the truth is: there is no shape.
    """
    if np.ptp(truth) == 0:
        return float("nan")
    if np.ptp(generated) == 0:
        return 0.0
    return float(np.corrcoef(truth, generated)[0, 1])


def levels(wave: np.ndarray, source_rate: int, rate: str, seconds: float) -> np.ndarray:
    """RMS curve, frames of 512 samples every 128, of the mono mix.

    Args:
      wave: [S] or [S, C].
      source_rate: of the wave, Hz.
      rate: at which it is taken, a name in `RATES`.
      seconds: length to which the sound is cut or filled with silence.

    Returns:
      float64 [T]; 1250 values for ten seconds at "16k".
    """
    hertz, padding = RATES[rate]
    mono = wave if wave.ndim == 1 else wave.mean(axis=1)
    samples = resample(mono, source_rate, hertz)[: round(seconds * hertz)].astype(np.float64)
    samples = np.pad(samples, (0, round(seconds * hertz) - len(samples)))
    return np.asarray(rms_frames(samples, padding=padding))


def measure_envelopes(
    truth: Sequence[np.ndarray],
    generated: Sequence[np.ndarray],
    rate: int,
    manifest: str,
    rates: Sequence[str] = tuple(RATES),
) -> list[Measured]:
    """E-L1, with silence's beside it, and envelope correlation, at every rate asked for.

    Args:
      truth: [S] or [S, C] of each clip.
      generated: as long; else it is cut, or filled with silence, to the length of the truth.
      rate: of all of them, Hz.
      manifest: `measured.manifest_hash` of the clips.
      rates: names in `RATES`.
    """
    results = []
    for name in rates:
        hertz, _ = RATES[name]
        taken = Taken(manifest, hertz, "none" if hertz == rate else RESAMPLER)
        distances, floors, shapes = [], [], []
        for true, made in zip(truth, generated, strict=True):
            one, other = (levels(wave, rate, name, len(true) / rate) for wave in (true, made))
            distances.append(e_l1(one, other))
            floors.append(float(one.mean()))
            shapes.append(envelope_correlation(one, other))
        floor = {"silence": float(np.mean(floors))}
        results += [
            measure_mean(f"e_l1_{name}_rms512_128", distances, taken, beside=floor),
            measure_mean(
                f"envelope_correlation_{name}_rms512_128",
                shapes,
                taken,
                undefined="truth is constant",
            ),
        ]
    return results
