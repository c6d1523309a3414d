"""Every score against its formula, written pair by pair in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_streamed import unit

from weavejax.losses import SCORES
from weavejax.losses.singular import pmrl_loss, singular_values


def gram(vectors, shift=0.0):
    return vectors @ vectors.T + shift


def volume(a, x, shift=0.0):
    return np.sqrt(abs(np.linalg.det(gram(np.vstack([a, *x]), shift))))


def base(x):
    return np.sqrt(abs(np.linalg.det(gram(x)))) if len(x) else 1.0


def sine(a, x):
    return volume(a, x) / base(x)


def log_volume(a, x):
    return np.log(sine(a, x) ** 2 + 1e-4) / 2 + np.log(base(x) + 1e-4)


def blended(a, x):
    return (volume(a, x, -2.0) + volume(a, x)) / 2


def area(a, x):
    def one(u, w):
        return 0.5 * np.sqrt(max((u @ u) * (w @ w) - (u @ w) ** 2, 0.0))

    if len(x) == 1:
        return 0.5 * np.linalg.norm(a - x[0])
    pairs = list(itertools.combinations(x, 2))
    return sum(one(a - y, a - z) for y, z in pairs) / max(len(pairs), 1)


def mean_cosine(a, x):
    return sum(a @ y for y in x) / max(len(x), 1)


def centroid(a, x):
    centre = sum(x, np.zeros_like(a))
    return a @ centre / np.linalg.norm(centre) if len(x) else 0.0


def weighted(a, x):
    if not len(x):
        return 0.0
    dots = x @ a
    w = np.exp(dots / 0.1) / np.exp(dots / 0.1).sum()
    return w @ dots / np.sqrt(w @ gram(x) @ w)


def hybrid(a, x):
    return -volume(a, x[:1], -2.0) + (mean_cosine(a, x[1:]) if len(x) else 0.0)


NAIVE = {
    "cosine": mean_cosine,
    "sum_cosine": lambda a, x: sum((a @ y for y in x), 0.0),
    "fused_cosine": lambda a, x: sum((a @ y for y in x), 0.0),
    "volume": lambda a, x: -volume(a, x),
    "normalised_volume": lambda a, x: -sine(a, x),
    "log_volume": lambda a, x: -log_volume(a, x),
    "shifted_volume": lambda a, x: -volume(a, x, -2.0),
    "blended_volume": lambda a, x: -blended(a, x),
    "triangle": lambda a, x: -area(a, x),
    "triangle_cosine": lambda a, x: mean_cosine(a, x) - area(a, x),
    "multilinear": lambda a, x: (a * np.prod(x, axis=0)).sum() if len(x) else a.sum(),
    "singular_value": lambda a, x: (
        np.linalg.svd(np.vstack([a, *x]), compute_uv=False)[0] / np.sqrt(1 + len(x))
    ),
    "centroid": centroid,
    "weighted_centroid": weighted,
    "hybrid": hybrid,
}


def test_every_score_has_its_formula():
    assert NAIVE.keys() == SCORES.keys()


def clips(modalities, cosine, anchors=6, batch=5, dim=20, seed=0):
    rng = np.random.default_rng(seed)
    centre = unit(rng.normal(size=(1, dim)))
    anchor = unit(cosine * centre + unit(rng.normal(size=(anchors, dim))))
    clip = unit(cosine * centre[None] + unit(rng.normal(size=(batch, modalities, dim))))
    return anchor, clip


@pytest.mark.parametrize("name", sorted(SCORES))
@pytest.mark.parametrize("modalities", [1, 2, 4])
def test_every_score_equals_its_formula(name, modalities):
    if SCORES[name].sees == "fused" and modalities > 1:
        modalities = 1  # one vector, whatever it was made from
    for cosine, masked in itertools.product((0.0, 0.5, 2.0), (False, True)):
        anchor, clip = clips(modalities, cosine)
        present = np.ones(clip.shape[:2], bool)
        if masked:
            present = np.random.default_rng(modalities).random(present.shape) < 0.6
            if SCORES[name].sees == "both":  # what is fused of a clip is there where any of it is
                present[:, 0] = True
            present[0] = False
            clip[~present] = np.nan  # what stands in for an absent modality must not be read
        want = [[NAIVE[name](a, x[p]) for x, p in zip(clip, present, strict=True)] for a in anchor]
        got = SCORES[name](jnp.float32(anchor), jnp.float32(clip), jnp.asarray(present))
        np.testing.assert_allclose(got, want, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", sorted(SCORES))
def test_gradients_equal_finite_differences(name):
    """In float64, along random directions, with a modality absent."""
    with jax.enable_x64(True):
        anchor, clip = map(jnp.asarray, clips(1 if SCORES[name].sees == "fused" else 3, 0.7))
        present = np.ones(clip.shape[:2], bool)
        present[1:3, -1] = [clip.shape[1] == 1, clip.shape[1] == 1]
        rng = np.random.default_rng(1)
        weight = jnp.asarray(rng.normal(size=(len(anchor), len(clip))))
        learned = {key: jnp.asarray(value) for key, value in SCORES[name].learned.items()}

        def total(anchor, clip):
            return (weight * SCORES[name](anchor, clip, jnp.asarray(present), learned)).sum()

        grads = jax.grad(total, (0, 1))(anchor, clip)
        steps = [jnp.asarray(rng.normal(size=x.shape)) for x in (anchor, clip)]
        slope = sum(float((g * s).sum()) for g, s in zip(grads, steps, strict=True))
        eps = 1e-6
        ahead, behind = (
            float(total(*(x + sign * eps * s for x, s in zip((anchor, clip), steps, strict=True))))
            for sign in (1.0, -1.0)
        )
        np.testing.assert_allclose(slope, (ahead - behind) / (2 * eps), rtol=1e-6, atol=1e-7)


def pmrl_naive(vectors, present, alignment, instance):
    rows = [(z[p], p.sum()) for z, p in zip(vectors, present, strict=True) if p.sum() >= 2]
    lefts, total = [], 0.0
    for z, count in rows:
        left, sigma, _ = np.linalg.svd(z.T, full_matrices=False)
        right = z @ left[:, 0]
        lefts.append(left[:, 0] * (1 if right.sum() >= 0 else -1))
        share = np.exp(sigma[:count] / alignment)
        total -= np.log(share[0] / share.sum())
    sims = np.array(lefts) @ np.array(lefts).T / instance
    total -= sum(np.log(np.exp(row[i]) / np.exp(row).sum()) for i, row in enumerate(sims))
    return total, len(rows)


def test_pmrl_equals_its_formula_and_is_differentiable_where_values_coincide():
    anchor, clip = clips(3, 0.6, anchors=5)
    vectors = np.concatenate([anchor[:, None], clip], 1)
    present = np.ones(vectors.shape[:2], bool)
    present[1, 0] = present[2, 1] = present[3, 1:] = False
    got, count = pmrl_loss(jnp.float32(vectors), jnp.asarray(present))
    want, number = pmrl_naive(vectors, present, 0.05, 0.1)
    assert float(count) == number == 4
    np.testing.assert_allclose(got, want, rtol=2e-5)
    equal = jnp.float32(np.broadcast_to(np.eye(4, 20), (5, 4, 20)))  # all singular values are 1
    for made in (jnp.float32(vectors), equal, jnp.ones((5, 4, 20)) / np.sqrt(20)):
        grad = jax.grad(lambda v: pmrl_loss(v, jnp.asarray(present))[0])(made)
        assert np.isfinite(grad).all()
        np.testing.assert_array_equal(grad[~present], 0.0)


def test_singular_values_are_those_of_numpy():
    vectors = clips(4, 0.6)[1]
    sigma, left = singular_values(jnp.float32(vectors), jnp.ones((5, 4), bool))
    for z, s, u in zip(vectors, sigma, left, strict=True):
        want_u, want_s, _ = np.linalg.svd(z.T, full_matrices=False)
        np.testing.assert_allclose(s, want_s, rtol=1e-5)
        np.testing.assert_allclose(abs(want_u[:, 0] @ u), 1.0, rtol=1e-5)
        assert (z @ np.asarray(u)).sum() > 0
