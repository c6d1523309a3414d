"""How well the onsets of a generated sound match those of the true one.

Three modes, which are not comparable:
  paper: CondFoleyGen's script (``predict_onset.py``) as published. Of the reference onsets in turn each
    takes the loudest free onset within the tolerance, not the nearest; what is left over when those run
    out is forgotten, so that a silent output has an AP of 1. A clip without any onset has no value
    (the script raises), and confidences of onsets in the first 50 ms are taken from what there is
    (there it raises too).
  syncfusion: the same, but a clip without onsets on either side scores 0 throughout
    (``script/evaluate_onset.py``).
  sound: one-to-one matching of as many onsets as can be, the nearest where there is a choice; misses
    count in the recall, silence scores 0. A clip with no onsets on both sides has no value.
Accuracy is the share of reference onsets that are met, as the scripts have it; #onset accuracy, the
share of clips with as many onsets as the truth, asks for no times.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from weavejax.metrics.measured import Measured, Taken, measure_mean
from weavejax.ops.onset_strength import RATE, detect_onsets
from weavejax.ops.resample import RESAMPLER, resample

MODES = ("paper", "syncfusion", "sound")
TOLERANCES = (0.05, 0.1, 0.3)  # seconds; CondFoleyGen and SyncFusion: 0.1, MMAudio: 0.3
DELTA = 0.3  # of the detection, on both sides
WINDOW = 0.05  # seconds: of suppression, and on both sides of an onset for its confidence


class Scores(NamedTuple):
    """Of one clip; NaN where undefined."""

    accuracy: float
    average_precision: float
    f1: float


NOTHING = Scores(0.0, 0.0, 0.0)
UNDEFINED = Scores(math.nan, math.nan, math.nan)


def average_precision(
    labels: np.ndarray, scores: np.ndarray, positives: int | None = None
) -> float:
    """Σ (Rₙ - Rₙ₋₁) Pₙ over the thresholds, equal scores together (scikit-learn's definition).

    Args:
      labels: bool [n].
      scores: [n], higher is more certain.
      positives: what recall is a share of; None for the positive labels. More of them are misses that
        no threshold finds.

    Returns:
      0 when there are no positives.
    """
    labels, scores = np.asarray(labels, bool), np.asarray(scores, np.float64)
    total = int(labels.sum()) if positives is None else positives
    if not total or not len(labels):
        return 0.0
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)  # the last of each threshold
    hits = np.cumsum(labels[order])[last]
    precision = hits / (np.flatnonzero(last) + 1)
    return float((np.diff(hits, prepend=0) * precision).sum() / total)


def balanced_average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """AP of frames as SyncFusion's trainer takes it: of the first n positives and first n negatives.

    n is the smaller of the two numbers (``main/module_onset.py``); the trainer takes it batch by batch.

    Args:
      labels: 0 or 1, any shape.
      scores: same shape.
    """
    flat = np.asarray(labels).reshape(-1) > 0
    positive, negative = np.flatnonzero(flat), np.flatnonzero(~flat)
    count = min(len(positive), len(negative))
    kept = np.concatenate([positive[:count], negative[:count]])
    return average_precision(flat[kept], np.asarray(scores).reshape(-1)[kept])


def confidences(wave: np.ndarray, onsets: np.ndarray, rate: int = RATE) -> np.ndarray:
    """Highest |sample| within 50 ms of each onset, in a clip stretched to [0, 1]: [N].

    Args:
      wave: [S].
      onsets: sample numbers [N].
      rate: Hz.
    """
    height, half = _stretched(wave), int(WINDOW * rate)
    return np.array([height[max(0, o - half) : o + half].max(initial=0.0) for o in onsets])


def paper_scores(
    truth: np.ndarray, found: np.ndarray, wave: np.ndarray, tolerance: float, rate: int = RATE
) -> Scores:
    """Accuracy, AP and F1 of one clip as published; see the module.

    Args:
      truth: sample numbers of the reference onsets, ascending, int [N].
      found: those detected in the generated sound, ascending, int [M].
      wave: the generated sound [S].
      tolerance: seconds; nearer than this is a match.
      rate: Hz, of all.
    """
    if not len(truth) and not len(found):
        return UNDEFINED
    height = _stretched(wave)
    kept = suppress(found, confidences(wave, found, rate), rate)
    free, labels, scores = kept.tolist(), [], []
    for onset in truth:
        near = [place for place in free if abs(place - onset) < tolerance * rate]
        labels.append(True)
        if not near:
            scores.append(0.0)
            continue
        loudest = near[int(np.argsort([height[place] for place in near], kind="stable")[-1])]
        scores.append(float(confidences(wave, np.array([loudest]), rate)[0]))
        free.remove(loudest)
        if not free:
            break
    hits = len(kept) - len(free)
    labels += [False] * len(free)
    scores += confidences(wave, np.array(free, np.int64), rate).tolist()
    precision_ap = average_precision(np.array(labels), np.array(scores))
    return Scores(_share(hits, len(truth)), precision_ap, _f1(hits, len(truth), len(kept)))


def suppress(onsets: np.ndarray, confidence: np.ndarray, rate: int = RATE) -> np.ndarray:
    """Onsets that no more certain one lies within 50 ms of, almost: [M], ascending.

    The published loop removes from a list while it walks over it, so that of two neighbours in a row
    the second survives; so it does here. Of equally certain ones the last comes first, where the
    published sort leaves the order open.
    """
    remaining, output = onsets.tolist(), []
    for number in np.argsort(confidence, kind="stable")[::-1]:
        current = int(onsets[number])
        if current not in remaining:
            continue
        output.append(current)
        remaining.remove(current)
        place = 0
        while place < len(remaining):
            if abs(current - remaining[place]) < WINDOW * rate:
                remaining.pop(place)
            place += 1
    return np.array(sorted(output), np.int64)


def sound_scores(
    truth: np.ndarray, found: np.ndarray, confidence: np.ndarray, tolerance: float
) -> Scores:
    """Recall, AP and F1 of one clip by one-to-one matching; see the module.

    Args:
      truth: seconds of the reference onsets [N].
      found: seconds of the onsets found [M].
      confidence: of those [M].
      tolerance: seconds; up to this is a match.
    """
    if not len(truth) and not len(found):
        return UNDEFINED
    if not len(truth) or not len(found):
        return NOTHING
    hit = np.zeros(len(found), bool)
    hit[match(truth, found, tolerance)[1]] = True
    hits = int(hit.sum())
    precision_ap = average_precision(hit, confidence, len(truth))
    return Scores(hits / len(truth), precision_ap, _f1(hits, len(truth), len(found)))


def match(truth: np.ndarray, found: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of numbers (of the truth, of the found): as many as can be, then the nearest.

    Args:
      truth: seconds [N].
      found: seconds [M].
      tolerance: seconds, inclusive up to rounding.
    """
    import scipy.optimize  # costs every start a quarter of a second, and few need it

    distance = np.abs(np.asarray(truth)[:, None] - np.asarray(found)[None, :])
    allowed = distance <= tolerance + 1e-9
    # One pair too far costs more than all that are near enough together.
    far = tolerance * (min(distance.shape) + 1) + 1.0
    rows, columns = scipy.optimize.linear_sum_assignment(np.where(allowed, distance, far))
    kept = allowed[rows, columns]
    return rows[kept], columns[kept]


def measure_onsets(
    truth: Sequence[np.ndarray],
    generated: Sequence[np.ndarray],
    rate: int,
    manifest: str,
    *,
    annotated: Sequence[np.ndarray] | None = None,
    modes: Sequence[str] = MODES,
    tolerances: Sequence[float] = TOLERANCES,
) -> list[Measured]:
    """Onset accuracy, AP and F1 at every tolerance, and #onset accuracy, in every mode.

    Args:
      truth: true sounds [S] or [S, C]; not looked at when there are annotations.
      generated: generated sounds, as many.
      rate: of all of them, Hz; detection is at 22,050 Hz.
      manifest: `measured.manifest_hash` of the clips.
      annotated: seconds of the true onsets of each clip; None to detect them in the true sounds. The
        variant ids of annotated results end in `_annotated`.
      modes: of `MODES`.
      tolerances: seconds.

    Raises:
      ValueError: unknown mode.
    """
    for mode in modes:
        if mode not in MODES:
            raise ValueError(f"unknown onset mode {mode!r}; choose one of {', '.join(MODES)}")
    clips = [_Clip.of(made, rate) for made in generated]
    if annotated is None:
        known = [detect_onsets(_mono(true, rate), delta=DELTA) for true in truth]
    else:
        known = [np.sort(np.round(np.asarray(t) * RATE)).astype(np.int64) for t in annotated]
    taken = Taken(manifest, RATE, "none" if rate == RATE else RESAMPLER)
    suffix, none = ("" if annotated is None else "_annotated"), "no onsets on either side"
    results = []
    for mode in modes:
        pairs = list(zip(known, clips, strict=True))
        counted = [_count_accuracy(mode, t, c) for t, c in pairs]
        results.append(measure_mean(f"onset_count_acc_{mode}{suffix}", counted, taken))
        for tolerance in tolerances:
            scores = np.array([_scores(mode, t, c, tolerance) for t, c in pairs]).reshape(-1, 3)
            for name, values in zip(("acc", "ap", "f1"), scores.T, strict=True):
                variant = f"onset_{name}_{mode}_{round(1000 * tolerance)}ms{suffix}"
                results.append(measure_mean(variant, values, taken, undefined=none))
    return results


class _Clip(NamedTuple):
    """A generated sound at the rate of detection, with its onsets and their confidences."""

    wave: np.ndarray
    onsets: np.ndarray
    confidence: np.ndarray

    @staticmethod
    def of(wave: np.ndarray, rate: int) -> "_Clip":
        mono = _mono(wave, rate)
        onsets = detect_onsets(mono, delta=DELTA)
        return _Clip(mono, onsets, confidences(mono, onsets))


def _scores(mode: str, truth: np.ndarray, clip: _Clip, tolerance: float) -> Scores:
    if mode == "sound":
        return sound_scores(truth / RATE, clip.onsets / RATE, clip.confidence, tolerance)
    if mode == "syncfusion" and not (len(truth) and len(clip.onsets)):
        return NOTHING
    return paper_scores(truth, clip.onsets, clip.wave, tolerance)


def _count_accuracy(mode: str, truth: np.ndarray, clip: _Clip) -> float:
    if mode == "syncfusion" and not (len(truth) and len(clip.onsets)):
        return 0.0
    return float(len(truth) == len(clip.onsets))


def _mono(wave: np.ndarray, rate: int) -> np.ndarray:
    return resample(wave if wave.ndim == 1 else wave.mean(axis=1), rate, RATE)


def _stretched(wave: np.ndarray) -> np.ndarray:
    height = np.abs(np.asarray(wave, np.float64))
    height = height - height.min()
    return np.asarray(height / (height.max() or 1.0))


def _share(hits: int, total: int) -> float:
    return hits / total if total else 0.0


def _f1(hits: int, truth: int, found: int) -> float:
    return 2 * hits / (truth + found) if truth + found else 0.0
