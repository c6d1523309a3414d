"""Local re-synthesis: what is kept is kept exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weavejax.diffusion.inpaint import hold_known, latent_span, splice
from weavejax.diffusion.noise import clip_noise
from weavejax.diffusion.samplers import SAMPLERS, begin, sample
from weavejax.diffusion.schedules import linear, polyexponential, straight

GRIDS = {"cosine": polyexponential(8), "linear": linear(8), "straight": straight(8)}


def smooth(x, time):
    """Draws a place towards its neighbours."""
    alpha, sigma = (f(time * (jnp.pi / 2))[:, None, None] for f in (jnp.cos, jnp.sin))
    near = (jnp.roll(x, 1, 1) + jnp.roll(x, -1, 1)) / (2 * jnp.maximum(alpha, 0.1))
    return (alpha * x - near) / jnp.maximum(sigma, 0.1)


@pytest.mark.parametrize(
    ("name", "grid"),
    [
        *((name, "cosine") for name in ("dpmpp-3m-sde", "dpmpp-2m", "heun")),
        *((name, grid) for name in ("ddim", "pingpong") for grid in ("linear", "straight")),
    ],
)
def test_latents_outside_the_span_are_exactly_the_original(name, grid):
    table = SAMPLERS[name](GRIDS[grid])
    clean = jnp.float32(np.random.default_rng(0).normal(size=(2, 20, 3)))
    renew = jnp.zeros((2, 20), bool).at[0, 5:9].set(True).at[1, 15:].set(True)
    noise = clip_noise(jax.random.split(jax.random.key(0), 2), (20, 3))
    hold = hold_known(clean, noise(0), renew)

    @jax.jit
    def renewed(x):
        return sample(smooth, x, table, noise=noise, hold=hold)

    got = np.asarray(renewed(begin(table, noise)))
    np.testing.assert_array_equal(got[~renew], clean[~renew])
    assert np.isfinite(got).all()
    assert (got[renew] != clean[renew]).all()


def test_the_span_is_made_to_fit_what_is_around_it():
    table = SAMPLERS["dpmpp-2m"](polyexponential(30, 0.02, 80.0))
    clean = jnp.full((1, 24, 2), 2.0)
    renew = jnp.zeros((1, 24), bool).at[:, 10:13].set(True)
    noise = clip_noise(jax.random.split(jax.random.key(0), 1), (24, 2))

    def flat(x, time):
        """v of the estimate that every place is the mean of the clip."""
        alpha, sigma = (f(time * (jnp.pi / 2))[:, None, None] for f in (jnp.cos, jnp.sin))
        return (alpha * x - x.mean((1, 2), keepdims=True) / jnp.maximum(alpha, 0.05)) / sigma

    held = sample(flat, begin(table, noise), table, hold=hold_known(clean, noise(0), renew))
    free = sample(flat, begin(table, noise), table)
    assert float(jnp.abs(held - 2.0).max()) < 0.1
    assert float(jnp.abs(free - 2.0).mean()) > 1.0


def test_the_latents_of_a_span():
    np.testing.assert_array_equal(np.flatnonzero(latent_span(100, 250, 50, 10, 0)), [2, 3, 4])
    np.testing.assert_array_equal(np.flatnonzero(latent_span(101, 251, 50, 10, 0)), [2, 3, 4, 5])
    np.testing.assert_array_equal(np.flatnonzero(latent_span(100, 250, 50, 10)), [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(np.flatnonzero(latent_span(0, 20, 50, 10)), [0, 1])
    with pytest.raises(ValueError, match="span"):
        latent_span(5, 5, 50, 10)


@settings(max_examples=40, deadline=None)
@given(
    span=st.lists(st.integers(0, 60), min_size=2, max_size=2, unique=True).map(sorted),
    crossfade=st.integers(0, 40),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_samples_outside_the_span_are_the_original_bit_by_bit(span, crossfade, dtype):
    rng = np.random.default_rng(0)
    original, new = rng.normal(size=(2, 2, 60)).astype(dtype)
    original[0, :4] = [np.nan, -0.0, np.inf, 1e-40]
    kept = original.copy()
    start, end = span
    out = splice(original, new, start, end, crossfade)
    assert out.dtype == dtype
    outside = np.ones(60, bool)
    outside[start:end] = False
    assert out[:, outside].tobytes() == original[:, outside].tobytes()
    assert original.tobytes() == kept.tobytes()
    fade = min(crossfade, (end - start) // 2)
    inner = slice(start + (fade if start else 0), end - (fade if end < 60 else 0))
    np.testing.assert_array_equal(out[:, inner], new[:, inner])


def test_crossfades_lead_over_without_a_step():
    out = splice(np.zeros(40), np.ones(40), 10, 30, 6)
    rise = np.diff(out[9:17])
    assert (rise > 0).all()
    assert rise.max() < 0.3
    np.testing.assert_allclose(out[10:16] + out[10:16][::-1], 1.0)
    np.testing.assert_array_equal(out, out[::-1])
    same = np.random.default_rng(0).normal(size=40)
    np.testing.assert_allclose(splice(same, same, 10, 30, 6), same, rtol=1e-15)


@pytest.mark.parametrize(
    ("new", "start", "end", "crossfade"),
    [
        (np.zeros(9), 0, 4, 1),
        (np.zeros(10, np.float32), 0, 4, 1),
        (np.zeros(10), 4, 4, 1),
        (np.zeros(10), 4, 11, 1),
        (np.zeros(10), -1, 3, 1),
        (np.zeros(10), 1, 3, -1),
    ],
)
def test_impossible_spans_are_said_to_be(new, start, end, crossfade):
    with pytest.raises(ValueError, match=r"span|float"):
        splice(np.zeros(10), new, start, end, crossfade)
