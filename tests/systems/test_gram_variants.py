"""GRAM with every objective, anchor, view, imputation and the matching path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from initialised import initial

from weavejax import systems
from weavejax.errors import UserError
from weavejax.losses import SCORES
from weavejax.losses.streamed import Plan, contrast
from weavejax.ops.placement import on_mesh
from weavejax.runtime.mesh import batch_sharding, make_mesh, put_batch
from weavejax.runtime.sharding import shardings
from weavejax.systems.contrasting import _random_subset
from weavejax.testing import fake_batch, tiny_gram

KEY = jax.random.key(1)


def built(path=False, **loss):
    config = tiny_gram()
    config.loss.update({"warmup_steps": 0, **loss})
    config.inputs.subtitle_length = 6
    if path:
        config.model.fusion = True
        config.model.text.update({"cross_attention": True, "cond_width": 16})
        config.loss.update({"matching": 0.1, "candidates": 3})
    return systems.build(config)


def value_and_grad(system, batch, step=9):
    params = initial(system)
    run = jax.jit(jax.value_and_grad(system.loss, has_aux=True))
    (loss, metrics), grads = run(params, batch, KEY, jnp.int32(step))
    assert np.isfinite(loss)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    return float(loss), metrics, grads


@pytest.mark.parametrize(
    "loss",
    [
        {"objective": "sigmoid", "score": "cosine"},
        {"objective": "pmrl"},
        {"anchor": "each"},
        {"views": "subsets"},
        {"views": "random", "missing": "ppca"},
        {"score": "fused_cosine"},
        {"score": "hybrid"},
        {"score": "blended_volume", "missing": "mean"},
    ],
    ids=lambda loss: "-".join(map(str, loss.values())),
)
def test_every_choice_trains_what_it_has(loss):
    system = built(**loss)
    batch = fake_batch(system.batch_spec, missing=0.4)
    _, metrics, grads = value_and_grad(system, batch)
    assert np.isfinite(metrics["loss"][0])
    for name, head in grads["head"].items():
        if name == "fused":  # each is trained by the clips that have exactly its modalities
            assert any(np.abs(part["bias"]).max() > 0 for part in head.values())
        elif loss.get("score") != "fused_cosine" or name == "text":
            assert np.abs(head["kernel"]).max() > 0, name
    for name, grad in grads.get("score", {}).items():
        assert np.abs(grad) > 0, name
    if "bias" in grads:
        assert np.abs(grads["bias"]) > 0


def test_the_whole_view_of_text_is_the_streamed_contrast():
    system = built(gradient="half")
    batch = fake_batch(system.batch_spec, missing=0.3)
    params = initial(system)
    loss, _ = system.loss(params, batch, KEY, jnp.int32(0))
    vectors = system.embed(params, batch)
    names = ("video", "audio", "subtitle")
    clip = jnp.stack([vectors[n] for n in names], 1)
    present = jnp.stack([vectors[f"{n}_mask"] for n in names], 1)
    paired = present.any(1) & vectors["text_mask"]
    scalars = {"temperature": params["temperature"]}
    want = contrast(
        Plan(smoothing=0.1),
        SCORES["volume"],
        vectors["text"],
        clip,
        present,
        paired,
        scalars,
        KEY,
    )
    np.testing.assert_allclose(loss, want.total / want.pairs, rtol=1e-5)


def test_dropping_leaves_incomplete_clips_out():
    """Their content has no influence."""
    system = built(missing="drop")
    batch = fake_batch(system.batch_spec, missing=0.3)
    incomplete = ~(batch["video_mask"] & batch["audio_mask"] & batch["subtitle_mask"])
    assert 0 < incomplete.sum() < 7
    other = {n: x.copy() for n, x in batch.items()}
    other["text"][incomplete] = 1
    params = initial(system)
    one, two = (system.loss(params, b, KEY, jnp.int32(0))[0] for b in (batch, other))
    np.testing.assert_allclose(one, two, rtol=1e-6)


def test_a_fused_vector_is_that_of_the_modalities_a_clip_has():
    system = built(score="fused_cosine")
    batch = fake_batch(system.batch_spec)
    batch["audio_mask"][0] = batch["subtitle_mask"][0] = batch["subtitle_mask"][1] = False
    vectors = jax.jit(system.embed)(initial(system), batch)
    whole, pair = vectors["fused:video+audio+subtitle"], vectors["fused:video+audio"]
    np.testing.assert_array_equal(whole[0], vectors["video"][0])
    np.testing.assert_array_equal(whole[1], pair[1])
    assert np.abs(whole[2] - pair[2]).max() > 1e-3


def test_random_views_are_subsets_of_all_sizes():
    present = jnp.asarray(np.random.default_rng(0).random((400, 3)) < 0.8)
    seen = np.asarray(_random_subset(present, KEY))
    assert not (seen & ~np.asarray(present)).any()
    np.testing.assert_array_equal(seen.any(1), np.asarray(present).any(1))
    sizes = np.bincount(seen.sum(1)[np.asarray(present).all(1)], minlength=4)
    assert (sizes[1:] > 0.2 * sizes.sum()).all()


def test_matching_judges_three_rows_a_pair_and_trains_the_path():
    system = built(path=True)
    batch = fake_batch(system.batch_spec, missing=0.3)
    loss, metrics, grads = value_and_grad(system, batch)
    alone, without, _ = value_and_grad(built(), batch)
    rows, count = metrics["loss/matching"]
    paired = batch["video_mask"] | batch["audio_mask"]
    assert 2 * paired.sum() <= float(count) <= 3 * paired.sum()
    np.testing.assert_allclose(without["loss"][0], metrics["loss"][0], rtol=1e-5)
    np.testing.assert_allclose(loss, alone + 0.1 * rows / count, rtol=1e-5)
    for part in ("fusion/video/dense", "fusion/audio/dense", "match/dense1", "match/dense2"):
        first, *rest = part.split("/")
        leaf = grads[first]
        for name in rest:
            leaf = leaf[name]
        assert np.abs(leaf["kernel"]).max() > 0, part
    cross = grads["text"]["blocks_0"]["cross_attention"]["value"]["kernel"]
    assert np.abs(cross).max() > 0


def test_matching_does_not_look_at_what_is_absent():
    system = built(path=True)
    batch = fake_batch(system.batch_spec, missing=0.4)
    garbage = {n: x.copy() for n, x in batch.items()}
    garbage["video"][~batch["video_mask"]] = 7
    garbage["audio"][~batch["audio_mask"]] = -50.0
    params = initial(system)
    one, two = (system.loss(params, b, KEY, jnp.int32(0))[0] for b in (batch, garbage))
    np.testing.assert_allclose(one, two, rtol=1e-5)


def test_on_a_mesh_the_matching_loss_and_its_gradients_are_those_of_one_device():
    system = built(path=True)
    batch = fake_batch(system.batch_spec, missing=0.3)
    params = initial(system)
    mesh = make_mesh({"replica": 2, "data": 2, "model": 2})
    placed = shardings(params, mesh, system.rules)
    grad = jax.value_and_grad(lambda p, b: system.loss(p, b, KEY, jnp.int32(9))[0])
    want, want_grads = jax.jit(grad)(params, batch)
    spread = jax.jit(
        on_mesh(grad, mesh), in_shardings=(placed, batch_sharding(mesh)), out_shardings=None
    )
    got, got_grads = spread(jax.device_put(params, placed), put_batch(batch, batch_sharding(mesh)))
    np.testing.assert_allclose(got, want, rtol=1e-5)
    for (path, a), b in zip(
        jax.tree.leaves_with_path(got_grads), jax.tree.leaves(want_grads), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5, err_msg=str(path))


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        ({"matching": 0.1}, "set model.fusion"),
        ({"objective": "hinge"}, "softmax, sigmoid, pmrl"),
        ({"score": "fused_cosine", "anchor": "each"}, "sees a vector fused of all"),
        ({"condition": ("depth",)}, "depth"),
    ],
)
def test_what_does_not_go_together_is_said(loss, words):
    with pytest.raises(UserError, match=words):
        built(**loss)
