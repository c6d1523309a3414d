"""Shared transformer parts: norm and stochastic depth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from weavejax.ops.transformer import LayerNorm, RmsNorm, drop_path


def normalise(
    x: np.ndarray, scale: np.ndarray, bias: np.ndarray, *, dtype: jnp.dtype
) -> np.ndarray:
    params = {"scale": scale, "bias": bias}
    return np.asarray(LayerNorm(1e-12, dtype).apply({"params": params}, x))


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_layer_norm_equals_float64(offset: float) -> None:
    random = np.random.default_rng(0)
    x = (random.standard_normal((3, 5, 64)) + offset).astype(np.float32)
    scale, bias = random.standard_normal((2, 64)).astype(np.float32)
    ours = normalise(x, scale, bias, dtype=jnp.float32)
    centred = x.astype(np.float64) - x.mean(-1, keepdims=True, dtype=np.float64)
    wanted = centred / np.sqrt((centred**2).mean(-1, keepdims=True)) * scale + bias
    np.testing.assert_allclose(ours, wanted, atol=1e-5 + 1e-6 * offset)


def test_layer_norm_takes_its_statistics_in_float32() -> None:
    x = (np.random.default_rng(0).standard_normal((2, 256)) + 4).astype(jnp.bfloat16)
    scale, bias = np.ones(256, np.float32), np.zeros(256, np.float32)
    ours = normalise(x, scale, bias, dtype=jnp.bfloat16)
    assert ours.dtype == jnp.bfloat16
    exact = normalise(x.astype(np.float32), scale, bias, dtype=jnp.float32)
    np.testing.assert_allclose(ours.astype(np.float32), exact, rtol=2**-8)


def test_rms_norm_equals_float64_and_takes_its_mean_in_float32() -> None:
    random = np.random.default_rng(0)
    x = (random.standard_normal((3, 5, 64)) + 2).astype(np.float32)
    scale = random.standard_normal(64).astype(np.float32)
    norm = RmsNorm(1e-6, jnp.float32)
    exact = x.astype(np.float64)
    wanted = exact / np.sqrt((exact**2).mean(-1, keepdims=True) + 1e-6) * scale
    np.testing.assert_allclose(norm.apply({"params": {"scale": scale}}, x), wanted, atol=1e-5)
    half = RmsNorm(1e-6, jnp.bfloat16).apply({"params": {"scale": scale}}, x.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(np.float32), wanted, rtol=2**-6, atol=2**-7)


def test_drop_path_drops_whole_examples_and_keeps_the_mean() -> None:
    branch = jnp.ones((4000, 2, 3))
    dropped = jax.jit(drop_path)(branch, jnp.float32(0.25), jax.random.key(0))
    per_example = np.asarray(dropped).reshape(4000, 6)
    assert (per_example == per_example[:, :1]).all()
    np.testing.assert_allclose(np.unique(per_example), [0, 4 / 3], rtol=1e-6)
    assert abs(per_example.mean() - 1) < 0.05


def test_drop_path_at_rate_zero_is_the_identity() -> None:
    branch = jax.random.normal(jax.random.key(0), (8, 2, 3))
    np.testing.assert_array_equal(drop_path(branch, jnp.float32(0), jax.random.key(1)), branch)
