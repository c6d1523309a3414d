"""The when dial: from a sound to its onsets and envelope, from them to curves, and their edits.

Edits are pure functions from an envelope to an envelope that is a valid part of a controls file.
Silence is silence: a value at the floor stays there whatever the gain, and outside the clip there is
nothing but it.
"""

from fractions import Fraction

import numpy as np

from weavejax.dials.controls import (
    ENVELOPE_CEILING_DB,
    ENVELOPE_FLOOR_DB,
    Envelope,
    Onset,
    When,
)
from weavejax.dials.envelope import conditioning_envelope, window_mean, windows_at
from weavejax.ops import onset_strength
from weavejax.ops.resample import resample

ENVELOPE_RATE = 50.0  # values a second


def extract_when(
    wave: np.ndarray,
    rate: int,
    *,
    envelope_rate: float = ENVELOPE_RATE,
    delta: float = onset_strength.DELTA,
) -> When:
    """Onsets and envelope of a sound, as its controls file holds them.

    Args:
        wave: ``[S]`` or ``[S, C]`` samples in [-1, 1]; channels are averaged.
        rate: of the samples, Hz.
        envelope_rate: values a second of the envelope.
        delta: how clearly an onset stands out (`weavejax.ops.onset_strength.detect_onsets`).
    """
    mono = _mono(wave)
    duration = len(mono) / rate
    found = resample(mono, rate, onset_strength.RATE)
    places = onset_strength.detect_onsets(found, delta=delta)
    strength = onset_strength.onset_strength(found)
    loudest = strength.max() or 1.0
    onsets = tuple(
        Onset(
            min(float(place) / onset_strength.RATE, duration),
            round(float(strength[place // onset_strength.HOP] / loudest), 3),
        )
        for place in places
    )
    return When(onsets, None, measure_envelope(mono, rate, envelope_rate))


def measure_envelope(wave: np.ndarray, rate: int, envelope_rate: float = ENVELOPE_RATE) -> Envelope:
    """RMS level of the mono mix in dBFS as `weavejax.dials.controls.Envelope` defines it.

    Args:
        wave: ``[S]`` or ``[S, C]`` samples in [-1, 1].
        rate: of the samples, Hz.
        envelope_rate: values a second; at least one value is given.
    """
    mono = _mono(wave)
    energy = np.concatenate([[0.0], np.cumsum(np.square(mono))])
    half = rate / envelope_rate
    centres = np.arange(max(1, round(len(mono) / half))) * half
    first = np.clip(np.rint(centres - half), 0, len(mono)).astype(np.int64)
    last = np.clip(np.rint(centres + half), 0, len(mono)).astype(np.int64)
    rms = np.sqrt(np.maximum(energy[last] - energy[first], 0.0) / (2 * half))
    return _envelope(envelope_rate, rms)


def level_envelope(
    levels: np.ndarray, rate: float, *, start: float = 0.0, envelope_rate: float = ENVELOPE_RATE
) -> Envelope:
    """A curve of linear RMS, as a network predicts it, as an envelope of a controls file.

    Between the values linear in RMS, before the first and after the last of them constant.

    Args:
        levels: ``[T]``, at least one value.
        rate: of the values, Hz.
        start: time of the first value, seconds: half a hop for frames that lie side by side.
        envelope_rate: values a second of the result.
    """
    count = max(1, round(len(levels) / rate * envelope_rate))
    place = (np.arange(count) / envelope_rate - start) * rate
    return _envelope(envelope_rate, np.interp(place, np.arange(len(levels)), levels))


def amplitudes(envelope: Envelope) -> np.ndarray:
    """Linear RMS of every value, 0 at the floor: float64 ``[T]``."""
    db = np.asarray(envelope.db, np.float64)
    return np.where(db > ENVELOPE_FLOOR_DB, 10.0 ** (db / 20), 0.0)


def amplitude_curve(
    envelope: Envelope, samples: int, rate: Fraction | int, channels: int = 2
) -> np.ndarray:
    """The envelope as a curve of linear RMS, one value a sample, the same in all channels.

    Between the times of the envelope values are linear, after the last one they stay; seconds decide,
    not the number of values, so that an envelope of any rate keeps its timing.

    Args:
        envelope: of a controls file, at least one value.
        samples: of the result; see `weavejax.dials.envelope.sample_count`.
        rate: samples a second.
        channels: of the result.

    Returns:
        float32 ``[samples, channels]``.
    """
    place = np.arange(samples) * (envelope.rate / float(rate))
    curve = np.interp(place, np.arange(len(envelope.db)), amplitudes(envelope))
    return np.repeat(curve.astype(np.float32)[:, None], channels, axis=1)


def conditioning_curve(
    envelope: Envelope, samples: int, rate: int, profile: str, channels: int = 2
) -> np.ndarray:
    """What the ControlNet is given for an envelope: float32 ``[samples, channels]``.

    The same smoothing as in training (`weavejax.dials.envelope.conditioning_envelope`, over as many
    seconds at any rate), so that a drawn or predicted envelope looks to the network like those it has
    learnt from; in the `parity` profile that includes its lag.
    """
    rms, mean = windows_at(rate, profile)
    curve = amplitude_curve(envelope, samples, rate, 1)
    level = conditioning_envelope(curve, profile, rms_window=rms, mean_window=mean)
    return np.repeat(level, channels, axis=1)


def gain(envelope: Envelope, db: float) -> Envelope:
    """Louder by `db` decibels (softer where negative), up to the ceiling of +6 dBFS."""
    values = np.asarray(envelope.db, np.float64)
    return _from_db(envelope.rate, np.where(values > ENVELOPE_FLOOR_DB, values + db, values))


def shift(envelope: Envelope, seconds: float) -> Envelope:
    """Later by `seconds` (earlier where negative); silence moves in. Between values, linear in RMS."""
    levels = amplitudes(envelope)
    place = np.arange(len(levels)) - seconds * envelope.rate
    near = np.rint(place)
    # A shift by whole values must not blur them, whatever the rounding of seconds · rate.
    place = np.where(np.abs(place - near) < 1e-6, near, place)
    moved = np.interp(place, np.arange(len(levels)), levels, left=0.0, right=0.0)
    return _envelope(envelope.rate, moved)


def smooth(envelope: Envelope, seconds: float) -> Envelope:
    """Mean power over a centred window of about `seconds` (a whole, odd number of values)."""
    half = round(seconds * envelope.rate / 2)
    power = window_mean(np.square(amplitudes(envelope)), half, half + 1, inside=True)
    return _envelope(envelope.rate, np.sqrt(power))


def gate(envelope: Envelope, threshold_db: float) -> Envelope:
    """Silence wherever the level is below `threshold_db`."""
    values = np.asarray(envelope.db, np.float64)
    return _from_db(envelope.rate, np.where(values < threshold_db, ENVELOPE_FLOOR_DB, values))


def _mono(wave: np.ndarray) -> np.ndarray:
    wave = wave.astype(np.float64)
    return wave if wave.ndim == 1 else wave.mean(axis=1)


def _envelope(rate: float, rms: np.ndarray) -> Envelope:
    lowest = 10.0 ** (ENVELOPE_FLOOR_DB / 20)
    db = np.where(rms > lowest, 20 * np.log10(np.maximum(rms, lowest)), ENVELOPE_FLOOR_DB)
    return _from_db(rate, db)


def _from_db(rate: float, db: np.ndarray) -> Envelope:
    return Envelope(
        float(rate), tuple(np.clip(db, ENVELOPE_FLOOR_DB, ENVELOPE_CEILING_DB).tolist())
    )
