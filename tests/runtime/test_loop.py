"""The loop: stopped in the middle of a row, a run goes on with the same rows."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from weavejax.metrics.report import Report
from weavejax.runtime.loop import Every, Window, train_loop
from weavejax.runtime.mesh import batch_sharding, make_mesh, put_batch
from weavejax.runtime.step import WISHES, abstract_inputs, lay_out, make_train_step, wishes_sharding
from weavejax.systems.base import System
from weavejax.testing import tiny_gram

STEPS = 10


def line(params, batch, key, step):
    error = jnp.square(batch["x"] @ params["line"]["kernel"] - 1.0)
    return error.mean(), {"loss": (error.sum(), jnp.float32(error.size))}


SYSTEM = System(
    name="line",
    batch_spec={"x": jax.ShapeDtypeStruct((8, 4), jnp.float32)},
    init=lambda key: {"line": {"kernel": jax.random.normal(key, (4, 3))}},
    loss=line,
    embed=lambda params, batch: {},
    rules=((r"line/kernel$", ()),),
    evaluators={"none": lambda out: Report()},
    flops={"line": 1.0},
    headline="none",
)


class Hooks:
    """Notes what happens; wishes what `wishes[step]` names; an evaluation may be broken off."""

    def __init__(self, mesh, wishes=None, broken_off=()):
        self.mesh, self.wishes, self.broken_off = mesh, wishes or {}, set(broken_off)
        self.rows, self.evaluations, self.saved, self.known = [], [], [], set()

    def before(self, step, batch):
        row = np.zeros((self.mesh.size, len(WISHES)), np.int32)
        for wish in self.wishes.get(step, ()):
            row[0, WISHES.index(wish)] = 1  # one process of many
        wishes = jax.device_put(row, wishes_sharding(self.mesh))
        return put_batch(batch, batch_sharding(self.mesh)), wishes

    def after(self, step, told):
        assert told.accepted

    def first(self):
        pass

    def log(self, step, metrics, timing):
        self.rows.append((step, metrics))

    def evaluated(self, step):
        return step in self.known

    def evaluate(self, state):
        if int(state.step) in self.broken_off:
            return False
        self.evaluations.append(int(state.step))
        return True

    def save(self, state, window, timing):
        self.saved.append((jax.tree.map(np.array, state), json.loads(json.dumps(window))))


@pytest.fixture(scope="module")
def trainer():
    """(mesh, layout, train step)."""
    config = tiny_gram()
    config.steps = STEPS
    mesh = make_mesh({"data": 4}, jax.devices()[:4])
    layout = lay_out(SYSTEM, config, mesh)
    return mesh, layout, make_train_step(SYSTEM, layout, mesh, config)


def test_runs_of_other_seeds_are_the_same_program(trainer):
    """So a sweep compiles a setting once, whatever the number of its seeds."""
    mesh, layout, step = trainer
    config = tiny_gram(seed=1)
    config.steps = STEPS
    other = make_train_step(SYSTEM, layout, mesh, config)
    assert (other.key != step.key).any()
    inputs = abstract_inputs(SYSTEM, layout, mesh)
    assert other.lower(*inputs).as_text() == step.lower(*inputs).as_text()


def batches(start):
    for step in range(start, STEPS):
        rng = np.random.default_rng(step)
        yield {"x": rng.normal(size=(8, 4)).astype(np.float32)}


def run(trainer, hooks, state=None, window=None, every=(4, 5, 0)):
    _, layout, step = trainer
    state = layout.init(jax.random.key(0)) if state is None else state
    start = int(state.step)
    return train_loop(state, step, batches(start), Every(*every, STEPS), hooks, window or Window())


def test_stopped_at_any_step_the_rows_are_those_of_an_uninterrupted_run(trainer):
    whole = Hooks(trainer[0])
    run(trainer, whole)
    assert [step for step, _ in whole.rows] == [4, 5, 8, 10]
    for asked in range(1, STEPS - 1):
        first = Hooks(trainer[0], {asked: ("stop",)})
        state, _, stopped = run(trainer, first)
        assert stopped
        assert asked <= int(state.step) <= asked + 1
        saved, window = first.saved[-1]
        second = Hooks(trainer[0])
        second.known = set(first.evaluations)
        placed = jax.device_put(saved, trainer[1].placed)
        _, _, stopped = run(trainer, second, placed, Window.from_json(window))
        assert not stopped
        assert [*first.rows, *second.rows] == whole.rows
        assert [*first.evaluations, *second.evaluations] == whole.evaluations


def test_an_evaluation_that_is_broken_off_is_made_when_the_run_goes_on(trainer):
    first = Hooks(trainer[0], broken_off={5})
    state, _, stopped = run(trainer, first)
    assert stopped
    assert int(state.step) == 5
    assert len(first.saved) == 1
    second = Hooks(trainer[0])
    run(trainer, second, state)
    assert second.evaluations == [5, 10]


def test_a_save_out_of_turn_waits_for_one_that_is_under_way(trainer):
    def saves(*wishes):
        hooks = Hooks(trainer[0], {2: wishes})
        run(trainer, hooks)
        return [int(state.step) for state, _ in hooks.saved]

    assert saves() == [STEPS]
    assert saves("save") == [3, STEPS]
    assert saves("save", "saving") == [STEPS]
