"""What stands in for an absent modality."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_streamed import unit

from weavejax.losses import SCORES
from weavejax.losses.missing import MISSING, standing_in


def clips(size=200, modalities=3, dim=24, rank=4, seed=0):
    """Modalities that a few common factors determine, but for a little noise."""
    rng = np.random.default_rng(seed)
    loads = rng.normal(size=(modalities, dim, rank))
    x = np.einsum("mdq,bq->bmd", loads, rng.normal(size=(size, rank)))
    present = np.ones((size, modalities), bool)
    present[:20, 0] = False
    present[20:40, 1:] = False
    present[40] = False
    return np.float32(unit(x + 0.05 * rng.normal(size=x.shape))), present


def filled(name, vectors, present):
    hidden = np.where(present[..., None], vectors, 7.0).astype(np.float32)  # must not be read
    return map(np.asarray, MISSING[name](jnp.asarray(hidden), jnp.asarray(present)))


@pytest.mark.parametrize("name", sorted(MISSING))
def test_what_is_present_stays(name):
    vectors, present = clips()
    made, there = filled(name, vectors, present)
    np.testing.assert_array_equal(made[present], vectors[present])
    if name == "drop":
        np.testing.assert_array_equal(there, present & present.all(1, keepdims=True))
    elif name == "phantom":
        np.testing.assert_array_equal(there, present)
    else:
        np.testing.assert_array_equal(there.all(1), present.any(1))
        assert not there[40].any()
        np.testing.assert_allclose(np.linalg.norm(made[:40], axis=-1), 1.0, rtol=1e-5)


def test_ppca_expects_what_the_others_tell_and_the_mean_does_not():
    vectors, present = clips()
    close = {}
    for name in ("mean", "ppca"):
        made, _ = filled(name, vectors, present)
        close[name] = (made * vectors).sum(-1)[~present & present.any(1, keepdims=True)].mean()
    assert close["ppca"] > 0.9
    assert close["mean"] < 0.5


@pytest.mark.parametrize("name", sorted(MISSING))
def test_few_or_no_complete_clips_are_finite(name):
    vectors = clips()[0][:6]
    for present in (np.eye(6, 3, dtype=bool), np.zeros((6, 3), bool), np.ones((6, 3), bool)):
        weight = jnp.asarray(np.random.default_rng(0).normal(size=vectors.shape), jnp.float32)

        def total(x, present=present, weight=weight):
            made, there = MISSING[name](x, jnp.asarray(present))
            return (jnp.where(there[..., None], made, 0.0) * weight).sum()

        value, grad = jax.value_and_grad(total)(jnp.asarray(vectors))
        assert np.isfinite(value)
        assert np.isfinite(grad).all()
        np.testing.assert_array_equal(np.asarray(grad)[~present], 0.0)


@pytest.mark.parametrize("name", ["volume", "cosine", "fused_cosine"])
@pytest.mark.parametrize("missing", MISSING)
def test_a_gallery_is_searched_as_was_learnt(missing, name):
    """What stood in for absent modalities in training does so in evaluation, and nothing else does."""
    vectors, present = clips()
    anchor = np.float32(unit(np.random.default_rng(1).normal(size=(7, vectors.shape[-1]))))
    score = standing_in(SCORES, missing)[name]
    if name == "fused_cosine":
        vectors, present = vectors[:, :1], present[:, :1]
    expected = (vectors, present)
    if missing in ("mean", "ppca") and name != "fused_cosine":
        expected = MISSING[missing](jnp.asarray(vectors), jnp.asarray(present))
    np.testing.assert_allclose(
        score(anchor, jnp.asarray(vectors), jnp.asarray(present)),
        SCORES[name](anchor, *map(jnp.asarray, expected)),
        rtol=1e-5,
        atol=1e-6,
    )
