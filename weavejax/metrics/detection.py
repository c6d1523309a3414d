"""How well a network that looks at frames finds the onsets of a clip."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from weavejax.metrics.measured import Measured, Taken, measure_mean, measure_set
from weavejax.metrics.onsets import (
    TOLERANCES,
    average_precision,
    balanced_average_precision,
    match,
    sound_scores,
)

RESAMPLES = 200
Statistic = Callable[[np.ndarray], float]


class Found(NamedTuple):
    """Candidates of one clip: seconds [M], and how certain each is [M]."""

    times: np.ndarray
    confidence: np.ndarray


def candidates(logits: np.ndarray, fps: float, start: float = 0.0) -> Found:
    """The local maxima of a clip's logits [T], between the middles of their frames and their edges.

    An onset at the end of a frame makes the network certain of the next one, too: the vertex of the
    parabola through a maximum and its neighbours is nearer to it than the middle, at which those of the
    first and the last frame stay.
    """
    before = np.concatenate([[-np.inf], logits[:-1]])
    after = np.concatenate([logits[1:], [-np.inf]])
    peaks = np.flatnonzero((logits > before) & (logits >= after))
    rise, fall = (logits[peaks] - side[peaks] for side in (before, after))
    inside = np.isfinite(rise) & np.isfinite(fall)
    rise, fall = np.where(inside, rise, 1.0), np.where(inside, fall, 1.0)
    shift = (rise - fall) / (2 * (rise + fall))  # in [-½, ½): neither is negative, nor rise 0
    return Found(start + (peaks + 0.5 + shift) / fps, logits[peaks])


def measure_detection(
    logits: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    truth: Sequence[np.ndarray],
    fps: float,
    threshold: float,
    taken: Taken,
    *,
    tolerances: Sequence[float] = TOLERANCES,
) -> list[Measured]:
    """AP, F1 and the share of clips with as many onsets as the truth.

    Args:
      logits: of the frames, one array [T] a clip.
      labels: of the frames, 0 or 1.
      truth: seconds of the true onsets.
      fps: frames a second.
      threshold: logit above which a candidate counts, for F1 and the number of onsets.
      taken: how, for all results.
      tolerances: seconds.

    Returns:
      `detector_ap_clips_<t>ms`, mean over clips (a clip without onsets, of which none was found, has no
      value; misses count in the recall); `detector_ap_pooled_<t>ms`, of all clips' candidates in one
      list; `detector_f1_clips_<t>ms`; `detector_count_acc_candidates`; and, as SyncFusion's trainer
      takes them batch by batch, `detector_ap_balanced_frames` and `detector_bce_balanced_frames`, a
      frame's cross-entropy in nats where frames with an onset weigh as much as all others.
    """
    found = [candidates(each, fps) for each in logits]
    certain = [_certain(each, threshold) for each in found]
    results = []
    none = "no onsets on either side"
    for tolerance in tolerances:
        end = f"{round(1000 * tolerance)}ms"
        aps = [sound_scores(t, *f, tolerance)[1] for t, f in zip(truth, found, strict=True)]
        f1s = [sound_scores(t, *c, tolerance)[2] for t, c in zip(truth, certain, strict=True)]
        pooled = _pooled(truth, found, tolerance)
        results += [
            measure_mean(f"detector_ap_clips_{end}", aps, taken, undefined=none),
            _measure(f"detector_ap_pooled_{end}", pooled, len(truth), taken),
            measure_mean(f"detector_f1_clips_{end}", f1s, taken, undefined=none),
        ]
    counts = [float(len(t) == len(c.times)) for t, c in zip(truth, certain, strict=True)]
    results.append(measure_mean("detector_count_acc_candidates", counts, taken))
    rows = [np.stack(pair) for pair in zip(labels, logits, strict=True)]

    def balanced(chosen: np.ndarray) -> float:
        joined = np.concatenate([rows[n] for n in chosen], axis=1)
        return balanced_average_precision(joined[0], joined[1])

    results.append(_measure("detector_ap_balanced_frames", balanced, len(rows), taken))

    def entropy(chosen: np.ndarray) -> float:
        joined = np.concatenate([rows[n] for n in chosen], axis=1)
        return balanced_entropy(joined[0], joined[1])

    results.append(_measure("detector_bce_balanced_frames", entropy, len(rows), taken))
    return results


def balanced_entropy(labels: np.ndarray, logits: np.ndarray) -> float:
    """Mean binary cross-entropy of frames, in nats, the positive ones weighed by (N - P) / P.

    Args:
      labels: 0 or 1, any shape; N of them, P are 1.
      logits: same shape.
    """
    positive, logits = np.asarray(labels) > 0, np.asarray(logits, np.float64)
    weight = (positive.size - positive.sum()) / max(positive.sum(), 1)
    missed, false = np.logaddexp(0.0, -logits), np.logaddexp(0.0, logits)
    return float(np.where(positive, weight * missed, false).mean())


def _measure(variant: str, statistic: Statistic, clips: int, taken: Taken) -> Measured:
    value = statistic(np.arange(clips))
    return measure_set(variant, value, statistic, clips, taken, resamples=RESAMPLES)


def _certain(found: Found, threshold: float) -> Found:
    kept = found.confidence > threshold
    return Found(found.times[kept], found.confidence[kept])


def _pooled(truth: Sequence[np.ndarray], found: Sequence[Found], tolerance: float) -> Statistic:
    """Numbers of clips → AP of all their candidates."""
    hits = []
    for times, (places, _) in zip(truth, found, strict=True):
        hit = np.zeros(len(places), bool)
        if len(times) and len(places):
            hit[match(times, places, tolerance)[1]] = True
        hits.append(hit)

    def statistic(chosen: np.ndarray) -> float:
        total = sum(len(truth[n]) for n in chosen)
        if not total:
            return 0.0
        labels = np.concatenate([hits[n] for n in chosen])
        scores = np.concatenate([found[n].confidence for n in chosen])
        return average_precision(labels, scores, total)

    return statistic
