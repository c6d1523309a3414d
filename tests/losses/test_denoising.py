"""The v-objective against its formula, and the dropping of conditions."""

import jax
import jax.numpy as jnp
import numpy as np

from weavejax.diffusion.schedules import TIMES, clean_of
from weavejax.losses.denoising import denoising_loss, draw_kept, keep_or_drop, noised


def latents(size=3, seed=0):
    return jnp.float32(np.random.default_rng(seed).normal(size=(size, 5, 2)))


def test_examples_are_noised_on_the_cosine_path():
    clean = latents()
    asked = noised(jax.random.key(0), clean, TIMES["uniform"])
    np.testing.assert_allclose(clean_of(asked.x, asked.target, asked.time), clean, atol=1e-5)
    other = noised(jax.random.key(1), clean, TIMES["uniform"])
    assert not np.allclose(asked.time, other.time)
    many = noised(jax.random.key(0), 2.0 * jnp.ones((4000, 3), jnp.bfloat16))
    assert many.x.dtype == many.target.dtype == jnp.float32
    angle = np.asarray(many.time)[:, None] * np.pi / 2
    noise = np.sin(angle) * np.asarray(many.x) + np.cos(angle) * np.asarray(many.target)
    assert abs(noise.mean()) < 0.04
    assert abs(noise.std() - 1) < 0.04
    assert abs(np.corrcoef(many.time, noise[:, 0])[0, 1]) < 0.05


def test_the_loss_is_the_weighted_mean_of_squares():
    predicted, target = np.asarray(latents(seed=1)), np.asarray(latents(seed=2))
    weight = np.array([1.0, 0.0, 2.5], np.float32)
    total, count = denoising_loss(jnp.asarray(predicted), jnp.asarray(target), weight=weight)
    want = sum(w * np.mean((p - t) ** 2) for w, p, t in zip(weight, predicted, target, strict=True))
    np.testing.assert_allclose([total, count], [want, 3.5], rtol=1e-6)
    whole = denoising_loss(jnp.asarray(predicted), jnp.asarray(target))
    np.testing.assert_allclose(whole[0] / whole[1], np.mean((predicted - target) ** 2), rtol=1e-6)


def test_places_and_examples_that_are_not_there_do_not_count():
    predicted, target = latents(seed=1), latents(seed=2)
    mask = jnp.array([[1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
    hidden = jnp.where(mask[..., None], predicted, jnp.nan)

    def loss(x):
        total, count = denoising_loss(x, target, mask=mask)
        return total / count

    want = [np.mean(np.square(predicted - target)[n, :k]) for n, k in ((0, 2), (2, 5))]
    value, grad = jax.value_and_grad(loss)(hidden)
    np.testing.assert_allclose(value, np.mean(want), rtol=1e-6)
    assert np.isfinite(grad).all()
    np.testing.assert_array_equal(np.asarray(grad)[~np.asarray(mask)], 0.0)

    def weighted(x):
        return denoising_loss(x, target, weight=jnp.array([1.0, 0.0, 1.0]))[0]

    absent = predicted.at[1].set(jnp.nan)
    value, grad = jax.value_and_grad(weighted)(absent)
    assert np.isfinite(value)
    np.testing.assert_array_equal(grad[1], 0.0)


def test_conditions_are_dropped_at_their_rates_and_independently():
    kept = draw_kept(jax.random.key(0), 20_000, {"what": 0.1, "when": 0.3, "where": 0.0})
    rates = {name: float(jnp.mean(keep)) for name, keep in kept.items()}
    np.testing.assert_allclose(
        [rates["what"], rates["when"], rates["where"]], [0.9, 0.7, 1.0], atol=0.012
    )
    both = float(jnp.mean(kept["what"] & kept["when"]))
    assert abs(both - 0.63) < 0.012
    again = draw_kept(jax.random.key(0), 20_000, {"where": 0.0, "when": 0.3, "what": 0.1})
    for name, keep in kept.items():
        np.testing.assert_array_equal(keep, again[name])


def test_a_dropped_condition_is_nothing():
    condition = {"tokens": latents(), "level": jnp.arange(3.0)}
    keep = jnp.array([True, False, True])
    got = keep_or_drop(condition, {"tokens": jnp.zeros((1, 1, 1)), "level": -jnp.ones(1)}, keep)
    np.testing.assert_array_equal(got["tokens"][0], condition["tokens"][0])
    np.testing.assert_array_equal(got["tokens"][1], 0.0)
    np.testing.assert_array_equal(got["level"], [0.0, -1.0, 2.0])
