"""The streamed contrast against the whole matrix: values, gradients, draws; any blocks, any mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from whole_matrix import two_way_cross_entropy

from weavejax.losses import SCORES
from weavejax.losses.streamed import Plan, contrast
from weavejax.ops.placement import on_mesh
from weavejax.runtime.mesh import batch_sharding, make_mesh

KEY = jax.random.key(7)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def batch(size, modalities=3, dim=24, *, masked=True, seed=0):
    """(anchor, clip, present, paired), matched pairs alike."""
    rng = np.random.default_rng(seed)
    centre = unit(rng.normal(size=(size, dim)))
    anchor = unit(centre + 0.7 * unit(rng.normal(size=(size, dim))))
    clip = unit(centre[:, None] + 0.7 * unit(rng.normal(size=(size, modalities, dim))))
    present = rng.random((size, modalities)) < (0.7 if masked else 2.0)
    paired = present.any(1) & (rng.random(size) < (0.9 if masked else 2.0))
    return jnp.float32(anchor), jnp.float32(clip), jnp.asarray(present), jnp.asarray(paired)


def scalars_of(name, **more):
    learned = {key: jnp.float32(value) for key, value in SCORES[name].learned.items()}
    return {"temperature": jnp.float32(0.07), **learned, **more}


def whole(plan, name, anchor, clip, present, paired, scalars):
    """The same loss with its matrix of logits."""

    def logits(anchor, clip):
        return SCORES[name](anchor, clip, present, scalars) / scalars["temperature"] + scalars.get(
            "bias", jnp.float32(0)
        )

    if plan.objective == "sigmoid":
        pair = jnp.where(jnp.eye(len(anchor), dtype=bool), -1.0, 1.0)
        losses = jax.nn.softplus(pair * logits(anchor, clip))
        return jnp.where(paired[:, None] & paired[None, :], losses, 0.0).sum()
    stop = jax.lax.stop_gradient if plan.gradient == "half" else lambda x: x
    forward, backward = logits(anchor, stop(clip)), logits(stop(anchor), clip)
    return two_way_cross_entropy(forward, backward, paired, smoothing=plan.smoothing)[0]


def gradients(function, *args):
    return jax.jit(jax.value_and_grad(function, (0, 1, 2)))(*args)


def assert_close(got, want, tolerance=2e-5):
    for (path, g), w in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
        scale = max(1.0, float(np.abs(w).max()))
        np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance * scale, err_msg=str(path))


def both(plan, name, arrays, scalars, run=contrast):
    anchor, clip, present, paired = arrays

    def streamed(anchor, clip, scalars):
        return run(plan, SCORES[name], anchor, clip, present, paired, scalars, KEY).total

    def dense(anchor, clip, scalars):
        return whole(plan, name, anchor, clip, present, paired, scalars)

    return gradients(streamed, anchor, clip, scalars), gradients(dense, anchor, clip, scalars)


@pytest.mark.parametrize("name", sorted(SCORES))
def test_every_score_streams(name):
    arrays = batch(13, 1 if SCORES[name].sees == "fused" else 3)
    assert_close(*both(Plan(block=5, smoothing=0.1), name, arrays, scalars_of(name)))


@pytest.mark.parametrize(
    ("gradient", "size", "block", "masked"),
    [("full", 2, 8, False), ("half", 16, 16, True), ("full", 17, 5, True), ("half", 16, 4, False)],
)
def test_blocks_change_nothing(gradient, size, block, masked):
    plan = Plan(gradient=gradient, smoothing=0.1, block=block)
    assert_close(*both(plan, "volume", batch(size, masked=masked), scalars_of("volume")))


def test_the_sigmoid_loss_streams():
    scalars = scalars_of("cosine", bias=jnp.float32(-3.0))
    assert_close(*both(Plan(objective="sigmoid", block=5), "cosine", batch(13), scalars))


@functools.cache
def meshes():
    return [
        make_mesh({"replica": 2, "data": 2, "model": 2}),
        make_mesh({"replica": 1, "data": 8, "model": 1}),
    ]


@pytest.mark.parametrize(
    ("exchange", "number", "gradient"),
    [("gather", 0, "half"), ("ring", 0, "full"), ("ring", 1, "half")],
)
def test_any_mesh_gives_the_same(exchange, number, gradient):
    arrays = batch(32)
    plan = Plan(gradient=gradient, smoothing=0.1, block=3, exchange=exchange, rivals=1e-4)
    mesh = meshes()[number]
    run, arrays = on_mesh(contrast, mesh), jax.device_put(arrays, batch_sharding(mesh))
    assert_close(*both(plan, "shifted_volume", arrays, scalars_of("shifted_volume"), run))
    scalars = scalars_of("shifted_volume")
    score = SCORES["shifted_volume"]
    spread, alone = (
        jax.jit(lambda *a, f=f: f(plan, score, *a, scalars, KEY))(*arrays) for f in (run, contrast)
    )
    for name in ("own", "hit", "hard_clip", "hard_anchor", "pairs"):
        got, want = getattr(spread, name), getattr(alone, name)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5, err_msg=name)


def test_own_logits_and_hits_are_those_of_the_matrix():
    anchor, clip, present, paired = batch(19)
    scalars = scalars_of("volume")
    found = contrast(Plan(block=4), SCORES["volume"], anchor, clip, present, paired, scalars, KEY)
    logits = np.array(SCORES["volume"](anchor, clip, present)) / 0.07
    paired = np.asarray(paired)
    np.testing.assert_allclose(found.own, np.where(paired, np.diagonal(logits), 0), rtol=1e-4)
    others = np.where(paired[None, :] & ~np.eye(19, dtype=bool), logits, -np.inf)
    np.testing.assert_array_equal(found.hit, paired & (np.diagonal(logits) > others.max(1)))
    assert 0 < found.hit.sum() < 19


def test_rivals_are_drawn_by_their_weights():
    """Frequencies over many keys against softmax + floor, own left out, rows and columns."""
    anchor, clip, present, paired = batch(6, seed=3)
    scalars = {"temperature": jnp.float32(0.3)}
    floor, draws = 0.05, 4000
    plan = Plan(block=4, rivals=floor)

    def draw(key):
        found = contrast(plan, SCORES["cosine"], anchor, clip, present, paired, scalars, key)
        return found.hard_clip, found.hard_anchor

    found = jax.jit(jax.vmap(draw))(jax.random.split(KEY, draws))
    logits = np.asarray(SCORES["cosine"](anchor, clip, present), np.float64) / 0.3
    paired = np.asarray(paired)
    assert paired.sum() >= 4
    for chosen, matrix in zip(found, (logits, logits.T), strict=True):
        weight = np.where(paired[None, :], np.exp(matrix), 0.0)
        weight = weight / weight.sum(1, keepdims=True) + floor * paired[None, :]
        np.fill_diagonal(weight, 0.0)
        weight /= weight.sum(1, keepdims=True)
        for query in np.flatnonzero(paired):
            counts = np.bincount(np.asarray(chosen)[:, query], minlength=6) / draws
            np.testing.assert_allclose(counts, weight[query], atol=4 * np.sqrt(0.25 / draws))
        for query in np.flatnonzero(~paired):
            assert (np.asarray(chosen)[:, query] == query).all()


@pytest.mark.parametrize("size", [1, 3])
def test_nothing_to_compare_with_is_finite(size):
    anchor, clip, present, _ = batch(size)
    paired = jnp.arange(size) < 1
    if size == 3:
        paired = jnp.zeros(size, bool)
    plan = Plan(block=2, rivals=1e-4, smoothing=0.1)
    found, grads = jax.value_and_grad(
        lambda a: (lambda c: (c.total, c))(
            contrast(plan, SCORES["volume"], a, clip, present, paired, scalars_of("volume"), KEY)
        ),
        has_aux=True,
    )(anchor)
    assert np.isfinite(found[0])
    assert np.isfinite(grads).all()
    np.testing.assert_array_equal(found[1].hard_clip, np.arange(size))


def test_memory_does_not_grow_with_the_square_of_the_batch():
    """Temporaries of the compiled forward and backward pass, as XLA accounts for them."""

    def temporaries(size, block):
        spec = jax.ShapeDtypeStruct
        plan = Plan(block=block, smoothing=0.1, rivals=1e-4)
        arrays = (
            spec((size, 64), jnp.float32),
            spec((size, 3, 64), jnp.float32),
            spec((size, 3), jnp.bool_),
            spec((size,), jnp.bool_),
        )

        def total(anchor, clip, present, paired):
            out = contrast(
                plan, SCORES["volume"], anchor, clip, present, paired, scalars_of("volume"), KEY
            )
            return out.total, (out.hard_clip, out.hard_anchor)

        step = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))
        return step.lower(*arrays).compile().memory_analysis().temp_size_in_bytes

    small, large = temporaries(4096, 256), temporaries(16384, 256)
    assert large < 5 * small
    assert large < 16384 * 16384 * 4 / 10
