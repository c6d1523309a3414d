"""Pinning the batch: what the partitioner then gathers are parameters, not activations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from weavejax import systems
from weavejax.ops.placement import on_mesh, split_batch
from weavejax.planning import hlo
from weavejax.runtime.mesh import batch_sharding, make_mesh, replicated
from weavejax.runtime.step import abstract_inputs, lay_out, make_train_step
from weavejax.testing import tiny_gram

DATA = 4


@pytest.fixture(scope="module")
def mesh():
    return make_mesh({"replica": 1, "data": DATA, "model": 2})


def test_no_device_of_a_train_step_gets_the_whole_batch(mesh):
    """Left to itself the partitioner keeps parameters and all-reduces whole-batch activations."""
    config = tiny_gram(batch=32)
    for tower in ("vision", "audio", "text"):
        config.model[tower].update({"scan": True, "remat": "full", "layers": 2})
    system = systems.build(config)
    layout = lay_out(system, config, mesh)
    step = make_train_step(system, layout, mesh, config)
    text = step.lower(*abstract_inputs(system, layout, mesh)).compile().as_text()
    found = [
        one.size
        for one in hlo.read(text, mesh.size).collectives
        if one.times == 2 and one.group == DATA  # in the towers, along the axis of FSDP
    ]
    tokens = 1 + (config.inputs.size // config.model.vision.patch) ** 2
    frames = config.batch * config.inputs.frames
    assert found
    assert max(found) < frames * tokens * config.model.vision.width * 4


def test_a_pinned_array_keeps_its_values(mesh):
    x = jax.random.normal(jax.random.key(0), (8, 3, 2))
    double = on_mesh(lambda x: split_batch(2.0 * x), mesh)
    pinned = jax.jit(double, in_shardings=replicated(mesh))(x)
    np.testing.assert_array_equal(pinned, 2.0 * x)
    assert pinned.sharding.is_equivalent_to(batch_sharding(mesh), x.ndim)


def test_without_a_mesh_or_with_an_odd_batch_nothing_happens(mesh):
    x = jnp.ones((3, 2))
    assert split_batch(x) is x
    assert on_mesh(split_batch, mesh)(x) is x
