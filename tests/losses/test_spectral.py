"""Spectral losses: equal to a literal reading in float64, and tame where there is nothing to hear."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from weavejax.losses import spectral

SIZES = (64, 32, 16)
MAGNITUDES = jax.jit(spectral.magnitudes, static_argnums=1)


def waves(seed=0, shape=(3, 200, 2), level=0.1):
    return (level * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def literal_magnitudes(wave, size, epsilon):
    """Frame by frame, one sum over samples for each frequency; float64."""
    hop = size // 4
    padded = np.pad(np.float64(wave), size // 2, mode="reflect")
    n = np.arange(size)
    window = np.sin(np.pi * n / size) ** 2
    turn = np.exp(-2j * np.pi * np.outer(np.arange(size // 2 + 1), n) / size)
    rows = []
    for start in range(0, len(wave) + 1, hop):
        frame = padded[start : start + size] * window
        rows.append(np.sqrt(np.abs(turn @ frame) ** 2 + epsilon))
    return np.stack(rows)


def literal_distance(truth, made, sizes, epsilon=1e-8):
    total = 0.0
    for size in sizes:
        one, other = (literal_magnitudes(w, size, epsilon) for w in (truth, made))
        total += np.sqrt(((one - other) ** 2).sum()) / np.sqrt((one**2).sum())
        total += np.abs(np.log(one) - np.log(other)).mean()
    return total / len(sizes)


def test_magnitudes_are_those_of_windowed_frames():
    wave = waves(shape=(200,))
    for size in SIZES:
        want = literal_magnitudes(wave, size, 1e-8)
        found = MAGNITUDES(wave, size)
        assert found.shape == (1 + 200 // (size // 4), size // 2 + 1)
        np.testing.assert_allclose(found, want, rtol=2e-4, atol=2e-6)


def test_a_sine_stands_in_its_bin():
    wave = np.sin(2 * np.pi * 8 * np.arange(640) / 64).astype(np.float32)
    found = np.asarray(MAGNITUDES(wave, 64))[5:-5]
    assert (found.argmax(1) == 8).all()
    np.testing.assert_allclose(found[:, 8], 16.0, rtol=1e-4)  # half the sum of the window


def test_the_distance_of_stereo_is_the_published_sum():
    truth, made = waves(0), waves(1)
    pairs = {
        "sum": (truth.sum(2), made.sum(2)),
        "difference": (truth[..., 0] - truth[..., 1], made[..., 0] - made[..., 1]),
        "left": (truth[..., 0], made[..., 0]),
        "right": (truth[..., 1], made[..., 1]),
    }
    each = {
        name: np.array([literal_distance(a, b, SIZES) for a, b in zip(*pair, strict=True)])
        for name, pair in pairs.items()
    }
    published = (each["sum"] + each["difference"]) / 2 + each["left"] / 2 + each["right"] / 2
    distance = jax.jit(lambda a, b: spectral.stereo_spectral_distance(a, b, SIZES))
    np.testing.assert_allclose(distance(truth, made), published, rtol=1e-4)
    mono = distance(truth[..., :1], made[..., :1])
    np.testing.assert_allclose(mono, each["left"], rtol=1e-4)


def test_a_higher_floor_is_the_one_that_is_used():
    truth, made = waves(0, (200,)), waves(1, (200,))
    found = jax.jit(lambda a, b: spectral.spectral_distance(a, b, SIZES, 1e-2))(truth, made)
    np.testing.assert_allclose(found, literal_distance(truth, made, SIZES, 1e-2), rtol=1e-4)


@jax.jit
def value_and_slope(truth, made, epsilon):
    def total(wave):
        return spectral.stereo_spectral_distance(truth, wave, SIZES, epsilon).sum()

    return jax.value_and_grad(total)(made)


def gradient(truth, made, epsilon=1e-8):
    """One program for all tests: of one clip of 200 samples in stereo."""
    return value_and_slope(jnp.asarray(truth), jnp.asarray(made), jnp.float32(epsilon))


def test_the_gradient_is_that_of_the_literal_distance():
    truth, made = waves(0, (1, 200, 2)), waves(1, (1, 200, 2))
    truth[..., 1], made[..., 1] = truth[..., 0], made[..., 0]
    _, slope = gradient(truth, made, 1e-4)
    # Left = right: their distance counts once, that of the sum half, that of the difference not.
    found = np.asarray(slope[0]).sum(1)
    push = 1e-5
    for place in (0, 37, 199):
        values = []
        for sign in (1, -1):
            moved = np.float64(made[0, :, 0])
            moved[place] += sign * push
            one = literal_distance(truth[0, :, 0], moved, SIZES, 1e-4)
            both = literal_distance(2 * truth[0, :, 0], 2 * moved, SIZES, 1e-4)
            values.append(one + both / 2)
        want = (values[0] - values[1]) / (2 * push)
        np.testing.assert_allclose(found[place], want, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("epsilon", [1e-8, 1e-5])
def test_silence_has_a_small_loss_and_a_bounded_gradient(epsilon):
    silence = np.zeros((1, 200, 2), np.float32)
    value, slope = gradient(silence, silence, epsilon)
    assert float(value) == 0.0
    assert not np.asarray(slope).any()
    value, slope = gradient(silence, waves(1, (1, 200, 2), 1e-3), epsilon)
    # No quotient by nothing: at most the log ratio of the loudest to the floor.
    assert 0 < float(value) < 2 * np.log(1.0 / np.sqrt(epsilon))
    assert np.isfinite(slope).all()
    # d log √(x² + ε) ≤ 1 / (2 √ε), of which a sample meets eight windows' worth.
    assert np.abs(slope).max() < 8 / np.sqrt(epsilon)


def test_the_truth_itself_has_no_loss_and_a_finite_gradient():
    value, slope = gradient(waves(shape=(1, 200, 2)), waves(shape=(1, 200, 2)))
    assert float(value) == 0.0
    assert np.isfinite(slope).all()


def test_divergence_is_the_published_formula():
    rng = np.random.default_rng(0)
    mean, deviation = rng.normal(size=(2, 5, 3)), rng.uniform(0.1, 2, (2, 5, 3))
    want = (mean**2 + deviation**2 - np.log(deviation**2) - 1).sum(2).mean(1)
    found = spectral.divergence(jnp.float32(mean), jnp.float32(deviation))
    np.testing.assert_allclose(found, want, rtol=1e-5)
    normal = spectral.divergence(jnp.zeros((1, 4, 3)), jnp.ones((1, 4, 3)))
    np.testing.assert_allclose(normal, 0.0, atol=1e-6)


def test_waveform_distance_and_what_is_masked():
    truth, made = waves(0), waves(1)
    found = spectral.waveform_distance(jnp.asarray(truth), jnp.asarray(made))
    np.testing.assert_allclose(found, np.abs(truth - made).mean((1, 2)), rtol=1e-6)
    values, known = jnp.array([1.0, jnp.nan, 3.0]), jnp.array([True, False, True])
    total, weight = spectral.masked_mean(values, known)
    assert (float(total), float(weight)) == (4.0, 2.0)


def test_a_level_is_the_same_whatever_the_phase():
    """Of two windows and what is left over, which counts for nothing."""
    time = np.arange(2 * spectral.LEVEL + 7) / spectral.LEVEL
    sine, cosine = (
        f(8 * 2 * np.pi * time)[None, :, None].astype(np.float32) for f in (np.sin, np.cos)
    )
    half = np.where(time[None, :, None] < 1, 0.5 * sine, sine)
    np.testing.assert_allclose(spectral.level_distance(sine, cosine), 0.0, atol=1e-6)
    np.testing.assert_allclose(
        spectral.level_distance(sine, half), 0.25 * np.sqrt(0.5), rtol=1e-5, atol=0
    )
    slope = jax.grad(lambda x: spectral.level_distance(sine, x).sum())(np.zeros_like(sine))
    assert np.isfinite(slope).all()


@pytest.mark.parametrize(("size", "samples"), [(30, 200), (64, 32)])
def test_impossible_transforms_are_refused(size, samples):
    with pytest.raises(ValueError, match="needs a size divisible by 4 and more samples"):
        spectral.magnitudes(jnp.zeros(samples), size)
