"""Colour changes against their definitions."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from weavejax.ops.colour import jitter, turn_hue

VIDEO = np.random.default_rng(0).random((2, 3, 4, 5, 3)).astype(np.float32)


def test_hue_turns_as_in_hsv():
    pixels = np.concatenate([VIDEO.reshape(-1, 3)[:20], [[0.3, 0.3, 0.3], [0, 0, 0], [1, 0, 0]]])
    for turns in (0.0, 0.1, -0.1, 0.5):
        found = turn_hue(jnp.asarray(pixels, jnp.float32), jnp.full((1, 1), turns, jnp.float32))
        wanted = []
        for pixel in pixels:
            h, s, v = colorsys.rgb_to_hsv(*pixel)
            wanted.append(colorsys.hsv_to_rgb((h + turns) % 1.0, s, v))
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("part", range(4))
def test_each_change_alone_does_what_it_says(part):
    strength = [0.0] * 4
    strength[part] = 0.4
    key = jax.random.key(3)
    still = np.repeat(VIDEO[:, :1], 3, 1)  # all frames of a clip alike: one draw for all of them
    found = np.asarray(jax.jit(lambda v: jitter(v, key, strength))(still))
    np.testing.assert_allclose(found[:, 0], found[:, 2], atol=1e-6)
    assert found.shape == VIDEO.shape
    assert 0.0 <= found.min() <= found.max() <= 1.0
    assert not np.allclose(found, still, atol=1e-3)
    luma = np.array([0.2989, 0.587, 0.114])
    if part == 0:
        for before, after in zip(still, found, strict=True):  # a factor a clip
            assert np.ptp((after / before)[after < 1.0 - 1e-6]) < 1e-4
    if part == 2:
        np.testing.assert_allclose(found @ luma, still @ luma, atol=0.2)
    if part == 3:
        np.testing.assert_allclose(found.max(-1), still.max(-1), atol=1e-5)


def test_nothing_changes_at_strength_zero():
    found = jitter(jnp.asarray(VIDEO), jax.random.key(0), (0.0, 0.0, 0.0, 0.0))
    np.testing.assert_array_equal(found, VIDEO)
