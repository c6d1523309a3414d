"""The square of a sine without the sine, against NumPy's in float64."""

import jax
import numpy as np
import pytest

from weavejax.ops.sine import sine_squared


@pytest.mark.parametrize("span", [0.01, 1.0, 100.0, 10_000.0])
def test_values_and_slopes(span):
    x = np.random.default_rng(0).uniform(-span, span, 20_000).astype(np.float32)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(sine_squared(x), np.sin(exact) ** 2, rtol=2e-6, atol=4e-7)
    slopes = jax.vmap(jax.grad(sine_squared))(x)
    np.testing.assert_allclose(slopes, np.sin(2 * exact), rtol=2e-6, atol=2e-6)


def test_small_numbers_keep_their_digits():
    x = np.geomspace(1e-12, 1e-2, 100).astype(np.float32)
    np.testing.assert_allclose(sine_squared(x), np.sin(x.astype(np.float64)) ** 2, rtol=1e-6)


def test_zero_and_what_is_not_finite():
    assert sine_squared(np.float32(0)) == 0
    assert np.isnan(sine_squared(np.array([np.nan, np.inf], np.float32))).all()
