"""Onsets between annotation, network and sound: SyncFusion's labels, decisions and impulse track."""

from collections.abc import Sequence

import numpy as np

FRAME_RATE = 15  # frames a second that SyncFusion's onset network looks at
METRIC_PROBABILITY = 0.75  # above it a frame counts, in the trainer's metrics
EXPORT_LOGIT = 0.5  # above it a frame counts, where predictions are written: a probability of 0.622


def frame_labels(
    times: Sequence[float], frames: int, fps: float = FRAME_RATE, start: float = 0.0
) -> np.ndarray:
    """1 at frame ⌊fps · t⌋ of every onset, else 0.

    Args:
        times: of the onsets, seconds from the beginning of the clip.
        frames: length of the chunk; onsets outside it are left out.
        fps: frames a second.
        start: where the chunk begins in the clip, seconds; a whole number of frames.

    Returns:
        float32 ``[frames]``.
    """
    first = round(start * fps)
    places = np.floor(np.asarray(times, np.float64) * fps).astype(np.int64) - first
    labels = np.zeros(frames, np.float32)
    labels[places[(places >= 0) & (places < frames)]] = 1.0
    return labels


def above_metric_threshold(logits: np.ndarray) -> np.ndarray:
    """Which frames SyncFusion's metrics call positive: bool, same shape."""
    return np.asarray(logits) > np.log(METRIC_PROBABILITY / (1 - METRIC_PROBABILITY))


def above_export_threshold(logits: np.ndarray) -> np.ndarray:
    """Which frames SyncFusion's export of annotations calls positive: bool, same shape.

    Of the raw logit, so that it calls more frames than the metrics do.
    """
    return np.asarray(logits) > EXPORT_LOGIT


def first_of_runs(active: np.ndarray) -> np.ndarray:
    """Of every run of positive frames only the first: bool ``[..., T]``."""
    before = np.zeros_like(active, bool)
    before[..., 1:] = active[..., :-1]
    return np.asarray(active, bool) & ~before


def thin_runs_as_published(active: np.ndarray) -> np.ndarray:
    """Of every run every other frame, the first included: bool ``[..., T]``.

    This is what the loop in SyncFusion's #OnsetAcc does (``main/module_onset.py``): it clears the
    frame after a positive one while it walks, so that a run of three counts as two onsets.
    """
    active = np.asarray(active, bool)
    place = np.arange(active.shape[-1])
    # Where the run began that each frame lies in: the last frame at which one started.
    start = np.maximum.accumulate(np.where(first_of_runs(active), place, 0), axis=-1)
    return active & ((place - start) % 2 == 0)


def onset_times(active: np.ndarray, fps: float = FRAME_RATE, start: float = 0.0) -> np.ndarray:
    """Seconds of the positive frames of ``[T]``, at the beginnings of the frames: float64 ``[N]``."""
    return start + np.flatnonzero(active) / fps


def impulse_track(times: Sequence[float], samples: int, rate: int) -> np.ndarray:
    """The onset track that SyncFusion's diffusion model is given: 1 at sample ⌊t · rate⌋, else 0.

    Args:
        times: of the onsets, seconds; those outside the track are left out.
        samples: length of the track.
        rate: Hz (48,000 in the published model).

    Returns:
        float32 ``[samples]``.
    """
    track = np.zeros(samples, np.float32)
    places = np.floor(np.asarray(times, np.float64) * rate).astype(np.int64)
    track[places[(places >= 0) & (places < samples)]] = 1.0
    return track
