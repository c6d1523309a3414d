"""The two-direction loss against a literal NumPy reading of GRAM's equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from whole_matrix import two_way_cross_entropy


def literal(logits, smoothing):
    """Mean over rows and columns of −Σ target·log softmax, targets smoothed over the candidates."""
    size = len(logits)
    target = (1 - smoothing) * np.eye(size) + smoothing / size
    rows = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    columns = logits - np.log(np.exp(logits).sum(0, keepdims=True))
    return -0.5 * ((target * rows).sum(1).mean() + (target * columns).sum(0).mean())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("size", [2, 9])
def test_loss_equals_the_literal_formula(size, smoothing):
    logits = np.random.default_rng(0).normal(size=(size, size), scale=3).astype(np.float32)
    total, count = two_way_cross_entropy(
        jnp.asarray(logits), jnp.asarray(logits), jnp.ones(size, bool), smoothing=smoothing
    )
    np.testing.assert_allclose(
        total / count, literal(logits.astype(np.float64), smoothing), rtol=1e-6
    )


def test_unpaired_rows_are_neither_queries_nor_candidates():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 6)).astype(np.float32)
    paired = np.array([1, 0, 1, 1, 0, 1], bool)
    total, count = two_way_cross_entropy(
        jnp.asarray(logits), jnp.asarray(logits), jnp.asarray(paired), smoothing=0.1
    )
    assert float(count) == 4
    np.testing.assert_allclose(
        total / count, literal(logits[paired][:, paired].astype(np.float64), 0.1), rtol=1e-6
    )
    grad = jax.grad(lambda x: two_way_cross_entropy(x, x, jnp.asarray(paired), smoothing=0.1)[0])(
        jnp.asarray(logits)
    )
    assert np.isfinite(grad).all()
    assert np.abs(grad[~paired]).max() == 0
    assert np.abs(grad[:, ~paired]).max() == 0


def test_nothing_paired_gives_zero_and_finite_gradients():
    logits = jnp.ones((3, 3))
    none = jnp.zeros(3, bool)
    total, grad = jax.value_and_grad(lambda x: two_way_cross_entropy(x, x, none, smoothing=0.1)[0])(
        logits
    )
    assert float(total) == 0
    np.testing.assert_array_equal(grad, 0.0)
