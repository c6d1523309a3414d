"""RMS over frames: counts, values, and the same on host and device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weavejax.ops.rms import rms_frames


def naive(wave, frame, hop, padding):
    padded = np.pad(wave, padding, mode="reflect")
    starts = range(0, len(padded) - frame + 1, hop)
    return np.array([np.sqrt(np.mean(padded[s : s + frame] ** 2)) for s in starts])


def test_ten_seconds_are_1250_values():
    assert rms_frames(np.zeros(160_000)).shape == (1250,)
    assert rms_frames(np.zeros(160_000), padding=256).shape == (1251,)
    assert rms_frames(np.zeros((2, 163_840)), frame=1024, hop=160).shape == (2, 1024)


@settings(max_examples=15, deadline=None)
@given(st.integers(40, 300), st.sampled_from([(32, 8), (32, 5), (24, 9), (16, 16)]))
def test_values_are_those_of_the_definition(samples, shape):
    wave = np.random.default_rng(samples).normal(size=samples)
    frame, hop = shape
    for padding in ((frame - hop) // 2, frame // 2, 0):
        ours = rms_frames(wave, frame=frame, hop=hop, padding=padding)
        np.testing.assert_allclose(ours, naive(wave, frame, hop, padding), rtol=1e-12)


def test_the_device_gives_what_the_host_gives():
    wave = np.random.default_rng(0).normal(size=(2, 4000)).astype(np.float32)
    device = jax.jit(rms_frames)(jnp.asarray(wave))
    assert device.dtype == jnp.float32
    np.testing.assert_allclose(device, rms_frames(wave.astype(np.float64)), rtol=1e-5)


def test_a_sound_too_short_is_refused():
    with pytest.raises(ValueError, match="too few"):
        rms_frames(np.zeros(190))
