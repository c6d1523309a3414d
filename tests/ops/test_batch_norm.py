"""Batch norm as PyTorch's; its running statistics follow the batches in the one train step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from weavejax.ops.batch_norm import BatchNorm, follows
from weavejax.runtime import tree
from weavejax.runtime.mesh import make_mesh
from weavejax.runtime.step import lay_out, make_train_step
from weavejax.systems.base import System
from weavejax.testing import no_wishes, tiny_gram

X = jnp.asarray(np.random.default_rng(0).normal(2.0, 3.0, (8, 5, 4)).astype(np.float32))


def apply(params, x, deterministic):
    return BatchNorm(jnp.float32, deterministic).apply({"params": params}, x)


def fresh():
    return BatchNorm(jnp.float32, deterministic=True).init(jax.random.key(0), X)["params"]


def test_a_batch_is_normalised_by_itself_or_by_what_is_remembered():
    params = fresh()
    y = apply(params, X, False)
    np.testing.assert_allclose(y.mean((0, 1)), 0.0, atol=1e-5)
    np.testing.assert_allclose(y.var((0, 1)), 1.0, rtol=1e-4)
    np.testing.assert_allclose(apply(params, X, True), X / np.sqrt(1 + 1e-5), rtol=1e-6)


def test_the_gradient_of_the_other_parameters_is_that_of_the_formula():
    def plain(x):
        centred = x - x.mean((0, 1), keepdims=True)
        return centred / jnp.sqrt(jnp.square(centred).mean((0, 1), keepdims=True) + 1e-5)

    weights = jnp.asarray(np.random.default_rng(1).normal(size=X.shape).astype(np.float32))
    wanted = jax.grad(lambda x: (weights * plain(x)).sum())(X)
    found = jax.grad(lambda x: (weights * apply(fresh(), x, False)).sum())(X)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_only_known_rows_make_the_statistics():
    def loss(params, x, known):
        y = BatchNorm(jnp.float32, deterministic=False).apply({"params": params}, x, known)
        return jnp.square(y[:4] - 3.0).sum()

    grad = jax.jit(jax.value_and_grad(loss))
    wanted, found = grad(fresh(), X[:4], None), grad(fresh(), X, jnp.arange(8) < 4)
    for a, b in zip(jax.tree.leaves(wanted), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)
    _, none = grad(fresh(), X, jnp.zeros(8, bool))
    assert not np.asarray(none["running_mean"]).any()
    assert not np.asarray(none["running_var"]).any()


def normed(frozen=False):
    """A system that is one batch norm, whose output should be 3."""

    def loss(params, batch, key, step):
        del key, step
        y = apply(params["norm"], batch["x"], False)
        return jnp.square(y - 3.0).mean(), {}

    return System(
        name="normed",
        batch_spec={"x": jax.ShapeDtypeStruct(X.shape, jnp.float32)},
        init=lambda key: {"norm": fresh()},
        loss=loss,
        embed=lambda params, batch: {},
        rules=((r"", ()),),
        evaluators={},
        flops={},
        headline="",
        frozen=(lambda path: "running" in path) if frozen else lambda path: False,
    )


@pytest.mark.parametrize("frozen", [False, True])
def test_statistics_follow_and_are_not_optimised(frozen):
    config, system = tiny_gram(), normed(frozen)
    config.optim.update({"warmup": 0, "weight_decay": 0.5, "clip": 1e-6, "no_decay": ""})
    mesh = make_mesh({"data": -1})  # of the global batch, over eight devices
    layout = lay_out(system, config, mesh)
    assert not [path for path in tree.flatten(layout.shapes.optimiser) if follows(path)]
    step = make_train_step(system, layout, mesh, config)
    state = layout.init(jax.random.key(0))
    for _ in range(2):
        state, metrics, _ = step(state, {"x": X}, no_wishes(mesh))
    found = jax.device_get(state.params["norm"])
    mean, variance = np.mean(X, (0, 1)), np.var(X, (0, 1), ddof=1)
    share = 0.0 if frozen else 1 - 0.9**2
    np.testing.assert_allclose(found["running_mean"], share * mean, rtol=1e-5)
    np.testing.assert_allclose(found["running_var"], share * variance + 1 - share, rtol=1e-5)
    assert found["bias"].mean() > 0.0
    assert metrics["gradient norm"][0] < 10.0  # of what is optimised alone
    bad = {"x": X.at[0, 0, 0].set(np.nan)}
    state, _, told = step(state, bad, no_wishes(mesh))
    assert not told.accepted
    np.testing.assert_array_equal(state.params["norm"]["running_mean"], found["running_mean"])
