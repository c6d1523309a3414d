"""How far the loudness over time of a generated sound is from the true one's.

E-L1 rewards silence where the truth is quiet, so the value that silence would have got, the mean level
of the truth, is part of the result.

The same is asked of envelopes that a network predicted, without a sound between: those results end in
`_predicted`.
"""

from collections.abc import Sequence

import numpy as np

from weavejax.metrics.measured import Measured, Taken, measure_mean, measure_set
from weavejax.ops.resample import RESAMPLER, resample
from weavejax.ops.rms import rms_frames

# Name of the rate → Hz, and samples reflected at the ends: Video-Foley's, and librosa's in Fol·AI's
# notebook, which are half a hop and more apart.
RATES = {"16k": (16_000, 192), "44k": (44_100, 256)}
RESAMPLES = 1000


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


def measure_predicted(
    truth: np.ndarray,
    predicted: np.ndarray,
    target: np.ndarray,
    codes: np.ndarray,
    levels: np.ndarray,
    quantiser: str,
    taken: Taken,
    *,
    within: Sequence[int],
) -> list[Measured]:
    """How well a network predicts RMS curves, and the classes that it says them in.

    Args:
      truth: [N, T], RMS at 16 kHz of frames of 512 samples every 128, N ≥ 1.
      predicted: [N, T].
      target: true classes, int [N, T].
      codes: predicted ones.
      levels: RMS of every class [classes].
      quantiser: which it is, as the results' ids have it: "mu63_64_smoothed".
      taken: how, for all results.
      within: distances, in classes, up to which a class counts as right.

    Returns:
      `e_l1_…_predicted`, and beside it what others get: silence; the mean and the median envelope, a
      curve [T] over these very clips, which no method without eyes can know better; and the true
      classes, the best that can be said in classes. `envelope_skill_…`: 1 − E-L1 / E-L1 of the mean
      envelope. `envelope_correlation_…`. `envelope_class_acc_…_within_<d>`: share of steps, and
      `envelope_class_mae_…`: mean distance in classes.
    """
    truth, predicted = truth.astype(np.float64), predicted.astype(np.float64)

    def distances(other: np.ndarray) -> np.ndarray:
        return np.asarray(np.abs(truth - other).mean(axis=1))

    off, plain = distances(predicted), distances(truth.mean(axis=0))
    beside = {
        "silence": float(truth.mean()),
        "mean envelope": float(plain.mean()),
        "median envelope": float(distances(np.median(truth, axis=0)).mean()),
        "true classes": float(distances(levels[target]).mean()),
    }

    def skill(chosen: np.ndarray) -> float:
        base = plain[chosen].mean()
        return float(1 - off[chosen].mean() / base) if base > 0 else float("nan")

    clips = len(truth)
    shapes = [envelope_correlation(*pair) for pair in zip(truth, predicted, strict=True)]
    away = np.abs(codes.astype(np.int64) - target)
    end = "16k_rms512_128_predicted"
    return [
        measure_mean(f"e_l1_{end}", off, taken, beside=beside),
        measure_set(
            f"envelope_skill_{end}",
            skill(np.arange(clips)),
            skill,
            clips,
            taken,
            resamples=RESAMPLES,
        ),
        measure_mean(f"envelope_correlation_{end}", shapes, taken, undefined="truth is constant"),
        *(
            measure_mean(
                f"envelope_class_acc_{quantiser}_within_{reach}",
                (away <= reach).mean(axis=1),
                taken,
            )
            for reach in within
        ),
        measure_mean(f"envelope_class_mae_{quantiser}", away.mean(axis=1), taken),
    ]
