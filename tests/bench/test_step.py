"""The train step alone, on a made-up batch: examples/s and GFLOP/s.

pytest tests/bench/test_step.py -m bench -n 0 -s
"""

import time

import jax
import pytest

from weavejax import systems
from weavejax.runtime import cli
from weavejax.runtime.mesh import batch_sharding, make_mesh, put_batch
from weavejax.runtime.step import lay_out, make_train_step
from weavejax.testing import fake_batch, no_wishes

STEPS = 5


@pytest.mark.bench
def test_step_of_the_main_job():
    config = cli.load("configs/gram.py")
    system = systems.build(config)
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    layout = lay_out(system, config, mesh)
    state = layout.init(jax.random.key(0))
    step = make_train_step(system, layout, mesh, config)
    wishes = no_wishes(mesh)
    batch = put_batch(fake_batch(system.batch_spec), batch_sharding(mesh))

    began = time.perf_counter()
    state, _, _ = step(state, batch, wishes)
    jax.block_until_ready(state)
    compiled = time.perf_counter() - began
    began = time.perf_counter()
    for _ in range(STEPS):
        state, _, _ = step(state, batch, wishes)
    jax.block_until_ready(state)
    seconds = (time.perf_counter() - began) / STEPS
    # Forward and backward are three forward passes' worth; recomputation is not counted.
    gflops = 3e-9 * sum(system.flops.values()) * config.batch / seconds
    print(
        f"\nfirst step {compiled:.1f} s; then {seconds:.3f} s a step, "
        f"{config.batch / seconds:.0f} clips/s, {gflops:.0f} GFLOP/s on {jax.devices()[0]}"
    )
    assert int(state.step) == STEPS + 1
