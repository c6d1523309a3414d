"""Paths, times and grids, against published values and the definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weavejax.diffusion.schedules import (
    TIMES,
    add_noise,
    clean_of,
    cosine_grid,
    levels,
    linear,
    noise_of,
    polyexponential,
    straight,
    velocity,
)
from weavejax.errors import UserError

# Of stable-audio-tools and diffusers alike, 10 steps from 500 to 0.3.
RATIOS = [500.0, 219.274, 96.162, 42.172, 18.494, 8.1106, 3.5569, 1.5599, 0.68408, 0.3, 0.0]
PUBLISHED_TIMES = [0.998727, 0.997097, 0.993380, 0.984907, 0.965611, 0.921902, 0.825522, 0.637076]
PUBLISHED_TIMES += [0.381946, 0.185547, 0.0]


def test_the_published_grid():
    grid = polyexponential(10)
    np.testing.assert_allclose(grid.ratio, RATIOS, rtol=3e-5)
    np.testing.assert_allclose(grid.time, PUBLISHED_TIMES, atol=6e-7)
    np.testing.assert_allclose(grid.alpha**2 + grid.sigma**2, 1.0, rtol=1e-12)
    np.testing.assert_allclose(grid.alpha, np.cos(grid.time * np.pi / 2), atol=1e-12)


def test_the_grid_of_the_v_sampler():
    grid = linear(4)
    np.testing.assert_allclose(grid.time, [1, 0.75, 0.5, 0.25, 0])
    np.testing.assert_allclose(grid.sigma, np.sin(np.arange(4, -1, -1) * np.pi / 8), atol=1e-15)
    assert grid.alpha[0] == 0.0
    assert grid.sigma[-1] == 0.0


def test_the_grid_of_flows_is_straight_and_shifts_towards_noise():
    grid = straight(8)
    np.testing.assert_allclose(grid.alpha + grid.sigma, 1.0)
    np.testing.assert_allclose(np.diff(grid.time), -1 / 8)
    shifted = straight(8, shift=3.0)
    assert (shifted.time[1:-1] > grid.time[1:-1]).all()
    assert tuple(shifted.time[[0, -1]]) == (1.0, 0.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: polyexponential(0),
        lambda: polyexponential(4, 3.0, 1.0),
        lambda: polyexponential(4, 0.0, 1.0),
        lambda: linear(4, 1.5),
        lambda: straight(0),
        lambda: cosine_grid([1.0, 2.0]),
        lambda: cosine_grid([1.0]),
    ],
)
def test_impossible_grids_are_said_to_be(make):
    with pytest.raises(UserError):
        make()


@jax.jit
def mixed_and_parted(clean, noise, time):
    x, v = add_noise(clean, noise, time), velocity(clean, noise, time)
    return clean_of(x, v, time), noise_of(x, v, time)


@settings(max_examples=20, deadline=None)
@given(time=st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4), seed=st.integers(0, 99))
def test_what_was_mixed_comes_apart(time, seed):
    clean, noise = np.random.default_rng(seed).normal(size=(2, 4, 3, 2)).astype(np.float32)
    parted = mixed_and_parted(clean, noise, np.float32(time))
    np.testing.assert_allclose(parted, [clean, noise], atol=2e-6)


def test_v_is_the_slope_of_the_path():
    clean, noise = jnp.float32(np.random.default_rng(0).normal(size=(2, 3, 4)))
    time = jnp.array([0.1, 0.5, 0.9])
    _, slope = jax.jvp(lambda t: add_noise(clean, noise, t), (time,), (jnp.full(3, 2 / jnp.pi),))
    np.testing.assert_allclose(slope, velocity(clean, noise, time), atol=1e-6)


def test_levels_at_the_ends():
    np.testing.assert_allclose(levels(jnp.array([0.0, 1.0])), [[1, 0], [0, 1]], atol=1e-7)


@pytest.mark.parametrize("name", sorted(TIMES))
def test_times_have_their_distribution(name):
    times = np.asarray(TIMES[name](jax.random.key(0), 20_000))
    assert times.dtype == np.float32
    assert ((times >= 0) & (times <= 1)).all()
    quartiles = [1 / (1 + np.exp(0.67449)), 0.5, 1 / (1 + np.exp(-0.67449))]
    want = quartiles if name == "logit_normal" else [0.25, 0.5, 0.75]
    np.testing.assert_allclose(np.quantile(times, [0.25, 0.5, 0.75]), want, atol=0.015)


def test_stratified_times_leave_no_gap():
    times = np.sort(TIMES["stratified"](jax.random.key(3), 16))
    np.testing.assert_allclose(np.diff(times), 1 / 16, atol=1e-6)
