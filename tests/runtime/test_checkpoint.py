"""Checkpoints: exact, strict, the newest n and the best."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from weavejax.errors import UserError
from weavejax.runtime.checkpoint import Checkpoints
from weavejax.runtime.guard import fresh
from weavejax.runtime.mesh import make_mesh
from weavejax.runtime.step import State


def state(step=1, width=8, extra=False):
    mesh = make_mesh({"data": 4, "model": 2})
    key = jax.random.key(step)
    kernel = jax.device_put(
        jax.random.normal(key, (16, width)), NamedSharding(mesh, P("data", "model"))
    )
    params = {"a": {"kernel": kernel}} | ({"b": jnp.ones(3)} if extra else {})
    return State(jnp.int32(step), params, ({"mu": kernel * 2},), {}, fresh(4))


def abstract(like, sharding=None):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding), like
    )


def saved(directory, *states, keep=3, headlines=None):
    checkpoints = Checkpoints(directory, keep=keep)
    for number, item in enumerate(states):
        checkpoints.save(item)
        if headlines and headlines[number] is not None:
            checkpoints.score(int(item.step), headlines[number])
    checkpoints.close()
    return Checkpoints(directory, keep=keep)


def test_a_state_comes_back_bit_for_bit_where_it_belongs(tmp_path):
    original = state(7)
    checkpoints = saved(tmp_path, original)
    found = checkpoints.restore(abstract(original), 7)
    checkpoints.close()
    assert jax.tree.structure(found) == jax.tree.structure(original)
    for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(original), strict=True):
        np.testing.assert_array_equal(got, want)
        assert got.sharding.is_equivalent_to(want.sharding, got.ndim)


def test_it_restores_onto_another_mesh(tmp_path):
    checkpoints = saved(tmp_path, state(1))
    other = make_mesh({"data": 2, "model": 1}, jax.devices()[:2])
    wanted = abstract(state(1), NamedSharding(other, P()))
    found = checkpoints.restore(wanted, 1)
    checkpoints.close()
    np.testing.assert_array_equal(found.params["a"]["kernel"], state(1).params["a"]["kernel"])
    assert len(found.params["a"]["kernel"].sharding.device_set) == 2


def test_what_does_not_fit_is_listed_at_once(tmp_path):
    checkpoints = saved(tmp_path, state(1, extra=True))
    with pytest.raises(UserError) as error:
        checkpoints.restore(abstract(state(1, width=4)), 1)
    checkpoints.close()
    text = str(error.value)
    assert "params/b is left over" in text
    assert "params/a/kernel is (16, 8), needed (16, 4)" in text
    assert "optimiser/0/mu is (16, 8), needed (16, 4)" in text


def test_missing_leaves_and_steps_are_named(tmp_path):
    checkpoints = saved(tmp_path, state(1))
    with pytest.raises(UserError, match="params/b is missing"):
        checkpoints.restore(abstract(state(1, extra=True)), 1)
    with pytest.raises(UserError, match=r"no checkpoint of step 5; it has \[1\]"):
        checkpoints.restore(abstract(state(1)), 5)
    checkpoints.close()


def test_the_newest_and_the_best_are_kept(tmp_path):
    states = [state(step) for step in (1, 2, 3, 4, 5)]
    checkpoints = saved(tmp_path, *states, keep=2, headlines=[1.0, 9.0, 3.0, None, 2.0])
    assert checkpoints.steps() == [2, 4, 5]
    assert checkpoints.best_step() == 2
    checkpoints.close()


def test_a_save_is_not_changed_by_the_next_donated_step(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=3)
    current = state(1)
    before = np.array(current.params["a"]["kernel"])
    checkpoints.save(current)
    bump = jax.jit(lambda s: jax.tree.map(lambda x: x + jnp.ones((), x.dtype), s), donate_argnums=0)
    for _ in range(5):
        current = bump(current)
    jax.block_until_ready(current)
    checkpoints.close()
    again = Checkpoints(tmp_path, keep=3)
    found = again.restore(abstract(state(1)), 1)
    again.close()
    np.testing.assert_array_equal(found.params["a"]["kernel"], before)


def test_what_a_pattern_names_need_not_fit(tmp_path, capsys):
    checkpoints = saved(tmp_path, state(1, extra=True))
    fresh_state = state(9, width=4)
    patterns = ("a/kernel", "optimiser/0/mu")
    with pytest.raises(UserError, match="params/b is left over") as error:
        checkpoints.restore(fresh_state, 1, partial=patterns)
    assert "a/kernel" not in str(error.value)
    found = checkpoints.restore(fresh_state, 1, partial=(*patterns, "^params/b$"))
    checkpoints.close()
    assert int(found.step) == 1  # fits, so it is restored
    np.testing.assert_array_equal(found.params["a"]["kernel"], fresh_state.params["a"]["kernel"])
    assert "taken in part: " in capsys.readouterr().err
