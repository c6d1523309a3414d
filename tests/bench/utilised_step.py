"""The control stage's train step at its published size on one accelerator, in a process of its own.

python tests/bench/utilised_step.py [small]      # prints one line of JSON

On kept latents, as `weavejax.extract` makes them: what is timed is the frozen transformer, forward and
back, and the control network. "small" is the same with tiny networks, to try the script.
"""

import json
import sys
import time

import jax

from weavejax import systems
from weavejax.planning.flops import step_flops
from weavejax.planning.topology import CHIPS
from weavejax.runtime import cli
from weavejax.runtime.mesh import batch_sharding, make_mesh, put_batch
from weavejax.runtime.step import lay_out, make_train_step
from weavejax.testing import fake_batch, no_wishes

WARM, STEPS = 2, 10
POLICIES = ("none", "dots", "full")  # of recomputation
# Dense bfloat16 peaks of a device, by what JAX calls it; GPUs: the makers' data sheets, SXM boards.
PEAKS = {
    "H200": 989.4e12,
    "H100": 989.4e12,
    "A100": 312e12,
    "TPU v6 lite": CHIPS["v6e"].flops,
    "TPU v5 lite": CHIPS["v5e"].flops,
    "TPU v5": CHIPS["v5p"].flops,
    "TPU v4": CHIPS["v4"].flops,
}


def configured(variant, policy):
    config = cli.load(f"configs/folai.py:{variant}")
    config.inputs.kind = "latents"
    config.model.flip = False
    config.model.train_towers = False
    config.model.dit.remat = policy
    if jax.default_backend() == "gpu":
        config.model.dit.attention = "cudnn"
    return config


def measured(config):
    """Seconds of a step, and the analytic FLOPs of one without recomputation."""
    system = systems.build(config)
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    layout = lay_out(system, config, mesh)
    state = layout.init(jax.random.key(0))
    step = make_train_step(system, layout, mesh, config)
    batch = put_batch(fake_batch(system.train_spec), batch_sharding(mesh))
    wishes = no_wishes(mesh)
    for _ in range(WARM):
        state, _, _ = step(state, batch, wishes)
    jax.block_until_ready(state)
    began = time.perf_counter()
    for _ in range(STEPS):
        state, _, _ = step(state, batch, wishes)
    jax.block_until_ready(state)
    seconds = (time.perf_counter() - began) / STEPS
    return seconds, step_flops(system, config, layout.shapes.params)["step"]


def main(variant):
    kind = jax.devices()[0].device_kind
    peak = next((rate for name, rate in PEAKS.items() if name in kind), None)
    found = {"device": kind, "peak": peak, "policies": {}}
    for policy in POLICIES:
        try:
            seconds, flops = measured(configured(variant, policy))
        except jax.errors.JaxRuntimeError as error:  # of memory: the next policy needs less
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            continue
        found["policies"][policy] = {"seconds": seconds, "flops": flops}
    print(json.dumps(found))


if __name__ == "__main__":
    main("smoke" if sys.argv[1:] == ["small"] else "published")
