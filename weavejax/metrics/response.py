"""Whether a control controls: what a generated sound makes of an envelope, and of a change to it.

The changed envelope is rendered from the same noise, and the two sounds are held against each other:
twice the level has to be 6 dB more, a delay has to be that delay. A model that does not listen scores
what stands beside each result.
"""

import math
from collections.abc import Sequence

import numpy as np

from weavejax.metrics.envelopes import e_l1, envelope_correlation, levels
from weavejax.metrics.measured import Measured, Taken, measure_mean, measure_set
from weavejax.ops.resample import RESAMPLER
from weavejax.ops.rms import HOP

RATE = 16_000  # Hz, at which levels are compared
REACH = 0.5  # seconds to both sides within which a lag is looked for
RESAMPLES = 1000


def gain_db(before: np.ndarray, after: np.ndarray) -> float:
    """Level of a sound [S] or [S, C] above another's, dB; NaN where either is silent."""
    powers = [float(np.square(wave, dtype=np.float64).mean()) for wave in (before, after)]
    if not all(powers):
        return math.nan
    return 10 * math.log10(powers[1] / powers[0])


def lag_steps(before: np.ndarray, after: np.ndarray, reach: int) -> int | None:
    """By how many steps one curve [T] has to be delayed to be most like another.

    The lag of the highest correlation over what overlaps; of equals the smallest.

    Args:
      before: level curve.
      after: as long.
      reach: greatest lag looked for, to both sides; less than T.

    Returns:
      Steps, negative where `after` is early; None where either curve is constant.
    """
    if not np.ptp(before) or not np.ptp(after):
        return None
    length, found = len(before), {}
    for lag in sorted(range(-reach, reach + 1), key=abs):
        one = before[max(-lag, 0) : length - max(lag, 0)]
        other = after[max(lag, 0) : length - max(-lag, 0)]
        shape = envelope_correlation(one, other)
        found[lag] = -1.0 if math.isnan(shape) else shape
    return max(found, key=lambda lag: found[lag])  # the first of equals, in order of size


def gains_db(before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> np.ndarray:
    """`gain_db` of each pair of sounds, float64 [N]."""
    return np.array([gain_db(*pair) for pair in zip(before, after, strict=True)], np.float64)


def lags_seconds(
    before: Sequence[np.ndarray], after: Sequence[np.ndarray], rate: int
) -> np.ndarray:
    """Delay of each sound's level curve against another's, float64 [N]; NaN where one is constant."""
    found = []
    for pair in zip(before, after, strict=True):
        one, other = (levels(wave, rate, "16k", len(wave) / rate) for wave in pair)
        steps = lag_steps(one, other, min(round(REACH * RATE / HOP), len(one) // 2))
        found.append(math.nan if steps is None else steps * HOP / RATE)
    return np.array(found, np.float64)


def _taken(rate: int, manifest: str) -> Taken:
    return Taken(manifest, RATE, "none" if rate == RATE else RESAMPLER)


def measure_skill(
    truth: Sequence[np.ndarray],
    controlled: Sequence[np.ndarray],
    uncontrolled: Sequence[np.ndarray],
    rate: int,
    manifest: str,
) -> Measured:
    """1 − E-L1 under control / E-L1 without it: 1 is perfect, 0 is no better than no control.

    Args:
      truth: [S] or [S, C] of each clip.
      controlled: under the envelope of the truth.
      uncontrolled: by the same model from the same noise, without it.
      rate: of all of them, Hz.
      manifest: `measured.manifest_hash` of the clips.
    """
    found: list[tuple[float, float]] = []
    for true, *others in zip(truth, controlled, uncontrolled, strict=True):
        seconds = len(true) / rate
        wanted, *made = (levels(wave, rate, "16k", seconds) for wave in (true, *others))
        found.append((e_l1(wanted, made[0]), e_l1(wanted, made[1])))
    pairs = np.asarray(found, np.float64).reshape(-1, 2)

    def skill(chosen: np.ndarray) -> float:
        with_it, without = pairs[chosen].sum(0)
        return float(1 - with_it / without) if without > 0 else math.nan

    value = skill(np.arange(len(pairs)))
    return measure_set(
        "control_skill_16k_rms512_128",
        value,
        skill,
        len(pairs),
        _taken(rate, manifest),
        resamples=RESAMPLES if len(pairs) else 0,
    )


def measure_gain(gains: np.ndarray, asked: float, manifest: str) -> Measured:
    """How far changes of level are from the one asked for, dB.

    Args:
      gains: `gains_db` of sounds under an envelope and under that envelope `asked` dB louder.
      asked: dB.
      manifest: `measured.manifest_hash` of the clips.

    Returns:
      `gain_error_<asked>db`; beside it the mean `gain`, and the error of a model that does not listen.
    """
    return measure_mean(
        f"gain_error_{round(asked)}db",
        np.abs(gains - asked),
        Taken(manifest),
        undefined="silent",
        beside=_beside("gain", gains, asked),
    )


def measure_lag(lags: np.ndarray, asked: float, rate: int, manifest: str) -> Measured:
    """How far delays of the level curve are from the one asked for, seconds.

    Args:
      lags: `lags_seconds` of sounds under an envelope and under that envelope `asked` seconds later.
      asked: seconds, less than `REACH` to be found.
      rate: of the sounds, Hz.
      manifest: `measured.manifest_hash` of the clips.

    Returns:
      `lag_error_<asked>ms`; beside it the mean `lag`, and the error of a model that does not listen.
    """
    return measure_mean(
        f"lag_error_{round(1000 * asked)}ms",
        np.abs(lags - asked),
        _taken(rate, manifest),
        undefined="level is constant",
        beside=_beside("lag", lags, asked),
    )


def _beside(name: str, found: np.ndarray, asked: float) -> dict[str, float]:
    known = found[~np.isnan(found)]
    mean = float(known.mean()) if len(known) else math.nan
    return {name: mean, "not listening": abs(asked)}
