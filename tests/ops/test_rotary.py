"""Rotary position embedding: against complex numbers, and what attention makes of it."""

import jax.numpy as jnp
import numpy as np
import pytest

from weavejax.ops.rotary import rotary_table, rotate


def test_turns_pairs_as_complex_numbers() -> None:
    x = np.random.default_rng(0).standard_normal((2, 7, 3, 10)).astype(np.float32)
    ours = np.asarray(rotate(jnp.asarray(x), rotary_table(7, 6)))
    angles = np.arange(7)[:, None] * 10_000.0 ** (-np.arange(0, 6, 2) / 6)
    pairs = (x[..., :3] + 1j * x[..., 3:6]) * np.exp(1j * angles)[None, :, None]
    wanted = np.concatenate([pairs.real, pairs.imag, x[..., 6:]], axis=-1)
    np.testing.assert_allclose(ours, wanted, atol=1e-6)


def test_products_depend_on_the_distance_alone() -> None:
    q, k = np.random.default_rng(1).standard_normal((2, 1, 1, 1, 8)).astype(np.float32)
    table = rotary_table(50, 8)
    turned = [rotate(jnp.asarray(np.tile(x, (1, 50, 1, 1))), table)[0, :, 0] for x in (q, k)]
    products = np.asarray(turned[0] @ turned[1].T)
    for offset in (0, 3, 20):
        np.testing.assert_allclose(np.ptp(np.diagonal(products, offset)), 0.0, atol=1e-5)
    assert np.ptp(products) > 0.1


def test_bfloat16_stays_and_what_does_not_fit_fails() -> None:
    x = jnp.ones((1, 4, 1, 8), jnp.bfloat16)
    assert rotate(x, rotary_table(4, 4)).dtype == jnp.bfloat16
    for table in (rotary_table(5, 4), rotary_table(4, 10)):
        with pytest.raises(ValueError, match="does not fit heads"):
            rotate(x, table)
