"""Local re-synthesis: a span is made anew, the rest stays, to the sample.

In the latents the rest is held on its own path from noise to clean while the span is sampled, so that
the span is made to fit (the replacement of RePaint, Lugmayr et al., arXiv 2201.09865, with one noise
for the whole path). What a decoder then makes of unchanged latents is not what was there before: the
waveform outside the span is therefore copied from the original.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array

from weavejax.diffusion.samplers import Hold
from weavejax.diffusion.schedules import beside


def latent_span(start: int, end: int, hop: int, length: int, margin: int = 1) -> np.ndarray:
    """Which latents to make anew for samples [start, end): bool [length].

    Args:
      start, end: of the span in samples.
      hop: samples a latent stands for.
      length: of the clip in latents.
      margin: latents to either side that are made anew with it: they too were heard by the decoder
        within the span.
    """
    if not start < end:
        raise ValueError(f"a span from sample {start} to {end}")
    place = np.arange(length)
    return (place >= start // hop - margin) & (place < -(-end // hop) + margin)


def hold_known(clean: Array, noise: Array, renew: Array) -> Hold:
    """Keeps all but a part of the latents on the path from their own noise to their clean value.

    Args:
      clean: latents of the original [B, T, ...].
      noise: [B, T, ...], what sampling starts from: `noise(0)`.
      renew: bool [B, T], True where latents are made anew.

    Returns:
      For `sample`: at level (α, σ) the known latents are α z + σ ε; at the end, at σ = 0, they are
      exactly z.
    """
    renew = beside(renew, clean)

    def hold(x: Array, alpha: Array, sigma: Array) -> Array:
        known = alpha * clean.astype(x.dtype) + sigma * noise.astype(x.dtype)
        return jnp.where(renew, x, known)

    return hold


def splice(
    original: np.ndarray, regenerated: np.ndarray, start: int, end: int, crossfade: int
) -> np.ndarray:
    """The original with samples [start, end) of the regenerated waveform.

    Outside the span every sample is the original's, bit by bit. The crossfades lie within the span,
    at both its ends, of raised-cosine gains that sum to 1, as the two are correlated there; an end of
    the span that is an end of the clip has none. In a span shorter than two crossfades they meet in
    its middle.

    Args:
      original: float [..., samples].
      regenerated: the same shape and type.
      start, end: of the span, 0 ≤ start < end ≤ samples.
      crossfade: length in samples of one crossfade, ≥ 0.
    """
    original, regenerated = np.asarray(original), np.asarray(regenerated)
    samples = original.shape[-1]
    if original.shape != regenerated.shape or original.dtype != regenerated.dtype:
        raise ValueError(
            f"{original.dtype} {original.shape} and {regenerated.dtype} {regenerated.shape}"
        )
    if not 0 <= start < end <= samples or crossfade < 0:
        raise ValueError(f"a span from {start} to {end}, crossfade {crossfade}, of {samples}")
    fade = min(crossfade, (end - start) // 2)
    rise = 0.5 - 0.5 * np.cos(np.pi * (np.arange(fade) + 0.5) / max(fade, 1))
    out = original.copy()
    out[..., start:end] = regenerated[..., start:end]
    fades = [(slice(start, start + fade), rise)] if start > 0 else []
    fades += [(slice(end - fade, end), rise[::-1])] if end < samples else []
    for part, gain in fades:
        old, new = (wave[..., part].astype(np.float64) for wave in (original, regenerated))
        out[..., part] = (gain * new + (1 - gain) * old).astype(original.dtype)
    return out
