"""Gather against ring in time on forced devices, and the first stage over 100,000 clips.

pytest tests/bench/test_exchange_and_gallery.py -m bench -n 0 -s
"""

import resource
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from weavejax.losses import SCORES
from weavejax.losses.streamed import Plan, contrast
from weavejax.metrics.retrieval import search
from weavejax.ops.placement import on_mesh
from weavejax.runtime.mesh import batch_sharding, make_mesh

pytestmark = pytest.mark.bench
DIM = 512


def unit(rng, *shape):
    made = rng.standard_normal(shape, np.float32)
    return made / np.linalg.norm(made, axis=-1, keepdims=True)


def step_of(exchange, mesh):
    """The compiled loss with its gradients, on clips split over the mesh."""
    plan = Plan(gradient="half", smoothing=0.1, exchange=exchange, rivals=1e-4)

    def loss(anchor, clip, present, paired):
        scalars = {"temperature": jnp.float32(0.07)}
        found = on_mesh(contrast, mesh)(
            plan, SCORES["volume"], anchor, clip, present, paired, scalars, jax.random.key(0)
        )
        return found.total / found.pairs

    return jax.jit(jax.value_and_grad(loss, (0, 1)))


@pytest.mark.parametrize("batch", [2048, 8192])
def test_gather_and_ring_in_time(batch):
    """Devices of one processor: what moves is copied, not sent, so this is what a ring costs beside."""
    mesh = make_mesh({"data": 8})
    rng = np.random.default_rng(0)
    arrays = (
        unit(rng, batch, DIM),
        unit(rng, batch, 3, DIM),
        np.ones((batch, 3), bool),
        np.ones(batch, bool),
    )
    placed = jax.device_put(arrays, batch_sharding(mesh))
    found = {}
    for exchange in ("gather", "ring"):
        step = step_of(exchange, mesh).lower(*placed).compile()
        value, _ = jax.block_until_ready(step(*placed))
        times = []
        for _ in range(3):
            began = time.perf_counter()
            jax.block_until_ready(step(*placed))
            times.append(time.perf_counter() - began)
        memory = step.memory_analysis().temp_size_in_bytes
        found[exchange] = (float(value), min(times), memory)
    (one, gather, most), (other, ring, least) = found["gather"], found["ring"]
    print(
        f"\n{batch} clips, k = 4, 8 devices: gather {gather:.2f} s, {most / 2**20:.0f} MiB a device; "
        f"ring {ring:.2f} s, {least / 2**20:.0f} MiB; ring / gather {ring / gather:.2f}"
    )
    assert one == pytest.approx(other, rel=1e-5)
    assert least < most


def test_the_first_stage_over_100000_clips():
    clips, modalities = 100_000, 2
    rng = np.random.default_rng(0)
    anchors, shown = unit(rng, clips, DIM), unit(rng, clips, modalities, DIM)
    present = np.ones((clips, modalities), bool)
    shown[:, 0] = anchors  # the own clip is found at once

    def compare(anchor, clip, _):
        return SCORES["volume"](anchor, *clip)

    search(compare, anchors[:4096], (shown[:4096], present[:4096]), top=50)  # compiles
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    first, second = search(compare, anchors, (shown, present), top=50)
    seconds = time.perf_counter() - began
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    print(
        f"\n{clips:,} texts and {clips:,} clips, both directions, the 50 nearest of each: "
        f"{seconds:.0f} s, {1e9 * seconds / clips**2:.0f} ns a pair, {more / 2**20:.0f} MiB more"
    )
    assert (first.rank == 1).all()
    assert (second.rank == 1).all()
    assert more < 2**30
