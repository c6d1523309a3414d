"""The contrastive loss at 65,536 clips, compiled for 32 TPU chips that are not there."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest

from weavejax.losses import SCORES
from weavejax.losses.streamed import Plan, contrast
from weavejax.ops.placement import on_mesh
from weavejax.planning.topology import open_topology
from weavejax.runtime.mesh import batch_sharding, make_mesh, replicated

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the aot extra"
)
BATCH, MODALITIES, DIM = 65_536, 3, 512


@pytest.mark.parametrize("exchange", ["ring", "gather"])
def test_batch_65536_takes_less_than_a_gigabyte_of_temporaries(exchange):
    mesh = make_mesh({"data": -1}, open_topology("v5e:4x8").devices)
    assert mesh.size == 32
    split, whole = batch_sharding(mesh), replicated(mesh)
    plan = Plan(gradient="half", smoothing=0.1, exchange=exchange, rivals=1e-4)

    def loss(anchor, clip, present, paired):
        scalars = {"temperature": jnp.float32(0.07)}
        found = on_mesh(contrast, mesh)(
            plan, SCORES["volume"], anchor, clip, present, paired, scalars, jax.random.key(0)
        )
        return found.total / found.pairs, (found.hard_clip, found.hard_anchor)

    shapes = (
        jax.ShapeDtypeStruct((BATCH, DIM), jnp.float32, sharding=split),
        jax.ShapeDtypeStruct((BATCH, MODALITIES, DIM), jnp.float32, sharding=split),
        jax.ShapeDtypeStruct((BATCH, MODALITIES), jnp.bool_, sharding=split),
        jax.ShapeDtypeStruct((BATCH,), jnp.bool_, sharding=split),
    )
    outputs = ((whole, (split, split)), (split, split))
    step = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True), out_shardings=outputs)
    compiled = step.lower(*shapes).compile()
    temporaries = compiled.memory_analysis().temp_size_in_bytes
    print(f"{exchange}: {temporaries / 2**20:.0f} MiB of temporaries a device")
    assert temporaries < {"ring": 2**26, "gather": 2**30}[exchange]
    # In the ring no device ever holds the clips of all.
    whole_batch = f"[{BATCH},{MODALITIES},{DIM}]"
    assert exchange == "gather" or whole_batch not in compiled.as_text()
