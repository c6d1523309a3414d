"""Guidance against its formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weavejax.diffusion.guidance import branch_weights, classifier_free, conditioned, per_dial


def network(x, time, condition):
    """Not linear in its conditions, so that their order matters."""
    pushed = x + condition["when"] + condition["what"][:, None]
    return jnp.sin(pushed * (1 + time[:, None, None]) + condition["when"] * pushed)


def dials(size=2, seed=0):
    rng = np.random.default_rng(seed)
    x = jnp.float32(rng.normal(size=(size, 4, 3)))
    time = jnp.float32(rng.uniform(size=size))
    when = jnp.float32(rng.normal(size=(size, 4, 3)))
    what = jnp.float32(rng.normal(size=(size, 3)))
    nothing = {"when": 0 * when, "what": 0 * what}
    return x, time, (nothing, nothing | {"when": when}, {"when": when, "what": what})


def test_classifier_free_guidance_is_the_published_formula_in_one_call():
    x, time, (nothing, _, full) = dials()
    calls = []

    def counted(*arguments):
        calls.append(len(arguments[0]))
        return network(*arguments)

    got = classifier_free(counted, full, nothing, 3.5)(x, time)
    u, c = network(x, time, nothing), network(x, time, full)
    assert calls == [4]
    np.testing.assert_allclose(got, u + 3.5 * (c - u), atol=2e-6)


@settings(max_examples=15, deadline=None)
@given(scale=st.floats(-2, 12, width=32))
def test_equal_scales_are_the_published_guidance(scale):
    got, want, weights = both(jnp.float32(scale))
    np.testing.assert_allclose(got, want, atol=1e-6 * max(1, abs(scale)))
    np.testing.assert_array_equal(weights[1:-1], 0.0)  # whatever lies between has no say
    np.testing.assert_allclose(weights.sum(), 1.0, atol=1e-6)


@jax.jit
def both(scale):
    """By dial at one scale, the published guidance, and the weights of five branches."""
    x, time, conditions = dials()
    by_dial = per_dial(network, conditions, jnp.stack([scale, scale]))(x, time)
    published = classifier_free(network, conditions[-1], conditions[0], scale)(x, time)
    return by_dial, published, branch_weights(jnp.full((1, 4), scale))[0]


def test_every_dial_has_its_scale_and_every_clip_its_own():
    x, time, conditions = dials()
    v = [network(x, time, condition) for condition in conditions]
    scales = np.array([[4.0, 1.5], [0.0, 2.0]], np.float32)
    got = per_dial(network, conditions, scales)(x, time)
    s = scales[:, :, None, None]
    want = v[0] + s[:, 0] * (v[1] - v[0]) + s[:, 1] * (v[2] - v[1])
    np.testing.assert_allclose(got, want, atol=2e-6)
    for n in range(2):
        alone = per_dial(
            network, jax.tree.map(lambda leaf, n=n: leaf[n : n + 1], conditions), scales[n]
        )(x[n : n + 1], time[n : n + 1])
        np.testing.assert_allclose(got[n], alone[0], atol=1e-6)


def test_a_scale_of_one_is_the_network_itself_and_of_zero_ignores_the_condition():
    x, time, (nothing, _, full) = dials()
    for scale, condition in ((1.0, full), (0.0, nothing)):
        got = classifier_free(network, full, nothing, scale)(x, time)
        np.testing.assert_allclose(got, conditioned(network, condition)(x, time), atol=1e-6)


@pytest.mark.parametrize("over", [None, (-1,)])
@pytest.mark.parametrize("phi", [0.7, 1.0])
def test_rescaling_draws_the_spread_back(over, phi):
    x, time, (nothing, _, full) = dials()
    u, c = network(x, time, nothing), network(x, time, full)
    plain = np.asarray(u + 6 * (c - u))
    axes = (1, 2) if over is None else over
    back = plain * np.asarray(c).std(axes, keepdims=True) / plain.std(axes, keepdims=True)
    got = classifier_free(network, full, nothing, 6.0, rescale=phi, rescale_over=over)(x, time)
    np.testing.assert_allclose(got, phi * back + (1 - phi) * plain, atol=1e-5)


def test_guidance_may_be_bounded_in_time():
    x, _, (nothing, _, full) = dials()
    time = jnp.array([0.2, 0.9])
    got = classifier_free(network, full, nothing, 5.0, between=(0.3, 1.0))(x, time)
    always = classifier_free(network, full, nothing, 5.0)(x, time)
    np.testing.assert_allclose(got[0], network(x, time, full)[0], atol=1e-6)
    np.testing.assert_allclose(got[1], always[1], atol=1e-6)


def test_other_scales_compile_nothing_new():
    x, time, conditions = dials()
    traces = []

    @jax.jit
    def run(scales):
        traces.append(1)
        return per_dial(network, conditions, scales)(x, time)

    assert not np.allclose(run(jnp.array([1.0, 2.0])), run(jnp.array([3.0, 2.0])))
    assert len(traces) == 1


@pytest.mark.parametrize("scales", [[1.0], [1.0, 2.0, 3.0], 1.0])
def test_as_many_scales_as_dials(scales):
    with pytest.raises(ValueError, match="conditions"):
        per_dial(network, dials()[2], scales)
