"""Schedules, groups and decay of the optimiser."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from weavejax.errors import UserError
from weavejax.runtime.optim import make_optimiser, schedule


def config(**changes):
    base = {"lr": 1.0, "warmup": 0.1, "schedule": "linear", "b1": 0.9, "b2": 0.98, "eps": 1e-6}
    base |= {"weight_decay": 0.0, "no_decay": "bias$", "clip": 0.0, "groups": ()}
    return ConfigDict(base | changes)


@pytest.mark.parametrize("name", ["linear", "cosine", "constant"])
def test_schedule_rises_to_the_peak_and_falls_to_zero(name):
    rate = schedule(config(schedule=name), 100)
    assert float(rate(0)) == pytest.approx(0.1)
    assert float(rate(9)) == pytest.approx(1.0)
    assert float(rate(99)) == pytest.approx(1.0 if name == "constant" else 0.0, abs=0.02)
    assert float(rate(100)) == pytest.approx(1.0 if name == "constant" else 0.0, abs=1e-6)


def test_an_unknown_schedule_and_a_long_warm_up_are_refused():
    with pytest.raises(UserError, match="'step' is none of linear"):
        schedule(config(schedule="step"), 10)
    with pytest.raises(UserError, match="warmup is 20 steps"):
        schedule(config(warmup=20), 10)


def test_one_step_equals_adamw_written_out():
    params = {"a/kernel": jnp.asarray([1.0, -2.0]), "a/bias": jnp.asarray([3.0])}
    grads = {"a/kernel": jnp.asarray([0.5, 0.1]), "a/bias": jnp.asarray([-0.2])}
    optimiser = make_optimiser(config(weight_decay=0.1, groups=(("bias", 0.5),)), 10, params)
    updates, _ = optimiser.update(grads, optimiser.init(params), params)
    new = optax.apply_updates(params, updates)
    rate = 1.0  # warm-up of a single step
    adam = {name: g / (np.abs(g) + 1e-6) for name, g in grads.items()}
    kernel = params["a/kernel"] - rate * (adam["a/kernel"] + 0.1 * params["a/kernel"])
    np.testing.assert_allclose(new["a/kernel"], kernel, rtol=1e-5)
    # half the rate by its group, and no decay by its name
    np.testing.assert_allclose(new["a/bias"], params["a/bias"] - 0.5 * adam["a/bias"], rtol=1e-5)


def test_clipping_scales_to_the_largest_norm():
    params = {"w": jnp.zeros(2)}
    optimiser = make_optimiser(config(clip=1.0), 10, params)
    state = optimiser.init(params)
    _, state = optimiser.update({"w": jnp.asarray([30.0, 40.0])}, state, params)
    moment = next(
        s for s in jax.tree.leaves(state, is_leaf=lambda s: hasattr(s, "mu")) if hasattr(s, "mu")
    )
    np.testing.assert_allclose(moment.mu["w"], 0.1 * np.array([0.6, 0.8]), rtol=1e-5)


def test_a_group_that_matches_nothing_is_refused():
    with pytest.raises(UserError, match="'visual' matches no trainable"):
        make_optimiser(config(groups=(("visual", 0.1),)), 10, {"w": jnp.zeros(2)})
