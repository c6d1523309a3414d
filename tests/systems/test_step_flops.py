"""What a training step is counted to cost, against what XLA counts of its gradient."""

import jax
import pytest
from test_folai import tiny

from weavejax import systems
from weavejax.planning.flops import step_flops
from weavejax.runtime import tree
from weavejax.runtime.step import split
from weavejax.testing import fake_batch

WIDE = {
    **{"width": 128, "layers": 4, "heads": 4, "kv_heads": 2, "mlp": 384, "cross_width": 96},
    **{"features": 64, "rotary": 16, "scan": False},
}


def wide(variant="smoke", remat="none", **changes):
    config = tiny(variant, inputs__kind="latents", model__flip=False, **changes)
    config.model.train_towers = False
    config.model.dit.update({**WIDE, "remat": remat})
    return config


def counted(config):
    system = systems.build(config)
    return step_flops(system, config, jax.eval_shape(system.init, jax.random.key(0)))


def compiled(config):
    """XLA's count of loss and gradient with regard to what is trained."""
    system = systems.build(config)
    params = jax.eval_shape(system.init, jax.random.key(0))
    trained, rest = split(params, system.frozen)

    def loss(trained, rest, batch, key):
        return system.loss(tree.unflatten({**rest, **trained}), batch, key, 0)[0]

    arguments = (trained, rest, fake_batch(system.train_spec), jax.random.key(0))
    return jax.jit(jax.grad(loss)).lower(*arguments).cost_analysis()["flops"]


@pytest.mark.parametrize("variant", ["smoke", "smoke-base"])
def test_a_step_costs_what_xla_counts(variant):
    config = wide(variant)
    flops = counted(config)
    assert 0.9 < compiled(config) / flops["step"] < 1.15
    assert flops["recomputation"] == 0


def test_gradients_pass_through_the_frozen_base():
    flops = counted(wide())
    assert flops["passed parts"] == ["dit"]
    dit, control = (flops["forward by part"][part] for part in ("dit", "control"))
    assert flops["step"] == 2 * dit + 3 * control
    base = counted(wide("smoke-base"))
    assert base["passed parts"] == []
    assert base["step"] == 3 * base["forward"]


def test_a_copy_recomputes_what_its_original_does():
    flops = counted(wide(remat="full"))
    assert flops["recomputation"] == flops["forward"]


def test_adapted_networks_are_trained():
    config = wide("smoke-base")
    config.lora = {"rank": 2, "alpha": 2.0, "on": r"^dit/.*kernel$", "train": "^$"}
    flops = counted(config)
    assert "dit" not in flops["frozen parts"]
    assert flops["step"] == 3 * flops["forward"]
