"""Low-rank adapters: nothing changes at first, only they and what is named learn."""

import jax
import numpy as np
import pytest
from initialised import initial

from weavejax import systems
from weavejax.errors import UserError
from weavejax.runtime import tree
from weavejax.runtime.mesh import batch_sharding, make_mesh, put_batch
from weavejax.runtime.step import lay_out, make_train_step
from weavejax.testing import fake_batch, no_wishes, tiny_gram


def config(**lora):
    made = tiny_gram()
    made.lora.update({"rank": 2, "on": r"attention/(query|value)/kernel$", **lora})
    made.loss.warmup_steps = 0
    for tower in ("vision", "audio", "text"):
        made.model[tower].update({"scan": tower == "vision", "layers": 2})
    return made


def test_only_adapters_and_what_is_named_learn():
    made = config()
    system = systems.build(made)
    mesh = make_mesh({"data": 2, "model": 2}, jax.devices()[:4])
    layout = lay_out(system, made, mesh)
    state = layout.init(jax.random.key(0))
    before = {path: np.asarray(x) for path, x in tree.flatten(state.params).items()}
    assert before["lora/vision/blocks/attention/query/kernel/a"].shape == (2, 16, 2)
    assert all(path.startswith(("lora/", "head/")) for path in _moments(state))
    step = make_train_step(system, layout, mesh, made)
    batch = put_batch(fake_batch(system.batch_spec), batch_sharding(mesh))
    for _ in range(3):
        state, _, _ = step(state, batch, no_wishes(mesh))
    after = tree.flatten(state.params)
    moved = {path for path, x in after.items() if not np.array_equal(x, before[path])}
    assert moved == {path for path in before if path.startswith(("lora/", "head/"))}


def _moments(state):
    return [
        jax.tree_util.keystr(path).split("'")[1]
        for path, leaf in jax.tree.leaves_with_path(state.optimiser)
        if leaf.ndim
    ]


def test_at_first_the_adapted_system_is_the_system_and_then_the_sum():
    made = config()
    system, plain = systems.build(made), systems.build(config(rank=0))
    params = initial(system)
    base = {name: part for name, part in params.items() if name != "lora"}
    batch = fake_batch(system.batch_spec)
    for name, vector in plain.embed(base, batch).items():
        np.testing.assert_array_equal(system.embed(params, batch)[name], vector)
    leaves = tree.flatten(params)
    a, b = (f"lora/text/blocks_1/attention/value/kernel/{side}" for side in "ab")
    leaves[b] = jax.random.normal(jax.random.key(1), leaves[b].shape)
    kernel = "text/blocks_1/attention/value/kernel"
    summed = {**tree.flatten(base), kernel: leaves[kernel] + 8.0 * leaves[a] @ leaves[b]}
    want = plain.embed(tree.unflatten(summed), batch)["text"]
    got = system.embed(tree.unflatten(leaves), batch)["text"]
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert np.abs(got - plain.embed(base, batch)["text"]).max() > 1e-3


@pytest.mark.parametrize(("on", "words"), [("nothing", "no parameter"), ("bias$", "no matrix")])
def test_what_cannot_be_adapted_is_said(on, words):
    with pytest.raises(UserError, match=words):
        systems.build(config(on=on))


def test_the_base_is_frozen_and_the_adapters_are_not():
    system = systems.build(config())
    assert system.frozen("vision/blocks/attention/query/kernel")
    assert system.frozen("temperature")
    assert not system.frozen("lora/vision/blocks/attention/query/kernel/a")
    assert not system.frozen("head/text/kernel")
