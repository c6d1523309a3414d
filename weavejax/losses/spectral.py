"""The losses of a waveform autoencoder: spectra at several resolutions, and the waveform itself.

Source: stable-audio-tools' ``training/autoencoders.py`` and its config of the autoencoder of Stable
Audio Open, which take the spectra from auraloss (Steinmetz and Reiss, 2020; the distances are those of
Yamamoto et al., arXiv 1910.11480): spectral convergence plus the mean absolute difference of log
magnitudes, averaged over FFT sizes, Hann windows as long as the transform, a hop of a quarter; of the
sum and the difference of the channels, and of the channels themselves at half the weight each.

Ours: magnitudes are √(|X|² + ε), where the published code takes √max(|X|², ε), whose gradient stops
below ε = 1e-8, and ε may be set higher: the published one lies 130 dB below full scale, and where sound
is mostly digital silence, as between the blows of a rendered world, most of the loss would be about
what nobody hears. The spectral convergence of a clip whose truth is silent, a division by nothing, is
left out. So is the published A-weighting of the waveforms before the transforms, a filter fitted at
44.1 kHz.

Left out too is the adversarial half of the published recipe, a discriminator on complex spectra
(EnCodec's) with feature matching. It gives broadband noise a natural grain at strong compression; the
decoder of a small world serves to show that controls control, and the published weights, which were
trained with it, are imported for the real base.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array

EPSILON = 1e-8  # of a squared magnitude, as published
LEVEL = 128  # samples of which a level is taken
AUDIBLE = 2.0  # a truth whose mean squared magnitude is below so many ε is silent


def hann(size: int) -> np.ndarray:
    """A periodic Hann window, float32 ``[size]``."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)).astype(np.float32)


def magnitudes(wave: Array, size: int, epsilon: float = EPSILON) -> Array:
    """√(|X|² + ε) of Hann windows of ``size`` samples every quarter of it, the ends reflected.

    As torch's ``stft`` with ``center=True`` frames it.

    Args:
        wave: float32 ``[..., S]``, S > size / 2.
        size: of the transform; a multiple of 4.
        epsilon: ε.

    Returns:
        float32 ``[..., 1 + S // hop, size // 2 + 1]``.
    """
    if size % 4 or wave.shape[-1] <= size // 2:
        raise ValueError(f"a transform of {size} needs a size divisible by 4 and more samples")
    hop = size // 4
    edges = [(0, 0)] * (wave.ndim - 1) + [(size // 2, size // 2)]
    padded = jnp.pad(wave.astype(jnp.float32), edges, mode="reflect")
    count = 1 + wave.shape[-1] // hop
    # A window is four hops long: four shifted views of the hops, rather than a gather.
    hops = padded[..., : (count + 3) * hop].reshape(*wave.shape[:-1], count + 3, hop)
    frames = jnp.concatenate([hops[..., n : n + count, :] for n in range(4)], axis=-1)
    window = jnp.asarray(hann(size)).reshape((1,) * (frames.ndim - 1) + (size,))
    spectrum = jnp.fft.rfft(frames * window, axis=-1)
    return jnp.sqrt(jnp.square(spectrum.real) + jnp.square(spectrum.imag) + epsilon)


def spectral_distance(
    truth: Array, made: Array, sizes: Sequence[int], epsilon: float = EPSILON
) -> Array:
    """Spectral convergence plus log-magnitude distance, mean over the sizes.

    Args:
        truth: float32 ``[..., S]``.
        made: of the same shape.
        sizes: of the transforms.
        epsilon: of `magnitudes`.

    Returns:
        float32 ``[...]``, ≥ 0 and 0 for the truth itself; without the spectral convergence where the
        truth is silent.
    """
    total = jnp.zeros(truth.shape[:-1], jnp.float32)
    for size in sizes:
        one, other = (magnitudes(wave, size, epsilon) for wave in (truth, made))
        total += _convergence(one, other, epsilon) + jnp.abs(jnp.log(one) - jnp.log(other)).mean(
            (-1, -2)
        )
    return total / len(sizes)


def _convergence(truth: Array, made: Array, epsilon: float) -> Array:
    """‖truth − made‖ / ‖truth‖ of magnitudes ``[..., T, F]``; 0 where the truth is silent."""
    energy = jnp.square(truth).mean((-1, -2))
    sounds = energy > AUDIBLE * epsilon
    # The root of 0 has no gradient: the truth itself, and what is left out, get 0 from here.
    error = jnp.square(truth - made).mean((-1, -2))
    counts = sounds & (error > 0)
    ratio = jnp.where(counts, error, 1.0) / jnp.where(counts, energy, 1.0)
    return jnp.where(counts, jnp.sqrt(ratio), 0.0)


def stereo_spectral_distance(
    truth: Array, made: Array, sizes: Sequence[int], epsilon: float = EPSILON
) -> Array:
    """`spectral_distance` of sum and difference, their mean, plus that of left and right.

    Of one channel, its own.

    Args:
        truth: float32 ``[B, S, C]`` of one or two channels.
        made: of the same shape.
        sizes: of the transforms.
        epsilon: of `magnitudes`.

    Returns:
        float32 ``[B]``.
    """
    truth, made = (jnp.swapaxes(wave, 1, 2) for wave in (truth, made))
    if truth.shape[1] == 1:
        return spectral_distance(truth[:, 0], made[:, 0], sizes, epsilon)
    four, other = (_sum_and_difference(wave) for wave in (truth, made))
    return 2.0 * spectral_distance(four, other, sizes, epsilon).mean(1)


def _sum_and_difference(wave: Array) -> Array:
    """Beside left and right: ``[B, 2, S]`` → ``[B, 4, S]``."""
    left, right = wave[:, :1], wave[:, 1:]
    return jnp.concatenate([wave, left + right, left - right], axis=1)


def waveform_distance(truth: Array, made: Array) -> Array:
    """Mean absolute difference ``[B]`` of waveforms ``[B, S, C]``."""
    return jnp.abs(truth - made).mean((1, 2))


def level_distance(truth: Array, made: Array, epsilon: float = EPSILON) -> Array:
    """Mean absolute difference ``[B]`` of the RMS of `LEVEL` samples, of waveforms ``[B, S, C]``.

    Ours. Of noise no phase can be foretold: waveforms and magnitudes are nearest to it on average when
    what is made is too quiet.

    Args:
        truth: float32 ``[B, S, C]``, S ≥ `LEVEL`; what is left of the last window is not looked at.
        made: of the same shape.
        epsilon: added to the squares.
    """

    def level(wave: Array) -> Array:
        count = wave.shape[1] // LEVEL
        windows = wave[:, : count * LEVEL].reshape(len(wave), count, LEVEL, wave.shape[2])
        return jnp.sqrt(jnp.square(windows).mean(2) + epsilon)

    return jnp.abs(level(truth) - level(made)).mean((1, 2))


def divergence(mean: Array, deviation: Array) -> Array:
    """Σ over channels of μ² + σ² − log σ² − 1, mean over time: ``[B]`` of ``[B, T, C]``.

    Twice the Kullback-Leibler divergence from the standard normal distribution, as published.
    """
    variance = jnp.square(deviation)
    each = jnp.square(mean) + variance - jnp.log(variance) - 1
    return each.sum(-1).mean(-1)


def masked_mean(values: Array, known: Array) -> tuple[Array, Array]:
    """(sum, weight) of a clip's values ``[B]`` over the clips that are there, bool ``[B]``.

    The others' values need not be finite.
    """
    return jnp.where(known, values, 0.0).sum(), known.astype(jnp.float32).sum()
