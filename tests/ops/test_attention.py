"""Attention against its definition in float64, its masks and dropout, its backends' errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from weavejax.ops.attention import attention


def random_qkv(dtype: jnp.dtype = jnp.float32) -> tuple[jax.Array, jax.Array, jax.Array]:
    q, k, v = np.random.default_rng(0).standard_normal((3, 2, 5, 3, 8)).astype(dtype)
    return jnp.asarray(q), jnp.asarray(k[:, :4]), jnp.asarray(v[:, :4])


@pytest.mark.parametrize("bias_shape", [(1, 3, 5, 4), (2, 3, 5, 4), (2, 1, 1, 4)])
def test_equals_the_definition(bias_shape: tuple[int, ...]) -> None:
    q, k, v = random_qkv()
    bias = np.random.default_rng(1).standard_normal(bias_shape).astype(np.float32)
    mask = np.array([[True, True, False, True], [True, False, False, False]])[:, None, None, :]
    ours = jax.jit(attention)(q, k, v, bias=bias, mask=mask)
    logits = np.einsum("nlhd,nshd->nhls", q, k, dtype=np.float64) / np.sqrt(8) + bias
    weights = np.exp(logits) * mask
    weights /= weights.sum(-1, keepdims=True)
    np.testing.assert_allclose(ours, np.einsum("nhls,nshd->nlhd", weights, v), atol=1e-6)


@pytest.mark.parametrize("heads", [1, 2])
def test_grouped_keys_serve_queries_in_a_row(heads: int) -> None:
    q, k, v = np.random.default_rng(0).standard_normal((3, 2, 5, 4, 8)).astype(np.float32)
    k, v = k[:, :3, :heads], v[:, :3, :heads]
    bias = np.random.default_rng(1).standard_normal((2, 4, 5, 3)).astype(np.float32)
    mask = np.array([[True, True, False], [True, False, True]])[:, None, None, :]
    grouped = jax.jit(attention)(q, k, v, bias=bias, mask=mask)
    k, v = (np.repeat(x, 4 // heads, axis=2) for x in (k, v))
    np.testing.assert_allclose(grouped, attention(q, k, v, bias=bias, mask=mask), atol=1e-6)


def test_the_scale_can_be_given() -> None:
    q, k, v = random_qkv()
    np.testing.assert_allclose(
        attention(q, k, v, scale=1.0), attention(q * 8**0.5, k, v), atol=1e-6
    )


def test_bfloat16_rounds_the_weights_only_after_the_softmax() -> None:
    q, k, v = random_qkv(jnp.bfloat16)
    ours = attention(100 * q, k, v)
    assert ours.dtype == jnp.bfloat16
    exact = attention(*(x.astype(jnp.float32) for x in (100 * q, k, v)))
    np.testing.assert_allclose(ours.astype(jnp.float32), exact, atol=0.02)


def test_a_row_without_keys_stays_finite() -> None:
    q, k, v = random_qkv()
    nothing = jnp.zeros((2, 1, 1, 4), bool)
    value, gradient = jax.value_and_grad(lambda q: attention(q, k, v, mask=nothing).sum())(q)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_dropout_keeps_the_mean_and_follows_the_key() -> None:
    q, k, v = random_qkv()

    def dropped(key: jax.Array) -> jax.Array:
        return attention(q, k, v, dropout=0.5, dropout_key=key)

    keys = jax.random.split(jax.random.key(2), 4000)
    samples = jax.jit(jax.vmap(dropped))(keys)
    assert np.abs(samples[0] - samples[1]).max() > 0.1
    np.testing.assert_allclose(samples.mean(0), attention(q, k, v), atol=0.15)
    with pytest.raises(ValueError, match="needs a dropout_key"):
        attention(q, k, v, dropout=0.5)


def test_shapes_that_do_not_fit_fail() -> None:
    q, k, v = random_qkv()
    with pytest.raises(ValueError, match=r"takes q \[N, L, H, D\]"):
        attention(q, k[:, :, :2], v[:, :, :2])
    with pytest.raises(ValueError, match="H a multiple of K"):
        attention(q[:, :, :2], k, v)
    with pytest.raises(ValueError, match=r"mask .* does not broadcast"):
        attention(q, k, v, mask=jnp.ones((2, 1, 1, 5), bool))
    with pytest.raises(ValueError, match=r"bias .* does not broadcast"):
        attention(q, k, v, bias=jnp.ones((5, 4)))
    with pytest.raises(ValueError, match="must be bool"):
        attention(q, k, v, mask=jnp.ones((2, 1, 1, 4)))


def test_backends_say_why_they_refuse() -> None:
    q, k, v = random_qkv(jnp.bfloat16)
    with pytest.raises(ValueError, match="unknown attention backend 'flash'; choose one of xla"):
        attention(q, k, v, backend="flash")
    with pytest.raises(ValueError, match="bfloat16 or float16"):
        attention(*random_qkv(), backend="cudnn")
    with pytest.raises(ValueError, match="multiples of 8"):
        attention(q[..., :6], k[..., :6], v[..., :6], backend="cudnn")
    with pytest.raises(ValueError, match="no attention dropout"):
        attention(q, k, v, backend="cudnn", dropout=0.1, dropout_key=jax.random.key(0))
    with pytest.raises(ValueError, match="no gradient for a bias"):
        attention(q, k, v, backend="cudnn", bias=jnp.zeros((2, 3, 5, 4)))


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="cuDNN is there")
def test_cudnn_without_cudnn_fails_while_tracing() -> None:
    q, k, v = random_qkv(jnp.bfloat16)
    mask = jnp.ones((2, 1, 1, 4), bool)
    with pytest.raises(RuntimeError, match="cuDNN"):
        jax.eval_shape(lambda: attention(q, k, v, mask=mask, backend="cudnn"))
