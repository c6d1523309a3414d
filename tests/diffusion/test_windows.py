"""Overlapped windows: where they lie, how they blend, what becomes of a long clip."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian import Gaussian
from hypothesis import given, settings
from hypothesis import strategies as st

from weavejax.diffusion.noise import clip_noise, placed_noise
from weavejax.diffusion.samplers import SAMPLERS, begin, sample
from weavejax.diffusion.schedules import polyexponential
from weavejax.diffusion.windows import blend, cut, plan_windows, windowed
from weavejax.errors import UserError
from weavejax.metrics.seam import seam_jumps

PLANS = st.tuples(st.integers(1, 90), st.integers(1, 24)).flatmap(
    lambda sizes: st.tuples(st.just(sizes[0]), st.just(sizes[1]), st.integers(0, sizes[1] - 1))
)


@settings(max_examples=60, deadline=None)
@given(plan=PLANS)
def test_windows_cover_every_clip_and_their_weights_sum_to_one(plan):
    length, width, overlap = plan
    windows = plan_windows(length, width, overlap)
    assert windows.starts[0] == 0
    assert windows.starts[-1] + windows.width == length
    assert windows.width == min(length, width)
    hops = np.diff(windows.starts)
    assert (hops > 0).all()
    assert (hops <= max(windows.width - overlap, 1)).all()
    assert (windows.weights > 0).all()
    total = np.zeros(length)
    np.add.at(total, windows.places, windows.weights)
    np.testing.assert_allclose(total, 1.0, rtol=1e-12)
    assert len(windows.seams) == len(windows.starts) - 1


@settings(max_examples=60, deadline=None)
@given(plan=PLANS)
def test_every_place_is_gathered_from_its_windows(plan):
    windows = plan_windows(*plan)
    index, share = windows.sources
    np.testing.assert_allclose(share.sum(1), 1.0, rtol=1e-12)
    found = windows.places.ravel()[index]
    want = np.broadcast_to(np.arange(plan[0])[:, None], index.shape)
    np.testing.assert_array_equal(found[share > 0], want[share > 0])
    assert (share > 0).sum() == windows.places.size


@pytest.mark.parametrize("plan", [(1, 4, 1), (30, 8, 3), (30, 8, 7)])
def test_what_is_cut_blends_back(plan):
    windows = plan_windows(*plan)
    x = jnp.float32(np.random.default_rng(0).normal(size=(2, plan[0], 3)))
    pieces = cut(x, windows)
    assert pieces.shape == (2 * len(windows.starts), windows.width, 3)
    back = jax.jit(lambda pieces: blend(pieces, windows))(pieces)
    np.testing.assert_allclose(back, x, atol=1e-6)


def test_ramps_are_linear_over_the_overlap():
    windows = plan_windows(14, 8, 2)
    np.testing.assert_allclose(windows.weights[0], [1, 1, 1, 1, 1, 1, 0.75, 0.25])
    np.testing.assert_allclose(windows.weights[1], [0.25, 0.75, 1, 1, 1, 1, 1, 1])
    assert windows.seams == (7.0,)


def local(x, time):
    """A network that sees the neighbours of a place within its window."""
    near = 0.5 * x + 0.25 * (jnp.roll(x, 1, 1) + jnp.roll(x, -1, 1))
    return jnp.tanh(near * (1 + time[:, None, None]))


def test_a_single_window_is_the_clip_itself_bit_by_bit():
    table = SAMPLERS["dpmpp-3m-sde"](polyexponential(6))
    for length in (1, 16):
        noise = clip_noise(jax.random.split(jax.random.key(0), 2), (length, 3))
        denoiser = windowed(local, plan_windows(length, 16, 4))
        start = begin(table, noise)
        plain, long = (sample(run, start, table, noise=noise) for run in (local, denoiser))
        np.testing.assert_array_equal(plain, long)


def test_windows_that_agree_are_the_whole_clip():
    """A network that looks at no neighbours says the same in every window."""
    problem, windows = Gaussian(), plan_windows(50, 16, 6)
    table = SAMPLERS["dpmpp-3m-sde"](polyexponential(8))
    noise = placed_noise(jax.random.split(jax.random.key(0), 2), 50, (3,))
    start = begin(table, noise)
    want = sample(problem.denoiser, start, table, noise=noise)
    got = sample(windowed(problem.denoiser, windows), start, table, noise=noise)
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_conditions_are_cut_as_the_latents_are():
    """All windows of all clips in one call, each with its own piece of the curve."""
    windows = plan_windows(30, 8, 3)
    curve = jnp.float32(np.random.default_rng(0).normal(size=(2, 30, 1)))
    calls = []

    def denoiser(x, time):
        calls.append(x.shape)
        return x * cut(curve, windows) + time[:, None, None]

    x, time = jnp.ones((2, 30, 3)), jnp.array([0.25, 0.5])
    got = windowed(denoiser, windows)(x, time)
    assert calls == [(2 * len(windows.starts), 8, 3)]
    np.testing.assert_allclose(got, x * curve + time[:, None, None], atol=1e-6)


def test_an_overlap_takes_the_jump_out_of_seams():
    """Windows that disagree by 12 dB about the level of what they hear."""
    problems = Gaussian(0.0, 0.25), Gaussian(0.0, 1.0)
    table = SAMPLERS["ddim"](polyexponential(12, 0.03, 80.0))
    noise = placed_noise(jax.random.split(jax.random.key(0), 1), 2048, (1,))
    found = {}
    for overlap in (0, 192):
        windows = plan_windows(2048, 512, overlap)
        loud = (jnp.arange(len(windows.starts)) % 2 == 1)[:, None, None]

        def denoiser(x, time, loud=loud):
            return jnp.where(loud, problems[1].denoiser(x, time), problems[0].denoiser(x, time))

        clip = sample(windowed(denoiser, windows), begin(table, noise), table)
        found[overlap] = seam_jumps(np.asarray(clip)[..., 0], windows.seams, 64)
    assert found[0].percentile > 0.95
    assert found[0].jump > 9
    assert found[192].jump < 0.5 * found[0].jump, found


@pytest.mark.parametrize("plan", [(0, 8, 2), (10, 0, 0), (10, 8, 8), (10, 8, -1)])
def test_impossible_plans_are_said_to_be(plan):
    with pytest.raises(UserError, match="overlap"):
        plan_windows(*plan)


def test_a_clip_of_another_length_is_not_cut():
    with pytest.raises(ValueError, match="places"):
        cut(jnp.zeros((1, 9, 2)), plan_windows(10, 8, 2))
