"""Root mean square over short frames, the level curve of Video-Foley and of the E-L1 metric.

One definition for host and device: the functions work on NumPy arrays, in data workers, and on JAX
arrays, inside jit, and import neither for it.
"""

import math
from typing import Any

import numpy as np

FRAME, HOP = 512, 128  # samples; at 16 kHz 125 values a second


def rms_frames(wave: Any, *, frame: int = FRAME, hop: int = HOP, padding: int | None = None) -> Any:
    """RMS of each frame, with the ends of the sound reflected.

    Source: Video-Foley, ``data_utils.py`` (the default padding); librosa's ``feature.rms`` with
    ``center=True, pad_mode="reflect"`` is ``padding=frame // 2``.

    Args:
        wave: ``[..., S]`` samples, floating point; NumPy or JAX.
        frame: samples that a value covers.
        hop: samples between values.
        padding: samples reflected at each end; ``(frame - hop) // 2`` gives ``S // hop`` values where
            hop divides S (1250 for 10 s at 16 kHz).

    Returns:
        ``[..., 1 + (S + 2 · padding - frame) // hop]``, of the input's type.

    Raises:
        ValueError: the sound is too short to be reflected, or shorter than a frame.
    """
    xp = wave.__array_namespace__()
    padding = (frame - hop) // 2 if padding is None else padding
    samples = wave.shape[-1]
    if samples <= padding or samples + 2 * padding < frame:
        raise ValueError(f"{samples} samples are too few for frames of {frame} reflected {padding}")
    padded = xp.pad(wave, [(0, 0)] * (wave.ndim - 1) + [(padding, padding)], mode="reflect")
    count = 1 + (samples + 2 * padding - frame) // hop
    # Blocks that divide frame and hop are summed once; a frame is a few of them.
    block = math.gcd(frame, hop)
    used = ((count - 1) * hop + frame) // block
    sums = xp.square(padded[..., : used * block]).reshape((*wave.shape[:-1], used, block)).sum(-1)
    places = np.arange(count)[:, None] * (hop // block) + np.arange(frame // block)
    return xp.sqrt(sums[..., places].sum(-1) / frame)
