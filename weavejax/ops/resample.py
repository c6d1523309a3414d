"""One resampler for all that is measured, so that a result can name it."""

import numpy as np
import soxr

RESAMPLER = "soxr_hq"  # goes into every result that needed it


def resample(wave: np.ndarray, source_rate: int, rate: int) -> np.ndarray:
    """The sound at another rate, without delay, by soxr's "HQ" (librosa's default).

    Args:
        wave: ``[S]`` or ``[S, C]`` samples.
        source_rate: of what comes in, Hz.
        rate: of the result, Hz.

    Returns:
        float32, of ``round(S · rate / source_rate)`` samples; the input itself where the rates agree.
    """
    if source_rate == rate:
        return np.asarray(wave, np.float32)
    return np.asarray(soxr.resample(np.asarray(wave, np.float32), source_rate, rate, quality="HQ"))
