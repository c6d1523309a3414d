"""Rows by number across devices: as plain indexing has them, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from weavejax.ops.exchange import take_rows
from weavejax.ops.placement import on_mesh
from weavejax.runtime.mesh import batch_sharding, make_mesh

CHOICES = {
    "any": lambda rng, size: rng.integers(0, size, size),
    "all from one device": lambda rng, size: rng.integers(0, size // 8, size),
    "all the same row": lambda rng, size: np.full(size, size - 1),
    "a permutation": lambda rng, size: rng.permutation(size),
}


@pytest.mark.parametrize("choice", sorted(CHOICES))
@pytest.mark.parametrize("shape", [{"replica": 2, "data": 2, "model": 2}, {"data": 8}])
def test_rows_and_gradients_are_those_of_indexing(choice, shape):
    rng = np.random.default_rng(0)
    mesh = make_mesh(shape)
    split = batch_sharding(mesh)
    index = CHOICES[choice](rng, 24).astype(np.int32)
    x, weight = rng.normal(size=(2, 24, 3, 5)).astype(np.float32)
    args = jax.device_put((x, index, weight), split)

    @jax.jit
    def run(x, index, weight):
        def total(x):
            rows = on_mesh(take_rows, mesh)(x, index)
            return (rows * weight).sum(), rows

        (_, rows), grad = jax.value_and_grad(total, has_aux=True)(x)
        return rows, grad

    rows, grad = run(*args)
    np.testing.assert_array_equal(rows, x[index])
    want = np.zeros_like(x)
    np.add.at(want, index, weight)
    np.testing.assert_allclose(grad, want, rtol=1e-6, atol=1e-6)


def test_without_a_mesh_it_is_indexing():
    x = jnp.arange(12.0).reshape(4, 3)
    np.testing.assert_array_equal(take_rows(x, jnp.array([2, 2, 0])), x[jnp.array([2, 2, 0])])


def test_no_device_gets_all_rows():
    """Of the compiled program: no all-gather, and no array of the whole batch."""
    mesh = make_mesh({"data": 8})
    split = batch_sharding(mesh)
    x = jax.ShapeDtypeStruct((64, 1001), jnp.float32, sharding=split)
    index = jax.ShapeDtypeStruct((64,), jnp.int32, sharding=split)
    text = (
        jax.jit(on_mesh(take_rows, mesh), out_shardings=split).lower(x, index).compile().as_text()
    )
    assert "all-to-all" in text
    assert "all-gather" not in text
    assert "f32[64,1001]" not in text
