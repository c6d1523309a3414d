"""What librosa, SciPy and scikit-learn say of a few sounds: the published metrics stand on them.

Imported only where the ``parity`` extra is installed.
"""

from collections.abc import Callable

import librosa
import numpy as np
from sklearn.metrics import average_precision_score

Recording = dict[str, np.ndarray]
RATE = 22_050


def onsets() -> Recording:
    """Strength and detected onsets, in samples, at librosa's delta and at that of the metrics."""
    record = {}
    for case in ("hits", "noise", "near silence"):
        wave = _wave(case)
        strength = librosa.onset.onset_strength(y=wave, sr=RATE)
        record |= {f"{case}/wave": wave.astype(np.float16), f"{case}/strength": strength}
        for delta in (0.07, 0.3):
            found = librosa.onset.onset_detect(y=wave, sr=RATE, units="samples", delta=delta)
            record[f"{case}/onsets {delta}"] = found.astype(np.int64)
    return record


def levels() -> Recording:
    """RMS curves with both paddings, and Fol·AI's decoding of classes."""
    wave = _wave("hits")
    padded = np.pad(wave, 192, mode="reflect")
    return {
        "wave": wave.astype(np.float16),
        "16k": librosa.feature.rms(y=padded, frame_length=512, hop_length=128, center=False)[0],
        "44k": librosa.feature.rms(y=wave, frame_length=512, hop_length=128, pad_mode="reflect")[0],
        "classes": librosa.mu_expand(np.arange(64), mu=127, quantize=True),
    }


def precision() -> Recording:
    """Average precision of random labels with many equal scores."""
    rng = np.random.default_rng(0)
    labels = rng.random((20, 15)) < 0.4
    labels[:, 0] = True
    scores = rng.integers(0, 6, size=(20, 15)) / 5
    values = [average_precision_score(y, s) for y, s in zip(labels, scores, strict=True)]
    return {"labels": labels, "scores": scores, "values": np.array(values)}


REFERENCES: dict[str, Callable[[], Recording]] = {
    "onsets": onsets,
    "levels": levels,
    "precision": precision,
}


def run(name: str) -> Recording:
    """Compute one reference."""
    return REFERENCES[name]()


def _wave(case: str) -> np.ndarray:
    """Under a second of float32 that float16 holds exactly."""
    rng = np.random.default_rng(len(case))
    wave = 0.01 * rng.normal(size=20_000)
    if case == "hits":
        for start in (2_500, 6_000, 9_100, 15_000):
            decay = np.exp(-np.arange(3_000) / rng.uniform(200, 1_200))
            wave[start : start + 3_000] += rng.uniform(0.05, 0.4) * decay * rng.normal(size=3_000)
    if case == "near silence":
        wave = np.where(np.arange(20_000) == 9_000, 1e-3, 0.0)
    return wave.astype(np.float16).astype(np.float32)
