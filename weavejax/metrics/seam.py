"""Can the places be heard where windows of a long clip were joined?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FLOOR = 1e-5  # −100 dBFS: below it levels are silence


@dataclass(frozen=True)
class Seams:
    """How the level jumps at the seams of a clip, beside how it jumps elsewhere.

    Attributes:
      jump: mean absolute change of level across the seams, dB.
      elsewhere: the same over all places away from them, dB; NaN if there are none.
      excess: jump − elsewhere, dB: near 0 for seams that cannot be told from the rest.
      percentile: mean share of the places elsewhere that jump less than a seam, in [0, 1]: near 0.5
        for seams like any place, 1 for seams louder than all.
      count: of seams.
    """

    jump: float
    elsewhere: float
    excess: float
    percentile: float
    count: int


def seam_jumps(waveform: np.ndarray, seams: Sequence[float], frame: int) -> Seams:
    """Level jumps across seams, relative to the clip's own.

    The jump at a sample is the absolute difference, in dB, of the RMS over the `frame` samples before
    and after it, all channels together. Elsewhere is every half frame at least one frame from a seam.

    Args:
      waveform: [..., samples], full scale 1.
      seams: samples of the seams; those within a frame of an end of the clip are left out.
      frame: samples of the level, such as 20 ms.
    """
    wave = np.asarray(waveform, np.float64)
    samples = wave.shape[-1]
    power = np.square(wave.reshape(-1, samples)).mean(0)
    total = np.concatenate([[0.0], np.cumsum(power)])

    def jumps(at: np.ndarray) -> np.ndarray:
        before, after = (
            10 * np.log10(np.maximum((total[b] - total[a]) / frame, FLOOR**2))
            for a, b in ((at - frame, at), (at, at + frame))
        )
        return np.abs(after - before)

    middle = np.round(np.asarray(seams, np.float64)).astype(int)
    middle = middle[(middle >= frame) & (middle <= samples - frame)]
    others = np.arange(frame, samples - frame + 1, max(frame // 2, 1))
    if len(middle):
        others = others[np.abs(others[:, None] - middle).min(1) >= frame]
    there, rest = jumps(middle), jumps(others)
    nan = float("nan")
    jump = float(there.mean()) if len(there) else nan
    elsewhere = float(rest.mean()) if len(rest) else nan
    # A place that jumps as much counts half, so that silence everywhere is 0.5.
    ranks = (
        (rest < there[:, None]).mean(1) + 0.5 * (rest == there[:, None]).mean(1)
        if len(rest)
        else np.full(len(there), nan)
    )
    percentile = float(ranks.mean()) if len(ranks) else nan
    return Seams(jump, elsewhere, jump - elsewhere, percentile, len(middle))
