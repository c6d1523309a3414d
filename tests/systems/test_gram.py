"""GRAM: the contract, the loss as published, learning, and any mesh equal to one device."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from initialised import initial

from weavejax import systems
from weavejax.errors import UserError
from weavejax.runtime import tree
from weavejax.runtime.mesh import batch_sharding, make_mesh, put_batch
from weavejax.runtime.sharding import device_bytes, shardings
from weavejax.runtime.step import lay_out, make_train_step
from weavejax.systems.base import under
from weavejax.systems.contrasting import blend
from weavejax.testing import fake_batch, no_wishes, tiny_gram


@pytest.fixture(scope="module")
def gram():
    system = systems.build(tiny_gram())
    return system, initial(system)


def changed(**changes):
    config = tiny_gram()
    for path, value in changes.items():
        section, key = path.split("__")
        config[section][key] = value
    return config


def literal_loss(vectors, temperature, smoothing):
    """GRAM's published loss, read literally in float64: determinants pair by pair."""
    text, video, audio = (np.float64(vectors[n]) for n in ("text", "video", "audio"))
    size = len(text)
    volume = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            stack = np.stack([text[i], video[j], audio[j]])
            volume[i, j] = np.sqrt(abs(np.linalg.det(stack @ stack.T)))
    logits = -volume / temperature
    target = (1 - smoothing) * np.eye(size) + smoothing / size
    rows = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    columns = logits - np.log(np.exp(logits).sum(0, keepdims=True))
    return -0.5 * ((target * rows).sum(1).mean() + (target * columns).sum(0).mean())


@pytest.mark.parametrize("gradient", ["full", "half"])
def test_the_loss_is_the_published_one(gram, gradient):
    system = systems.build(changed(loss__warmup_steps=0, loss__gradient=gradient))
    params = gram[1]
    batch = fake_batch(system.batch_spec)
    loss, metrics = jax.jit(system.loss)(params, batch, jax.random.key(1), jnp.int32(0))
    want = literal_loss(jax.jit(gram[0].embed)(params, batch), 0.07, 0.1)
    np.testing.assert_allclose(loss, want, rtol=2e-6)
    total, count = metrics["loss"]
    np.testing.assert_allclose(total / count, want, rtol=2e-6)


def test_the_half_gradient_is_that_of_stopped_features(gram):
    """Text learns from text → clip only, the clip from clip → text only."""
    params = gram[1]
    batch = fake_batch(gram[0].batch_spec)
    grads = {}
    for kind in ("full", "half"):
        system = systems.build(changed(loss__warmup_steps=0, loss__gradient=kind))
        loss = jax.jit(
            jax.grad(lambda p, s=system: s.loss(p, batch, jax.random.key(1), jnp.int32(9))[0])
        )
        grads[kind] = loss(params)
    norms = {
        kind: [np.linalg.norm(g["head"][n]["kernel"]) for n in ("text", "video")]
        for kind, g in grads.items()
    }
    for full, half in zip(norms["full"], norms["half"], strict=True):
        assert 0.3 * full < half < 0.8 * full


def test_embeddings_are_unit_vectors_and_blind_to_the_rest_of_the_batch(gram):
    system, params = gram
    batch = fake_batch(system.batch_spec)
    embed = jax.jit(system.embed)
    vectors = embed(params, batch)
    alone = embed(params, {n: x[2:3] for n, x in batch.items()})
    for name in ("text", "video", "audio"):
        np.testing.assert_allclose(np.linalg.norm(vectors[name], axis=-1), 1.0, rtol=1e-5)
        np.testing.assert_allclose(alone[name][0], vectors[name][2], atol=2e-6)


def test_missing_modalities_do_not_touch_loss_or_gradient(gram):
    system, params = gram
    batch = fake_batch(system.batch_spec, missing=0.4)
    batch["video_mask"][1] = batch["audio_mask"][1] = False
    garbage = {n: x.copy() for n, x in batch.items()}
    garbage["video"][~batch["video_mask"]] = 7
    garbage["audio"][~batch["audio_mask"]] = -50.0
    loss = jax.jit(
        jax.value_and_grad(lambda p, b: system.loss(p, b, jax.random.key(0), jnp.int32(2))[0])
    )
    (clean, clean_grads), (dirty, dirty_grads) = loss(params, batch), loss(params, garbage)
    np.testing.assert_allclose(clean, dirty, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(clean_grads), jax.tree.leaves(dirty_grads), strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


def test_subtitles_join_the_volume_with_the_text_encoder(gram):
    system = systems.build(changed(inputs__subtitle_length=6))
    params = initial(system)
    batch = fake_batch(system.batch_spec)
    loss, _ = system.loss(params, batch, jax.random.key(0), jnp.int32(0))
    without = dict(batch, subtitle_mask=np.zeros(8, bool))
    other, _ = system.loss(params, without, jax.random.key(0), jnp.int32(0))
    assert np.isfinite(loss)
    assert loss != other
    assert system.headline == "retrieval/volume/text→video+audio+subtitle/R@1"


def test_the_blend_falls_from_one_to_its_floor():
    loss = tiny_gram().loss
    values = [float(blend(loss, jnp.int32(step))) for step in (0, 2, 4, 100)]
    assert values == [1.0, 0.5, 0.0, 0.0]
    loss.mix = 0.25
    assert float(blend(loss, jnp.int32(100))) == 0.25
    loss.warmup_steps = 0
    assert float(blend(loss, jnp.int32(0))) == 0.25


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"loss__score": "volum"}, "loss.score 'volum' is none of blended_volume, "),
        ({"loss__gradient": "third"}, "is none of full, half"),
        ({"model__fusion": True}, "model.fusion needs the cross-attention"),
    ],
)
def test_impossible_configs_are_refused_before_anything_compiles(change, words):
    with pytest.raises(UserError, match=words):
        systems.build(changed(**change))
    with pytest.raises(UserError, match=r"is none of envelope, .*gram"):
        systems.build(tiny_gram(system="grma"))


def trainer(config, mesh):
    system = systems.build(config)
    layout = lay_out(system, config, mesh)
    step = make_train_step(system, layout, mesh, config)
    wishes = no_wishes(mesh)
    return system, layout.init(jax.random.key(0)), lambda state, batch: step(state, batch, wishes)


def test_a_memorised_batch_is_learnt():
    config = changed(loss__warmup_steps=15, optim__lr=3e-3)
    config.steps = 40
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    system, state, step = trainer(config, mesh)
    batch = put_batch(fake_batch(system.batch_spec), batch_sharding(mesh))
    for number in range(config.steps):
        state, metrics, _ = step(state, batch)
        if number == 0:
            first = float(metrics["loss/volume"][0] / metrics["loss/volume"][1])
    last = float(metrics["loss/volume"][0] / metrics["loss/volume"][1])
    assert int(state.step) == config.steps
    assert last < 0.6 * first
    assert float(metrics["batch R@1"][0] / metrics["batch R@1"][1]) == 100.0


def test_the_average_follows_the_parameters_slowly():
    config = changed(optim__average=0.9)
    system, state, step = trainer(config, make_mesh({"data": 1}, jax.devices()[:1]))
    start = {path: np.array(x) for path, x in state.average.items()}
    state, _, _ = step(state, fake_batch(system.batch_spec))
    for path, leaf in tree.flatten(state.params).items():
        want = 0.9 * start[path] + 0.1 * np.array(leaf)
        np.testing.assert_allclose(state.average[path], want, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("data", "model"), [(8, 1), (4, 2), (2, 4)])
def test_any_mesh_gives_the_losses_and_gradients_of_one_device(gram, data, model):
    system, params = gram
    batch = fake_batch(system.batch_spec, missing=0.2)
    loss = jax.value_and_grad(lambda p, b: system.loss(p, b, jax.random.key(0), jnp.int32(2))[0])
    one, one_grads = jax.jit(loss)(params, batch)
    mesh = make_mesh({"data": data, "model": model})
    placed = shardings(params, mesh, system.rules)
    many, many_grads = jax.jit(
        loss, in_shardings=(placed, batch_sharding(mesh)), out_shardings=(None, placed)
    )(jax.device_put(params, placed), put_batch(batch, batch_sharding(mesh)))
    np.testing.assert_allclose(one, many, rtol=1e-5)
    scale = max(float(np.abs(g).max()) for g in jax.tree.leaves(one_grads))
    for (path, a), b in zip(
        tree.flatten(one_grads).items(), jax.tree.leaves(many_grads), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * scale, err_msg=path)
    kernels = {p: x for p, x in tree.flatten(params).items() if p.endswith("fc1/kernel")}
    spread = {p: s for p, s in tree.flatten(placed).items() if p in kernels}
    whole = sum(x.nbytes for x in kernels.values())
    assert device_bytes(kernels, spread) == whole // 8
    assert device_bytes(params, placed) < 0.45 * sum(x.nbytes for x in jax.tree.leaves(params))


@jax.numpy_dtype_promotion("standard")  # bfloat16 weights meet float32 activations
def test_a_frozen_tower_is_bf16_without_moments_and_does_not_move():
    config = tiny_gram()
    system = dataclasses.replace(
        systems.build(config), frozen=lambda path: path.startswith("vision/")
    )
    mesh = make_mesh({"data": 2}, jax.devices()[:2])
    layout = lay_out(system, config, mesh)
    state = layout.init(jax.random.key(0))
    assert {str(x.dtype) for x in jax.tree.leaves(state.params["vision"])} == {"bfloat16"}
    assert not any("vision" in path for path in tree.flatten(state.optimiser))
    step = make_train_step(system, layout, mesh, config)
    before = tree.flatten(jax.tree.map(np.array, state.params))
    after, _, _ = step(state, fake_batch(system.batch_spec), no_wishes(mesh))
    moved = {
        path
        for path, x in tree.flatten(after.params).items()
        if not np.array_equal(x, before[path])
    }
    assert not any(path.startswith("vision/") for path in moved)
    assert {"temperature", "head/video/kernel", "text/word/embedding"} <= moved


def test_the_matching_path_has_parameters_and_a_place_for_each():
    text = {"cross_attention": True, "cond_width": 16}
    config = changed(model__fusion=True, inputs__subtitle_length=6)
    config.model.text.update(text)
    with_path = systems.build(config)
    shapes = jax.eval_shape(with_path.init, jax.random.key(0))
    assert set(shapes["fusion"]) == {"video", "audio", "subtitle"}
    assert shapes["fusion"]["video"]["frames"].shape == (2, 16)
    assert shapes["match"]["dense2"]["kernel"].shape == (16, 2)
    shardings(shapes, make_mesh({"data": 8}), with_path.rules)  # no rule missing, none idle
    config.model.fusion = False
    without = jax.eval_shape(systems.build(config).init, jax.random.key(0))
    assert {"fusion", "match"} == set(shapes) - set(without)


def test_rules_of_a_part_are_moved_below_its_prefix():
    moved = under("audio", ((r"^patch/kernel$", ("data",)), (r"fc1/kernel$", ())))
    assert moved[0][0] == "^audio/patch/kernel$"
    assert moved[1][0] == "^audio/.*fc1/kernel$"


def test_flops_grow_as_counted(gram):
    system = gram[0]
    assert set(system.flops) == {"vision", "audio", "text"}
    double = systems.build(changed(inputs__frames=4))
    assert double.flops["vision"] == 2 * system.flops["vision"]
