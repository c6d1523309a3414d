"""The factored volume against float64 determinants, and its derivative where autodiff breaks."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from weavejax.losses import SCORES
from weavejax.losses.volume import shifted_volume, volume


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def clips(k, *, cosine, anchors=7, batch=5, dim=48, seed=0):
    """Unit vectors whose members share a direction: `cosine` within a clip."""
    rng = np.random.default_rng(seed)
    centre = unit(rng.normal(size=(batch, 1, dim)))
    spread = unit(rng.normal(size=(batch, k - 1, dim)))
    clip = unit(np.sqrt(cosine) * centre + np.sqrt(1 - cosine) * spread)
    anchor = unit(rng.normal(size=(anchors, dim)))
    anchor[:batch] = unit(
        np.sqrt(cosine) * centre[:anchors, 0] + np.sqrt(1 - cosine) * anchor[:batch]
    )
    return anchor, clip


def determinant(anchor, clip, present, shift=0.0):
    """The published formula in float64: sqrt|det| of the Gram matrix of the present vectors."""
    out = np.zeros((len(anchor), len(clip)))
    for i, j in itertools.product(range(len(anchor)), range(len(clip))):
        vectors = np.concatenate([anchor[i : i + 1], clip[j][present[j]]]).astype(np.float64)
        out[i, j] = np.sqrt(abs(np.linalg.det(vectors @ vectors.T + shift)))
    return out


@pytest.mark.parametrize("k", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("cosine", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("masked", [False, True])
def test_volume_equals_the_float64_determinant(k, cosine, masked):
    anchor, clip = clips(k, cosine=cosine)
    present = np.ones(clip.shape[:2], bool)
    if masked:
        present = np.random.default_rng(k).random(clip.shape[:2]) < 0.6
        clip[~present] = np.nan  # what stands in for an absent modality must not be read
    got = volume(jnp.float32(anchor), jnp.float32(clip), jnp.asarray(present))
    np.testing.assert_allclose(got, determinant(anchor, clip, present), atol=1e-6)
    shifted = shifted_volume(jnp.float32(anchor), jnp.float32(clip), jnp.asarray(present))
    # float32 leaves the product of the two roots a few more roundings away
    np.testing.assert_allclose(shifted, determinant(anchor, clip, present, -2.0), atol=5e-6)


@pytest.mark.parametrize("k", [2, 3, 6])
def test_volume_in_float64_is_exact_to_1e_12(k):
    with jax.enable_x64(True):
        anchor, clip = clips(k, cosine=0.5)
        present = np.ones(clip.shape[:2], bool)
        got = volume(jnp.asarray(anchor), jnp.asarray(clip), jnp.asarray(present))
        np.testing.assert_allclose(got, determinant(anchor, clip, present), atol=1e-12)


def literal(anchor, clip):
    """sqrt|det| as written in the paper, for autodiff where it is differentiable."""
    batch = jnp.concatenate(
        [
            jnp.broadcast_to(anchor[:, None, None], (len(anchor), len(clip), 1, anchor.shape[-1])),
            jnp.broadcast_to(clip[None], (len(anchor), *clip.shape)),
        ],
        axis=2,
    )
    return jnp.sqrt(jnp.abs(jnp.linalg.det(jnp.einsum("abkd,abld->abkl", batch, batch))))


@pytest.mark.parametrize("k", [2, 3, 4, 5, 6])
def test_gradient_equals_autodiff_of_the_literal_formula(k):
    with jax.enable_x64(True):
        anchor, clip = map(jnp.asarray, clips(k, cosine=0.5))
        weight = jnp.asarray(np.random.default_rng(1).normal(size=(len(anchor), len(clip))))
        present = jnp.ones(clip.shape[:2], bool)
        ours = jax.jit(jax.grad(lambda a, c: (weight * volume(a, c, present)).sum(), (0, 1)))
        theirs = jax.jit(jax.grad(lambda a, c: (weight * literal(a, c)).sum(), (0, 1)))
        for got, want in zip(ours(anchor, clip), theirs(anchor, clip), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-10)


def degenerate(case):
    anchor, clip = clips(4, cosine=0.5)
    if case == "coincident":
        clip[:, 1] = clip[:, 0]
        anchor[:5] = clip[:, 0]
    elif case == "nearly coincident":
        clip[:, 1] = unit(clip[:, 0] + 1e-5 * clip[:, 2])
        anchor[:5] = unit(clip[:, 0] + 1e-5 * clip[:, 1])
    elif case == "zero":
        clip[:, 2] = 0.0
        anchor[0] = 0.0
    elif case == "opposite":
        clip[:, 1] = -clip[:, 0]
    elif case == "all one":
        clip[:] = clip[:1, :1]
        anchor[:] = clip[0, 0]
    return jnp.float32(anchor), jnp.float32(clip)


@pytest.mark.parametrize("case", ["coincident", "nearly coincident", "zero", "opposite", "all one"])
@pytest.mark.parametrize("name", sorted(SCORES))
def test_every_score_and_gradient_is_finite_on_degenerate_vectors(case, name):
    anchor, clip = degenerate(case)
    present = jnp.ones(clip.shape[:2], bool)
    loss = jax.jit(jax.value_and_grad(lambda a, c: SCORES[name](a, c, present).sum(), (0, 1)))
    value, grads = loss(anchor, clip)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in grads)


def test_gradient_of_each_vector_is_bounded_by_one():
    """V is 1-Lipschitz in every unit vector: only autodiff of the root explodes, not the function."""
    present = jnp.ones((1, 3), bool)
    grad = jax.jit(jax.grad(lambda a, c: volume(a, c, present).sum(), (0, 1)))
    for case in ("nearly coincident", "coincident", "all one"):
        anchor, clip = degenerate(case)
        for i, j in itertools.product(range(3), range(3)):
            for g in grad(anchor[i : i + 1], clip[j : j + 1]):
                assert np.linalg.norm(g, axis=-1).max() <= 1.05


def test_duplicate_modality_gives_zero_volume_and_the_sign_is_not_seen():
    anchor, clip = clips(4, cosine=0.3)
    present = jnp.ones(clip.shape[:2], bool)
    plain = volume(jnp.float32(anchor), jnp.float32(clip), present)
    flipped = volume(jnp.float32(-anchor), jnp.float32(clip), present)
    np.testing.assert_array_equal(plain, flipped)
    clip[:, 1] = clip[:, 0]
    assert float(volume(jnp.float32(anchor), jnp.float32(clip), present).max()) == 0.0


def test_absent_modalities_get_no_gradient_and_an_empty_clip_has_unit_volume():
    anchor, clip = clips(4, cosine=0.3)
    present = jnp.asarray([[True, False, True]] * 4 + [[False] * 3])
    value, grad = jax.value_and_grad(
        lambda c: volume(jnp.float32(anchor), c, present)[:, :4].sum()
    )(jnp.float32(clip))
    assert np.isfinite(value)
    np.testing.assert_array_equal(grad[:, 1], 0.0)
    assert np.abs(grad[:4, 0]).max() > 0
    empty = volume(jnp.float32(anchor), jnp.float32(clip), present)[:, 4]
    np.testing.assert_allclose(empty, 1.0, atol=1e-6)
