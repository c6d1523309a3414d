"""The envelope that conditions a ControlNet, of sound that is on the device.

The same numbers as `weavejax.dials.envelope`, which works on the host in float64. In float32 a running
sum from which an earlier one is taken leaves a floor of noise after loud passages; here nothing is
taken from anything. Cut into blocks as long as the window, every window is the end of one block and the
beginning of the next, and both are sums of what is not negative.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array


def window_mean(values: Array, before: int, ahead: int, *, inside: bool) -> Array:
    """Mean of the values from `before` earlier up to and without `ahead` later.

    Args:
      values: float32 [B, S, C], none of them negative.
      before: how many earlier ones count.
      ahead: how many of this and later ones count.
      inside: over those that there are; otherwise zeros stand beyond both ends.

    Returns:
      float32 [B, S, C].
    """
    batch, length, channels = values.shape
    window = before + ahead
    blocks = -(-(length + window) // window)
    padded = jnp.pad(values, ((0, 0), (before, blocks * window - before - length), (0, 0)))
    parts = padded.reshape(batch, blocks, window, channels)
    # From each place to the end of its block; and from the beginning of a block up to each place.
    rest = jnp.flip(jnp.cumsum(jnp.flip(parts, 2), axis=2), 2)
    begun = jnp.pad(jnp.cumsum(parts, axis=2)[:, :, :-1], ((0, 0), (0, 0), (1, 0), (0, 0)))
    rest, begun = (x.reshape(batch, blocks * window, channels) for x in (rest, begun))
    sums = rest[:, :length] + begun[:, window : window + length]
    place = np.arange(length)
    there = np.minimum(place + ahead, length) - np.maximum(place - before, 0)
    size = there if inside else np.full(length, window)
    return sums / jnp.asarray(size, jnp.float32)[None, :, None]


def conditioning_envelope(wave: Array, profile: str, rms_window: int, mean_window: int) -> Array:
    """Envelope of sounds, one value a sample, each channel for itself.

    Args:
      wave: float32 [B, S, C].
      profile: "parity", causal and with zeros beyond the ends, as published, or "better", centred
        and over what there is: see `weavejax.dials.envelope`.
      rms_window: samples of the RMS.
      mean_window: samples of the mean after it; an even number.

    Returns:
      float32 [B, S, C], linear RMS.

    Raises:
      ValueError: the profile is unknown.
    """
    power = jnp.square(wave.astype(jnp.float32))
    half, after = rms_window // 2, mean_window // 2
    if profile == "parity":
        level = jnp.sqrt(window_mean(power, rms_window - 1, 1, inside=False))
        return window_mean(level, after, mean_window - after, inside=False)
    if profile == "better":
        level = jnp.sqrt(window_mean(power, half, rms_window - half, inside=True))
        return window_mean(level, mean_window - after - 1, after + 1, inside=True)
    raise ValueError(f"unknown envelope profile {profile!r}; choose parity or better")
