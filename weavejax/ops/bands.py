"""Power spectra summed over mel bands, the same to the last bit however many threads BLAS has.

A matrix product is divided among threads, and its rounding with it; data workers have one thread and
the main process many, so that features would depend on where they are made.
"""

import numpy as np


def sum_bands(power: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """``power @ filters``, of filters that are zero nearly everywhere.

    Args:
        power: ``[frames, bins]``.
        filters: ``[bins, mels]``.

    Returns:
        ``[frames, mels]``.
    """
    seen = filters != 0
    seen[0] |= ~seen.any(axis=0)  # a band without any weight is a sum too
    mels, bins = np.nonzero(seen.T)
    starts = np.searchsorted(mels, np.arange(filters.shape[1]))
    return np.add.reduceat(power[:, bins] * filters[bins, mels], starts, axis=1)
