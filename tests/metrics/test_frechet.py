"""Fréchet and kernel distances: reference values, and what bias does to them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from features_of_sines import sines

from weavejax.metrics.frechet import (
    KernelDraws,
    frechet_distance,
    frechet_infinity,
    gaussian,
    gaussian_distance,
    kernel_distance,
    median_distance,
)

FULL = sines(20, 6, 0.37, 0), 1.3 * sines(15, 6, 0.53, 0.2) + 0.1
DEFICIENT = sines(5, 12, 0.37, 0), sines(4, 12, 0.53, 0.2)


@pytest.mark.parametrize(
    ("rows", "golden"), [(FULL, 0.7027293427567), (DEFICIENT, 7.3123709654156)]
)
def test_reference_values(rows, golden):
    assert frechet_distance(*rows) == pytest.approx(golden, abs=1e-11)
    assert frechet_distance(*rows[::-1]) == pytest.approx(golden, abs=1e-11)
    device = jax.jit(lambda a, b: gaussian_distance(gaussian(a), gaussian(b)))
    single = device(*(jnp.asarray(x, jnp.float32) for x in rows))
    assert single.dtype == jnp.float32
    assert float(single) == pytest.approx(golden, rel=1e-4)


def test_the_square_root_of_the_covariances_says_the_same():
    one, other = FULL
    root = scipy.linalg.sqrtm(np.cov(one.T) @ np.cov(other.T))
    mean = np.square(one.mean(0) - other.mean(0)).sum()
    expected = mean + np.trace(np.cov(one.T)) + np.trace(np.cov(other.T)) - 2 * np.trace(root).real
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-9)


def test_a_set_has_no_distance_to_itself_and_a_shift_has_its_square():
    one = FULL[0]
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(one, one + 0.5) == pytest.approx(6 * 0.25)
    with pytest.raises(ValueError, match="2 or more"):
        frechet_distance(one, one[:1])
    with pytest.raises(ValueError, match=r"\[n, d\]"):
        frechet_distance(one, one[:, :4])


def test_the_bias_falls_with_the_rows_and_the_limit_is_without_it():
    rng = np.random.default_rng(0)
    truth, made = rng.normal(size=(4000, 16)), rng.normal(size=(1500, 16))
    few, many = (frechet_distance(truth, made[:n]) for n in (100, 1500))
    assert few > 8 * many
    limit = frechet_infinity(truth, made, seed=3)
    assert limit == frechet_infinity(truth, made, seed=3)
    assert limit != frechet_infinity(truth, made, seed=4)
    assert limit.slope > 0
    # With replacement the limit is that of the rows there are, which has their bias; without, that
    # of the truth alone.
    assert abs(limit.value - many) < 0.3 * many
    without = frechet_infinity(truth, made, replace=False)
    assert abs(without.value) < 0.4 * many
    assert without.fit > 0.9
    with pytest.raises(ValueError, match="more than 500 rows"):
        frechet_infinity(truth, made[:500])


def naive_kernel_distance(one, other, width):
    def kernel(a, b):
        return np.exp(-np.square(a[:, None] - b[None]).sum(-1) / (2 * width**2))

    def within(a):
        return (kernel(a, a).sum() - len(a)) / (len(a) * (len(a) - 1))

    return 100 * (within(one) + within(other) - 2 * kernel(one, other).mean())


def test_the_kernel_distance_is_the_unbiased_one():
    one, other = FULL
    pairs = [np.linalg.norm(one[i] - one[j]) for i in range(20) for j in range(i)]
    assert median_distance(one) == pytest.approx(sorted(pairs)[(190 - 1) // 2], rel=1e-12)
    expected = naive_kernel_distance(one, other, median_distance(one))
    assert kernel_distance(one, other) == pytest.approx(expected, rel=1e-7)
    assert kernel_distance(one, other, 0.7) == pytest.approx(
        naive_kernel_distance(one, other, 0.7), rel=1e-7
    )


def test_draws_of_rows_are_weights_of_the_kernel():
    one, other = FULL
    draws = KernelDraws(one, other)
    all_once = draws.distance(np.ones(20), np.ones(15))
    assert all_once == pytest.approx(kernel_distance(one, other), rel=1e-4)
    times = [np.random.default_rng(k).integers(0, 3, n) for k, n in enumerate((20, 15))]
    repeated = [np.repeat(x, k, axis=0) for x, k in zip(FULL, times, strict=True)]
    expected = kernel_distance(*repeated, median_distance(one))
    assert draws.distance(*times) == pytest.approx(expected, rel=1e-4)


def test_the_kernel_distance_of_a_distribution_to_itself_is_0_on_average():
    rng = np.random.default_rng(0)
    values = [
        kernel_distance(rng.normal(size=(40, 8)), rng.normal(size=(30, 8))) for _ in range(200)
    ]
    assert min(values) < 0 < max(values)
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))
    assert kernel_distance(rng.normal(size=(40, 8)), rng.normal(size=(30, 8)) + 1) > 10 * np.std(
        values
    )
