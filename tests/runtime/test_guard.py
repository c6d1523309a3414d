"""A step that is not finite or far above the others changes nothing but its own count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from ml_collections import ConfigDict

from weavejax.errors import UserError
from weavejax.runtime import tree
from weavejax.runtime.guard import check_guard, fresh, judge
from weavejax.runtime.mesh import make_mesh
from weavejax.runtime.step import lay_out, make_train_step
from weavejax.testing import fake_batch, no_wishes, tiny_gram

CONFIG = ConfigDict({"window": 8, "warmup": 4, "sigmas": 6.0, "limit": 3})


def run(pairs, config=CONFIG):
    """Verdicts over (loss, norm) pairs, and the guard after them."""
    guard, verdicts = fresh(config.window), []
    step = jax.jit(lambda guard, loss, norm: judge(config, guard, loss, norm))
    for loss, norm in pairs:
        accepted, guard = step(guard, jnp.float32(loss), jnp.float32(norm))
        verdicts.append(bool(accepted))
    return verdicts, guard


def ordinary(count, seed=0):
    rng = np.random.default_rng(seed)
    losses = 2.0 + 0.1 * rng.normal(size=count)
    return list(zip(losses, np.exp(0.3 * rng.normal(size=count)), strict=True))


def test_ordinary_steps_pass():
    verdicts, guard = run(ordinary(100))
    assert all(verdicts)
    assert int(guard.accepted) == 100
    assert int(guard.refused) == 0


@pytest.mark.parametrize(
    "bad", [(np.nan, 1.0), (2.0, np.nan), (np.inf, 1.0), (2.0, np.inf), (9.0, 1.0), (2.0, 1e4)]
)
def test_a_bad_step_is_refused_and_forgotten(bad):
    verdicts, guard = run([*ordinary(10), bad, bad, *ordinary(5, seed=1)])
    assert verdicts == [True] * 10 + [False] * 2 + [True] * 5
    assert int(guard.refused) == 2
    assert int(guard.in_a_row) == 0
    straight = run([*ordinary(10), *ordinary(5, seed=1)])[1]
    for name in ("losses", "norms", "accepted"):
        np.testing.assert_array_equal(getattr(guard, name), getattr(straight, name))


def test_rows_of_bad_steps_are_counted():
    assert int(run([*ordinary(10), *[(np.nan, 1.0)] * 4])[1].in_a_row) == 4


def test_outliers_are_looked_for_only_after_the_warm_up_and_if_asked():
    early = [*ordinary(3), (50.0, 1e5)]
    assert all(run(early)[0])
    assert all(run([*ordinary(10), (50.0, 1e5)], ConfigDict({**CONFIG, "sigmas": 0.0}))[0])
    assert not all(run([*ordinary(10), (np.nan, 1.0)], ConfigDict({**CONFIG, "sigmas": 0.0}))[0])


def test_a_falling_loss_is_no_outlier():
    assert all(run([(10.0 * 0.9**n, 5.0 * 0.95**n) for n in range(60)])[0])


@pytest.mark.parametrize("change", [{"warmup": 9}, {"warmup": 0}, {"sigmas": -1.0}, {"limit": 0}])
def test_impossible_guards_are_refused(change):
    with pytest.raises(UserError, match="guard: needs"):
        check_guard(ConfigDict({**CONFIG, **change}))


def test_a_poisoned_batch_leaves_the_state_untouched_to_the_bit():
    config = tiny_gram()
    config.optim.average = 0.9
    system = toy.build(config)
    mesh = make_mesh({"data": 2, "model": 2}, jax.devices()[:4])
    layout = lay_out(system, config, mesh)
    step, wishes = make_train_step(system, layout, mesh, config), no_wishes(mesh)
    state, _, _ = step(layout.init(jax.random.key(0)), fake_batch(system.batch_spec), wishes)
    before = tree.flatten(jax.tree.map(np.array, state._asdict()))
    poisoned = fake_batch(system.batch_spec)
    poisoned["audio"][0] = np.nan
    state, metrics, told = step(state, poisoned, wishes)
    assert not bool(told.accepted)
    assert int(told.in_a_row) == 1
    after = tree.flatten(jax.tree.map(np.array, state._asdict()))
    changed = {path for path in before if not np.array_equal(before[path], after[path], True)}
    assert changed == {"step", "guard/refused", "guard/in_a_row"}
    weights = {name: float(weight) for name, (_, weight) in metrics.items()}
    assert weights.pop("refused steps %") == 1.0
    assert not any(weights.values())
    assert all(np.isfinite(float(total)) for total, _ in metrics.values())
