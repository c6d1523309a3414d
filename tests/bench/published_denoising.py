"""Stable Audio's diffusion transformer, trained and sampled, measured in a process of its own.

  python tests/bench/published_denoising.py {torch,jax}      # prints one line of JSON

The network in PyTorch is diffusers' StableAudioDiTModel. Both get the same numbers: weights, latents,
conditions, noise. A training step is the error of v on the cosine path, its gradient and AdamW; a
sampling step looks at both branches of the guidance and moves along DDIM's path.
"""

import json
import math
import sys
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

BATCH, FRAMES, TOKENS = 4, 215, 41
TRAINED, SAMPLED, REPEATS = 3, 8, 3
SCALE = 7.0


@dataclass(frozen=True)
class Size:
    """Of a transformer: tokens of `whole` and `cross` are what it is told by."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    cross: int
    whole: int
    channels: int = 64

    @property
    def rotary(self):
        return self.width // self.heads // 2


SMALL = Size(width=256, layers=6, heads=4, kv_heads=2, cross=128, whole=256)


def weight(key, shape):
    """By its key, of the size that keeps what it is applied to; norms around one."""
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    spread = 1 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.1
    return (rng.normal(size=shape) * spread + ("norm" in key and "weight" in key)).astype(
        np.float32
    )


def inputs(size, batch, frames=FRAMES):
    """Clean latents, noise and times of a training batch, and conditions."""
    rng = np.random.default_rng(0)
    shapes = {"clean": (batch, frames, size.channels), "noise": (batch, frames, size.channels)}
    shapes |= {"cross": (batch, TOKENS, size.cross), "whole": (batch, size.whole)}
    found = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return found | {"time": np.linspace(0.1, 0.9, batch, dtype=np.float32)}


def measured(train, draw):
    """Seconds of a step of each, the fastest repeat, and what both gave at first."""
    loss, sound = train(1), draw()
    times = {"train": [], "sample": []}
    for _ in range(REPEATS):
        start = time.perf_counter()
        train(TRAINED)
        times["train"].append((time.perf_counter() - start) / TRAINED)
        start = time.perf_counter()
        draw()
        times["sample"].append((time.perf_counter() - start) / SAMPLED)
    first = {"loss": loss, "spread": float(np.std(sound)), "corner": float(sound[0, 0, 0])}
    return {name: min(found) for name, found in times.items()} | first


def torch_transformer(size):
    """diffusers' transformer with the numbers of `weight`."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))
    import conftest  # noqa: F401  (the import shim, before diffusers)
    from diffusers import StableAudioDiTModel

    model = StableAudioDiTModel(
        in_channels=size.channels,
        out_channels=size.channels,
        num_layers=size.layers,
        attention_head_dim=size.width // size.heads,
        num_attention_heads=size.heads,
        num_key_value_attention_heads=size.kv_heads,
        cross_attention_dim=size.kv_heads * size.width // size.heads,
        cross_attention_input_dim=size.cross,
        time_proj_dim=256,
        global_states_input_dim=size.whole,
    )
    return torch_filled(model)


def torch_filled(model):
    """The model with the numbers of `weight`."""
    import torch

    state = {key: torch.from_numpy(weight(key, x.shape)) for key, x in model.state_dict().items()}
    model.load_state_dict(state)
    return model


def torch_rotary(size, frames=FRAMES):
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    return get_1d_rotary_pos_embed(
        size.rotary, frames + 1, use_real=True, repeat_interleave_real=False
    )


def torch_ddim(velocity, x, cross, whole, steps):
    """`steps` of DDIM from noise x, both branches of the guidance in one call of the network."""
    import torch

    rows = len(x)
    cross, whole = torch.cat([torch.zeros_like(cross), cross]), torch.cat([whole] * 2)
    for number in range(steps):
        now, then = (torch.tensor(1 - n / steps, device=x.device) for n in (number, number + 1))
        both = velocity(torch.cat([x] * 2), now.repeat(2 * rows), cross, whole)
        nothing, all_ = both.chunk(2)
        v = nothing + SCALE * (all_ - nothing)
        (a, s), (next_a, next_s) = torch_levels(now), torch_levels(then)
        x = next_a * (a * x - s * v) + next_s * (s * x + a * v)
    return x


def torch_levels(at):
    import torch

    angle = at * math.pi / 2
    return torch.cos(angle), torch.sin(angle)


def with_torch():
    import torch

    model, rotary = torch_transformer(SMALL), torch_rotary(SMALL)
    given = {name: torch.from_numpy(array) for name, array in inputs(SMALL, BATCH).items()}
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-3)

    def velocity(x, at, cross, whole):
        return model(x.mT, at, cross, whole[:, None], rotary, return_dict=False)[0].mT

    alpha, sigma = (x[:, None, None] for x in torch_levels(given["time"]))
    noisy = alpha * given["clean"] + sigma * given["noise"]
    target = alpha * given["noise"] - sigma * given["clean"]

    def train(steps):
        for _ in range(steps):
            optimiser.zero_grad()
            made = velocity(noisy, given["time"], given["cross"], given["whole"])
            loss = torch.nn.functional.mse_loss(made, target)
            loss.backward()
            optimiser.step()
        return float(loss.detach())

    @torch.inference_mode()
    def draw():
        return torch_ddim(velocity, given["noise"], given["cross"], given["whole"], SAMPLED).numpy()

    return train, draw


def jax_transformer(size, dtype="float32", attention="xla"):
    """(sizes, parameters): ours with the same numbers."""
    from weavejax.models import stable_dit, stable_dit_names

    config = stable_dit.StableDitConfig(
        channels=size.channels,
        width=size.width,
        layers=size.layers,
        heads=size.heads,
        kv_heads=size.kv_heads,
        mlp=4 * size.width,
        cross_width=size.cross,
        global_width=size.whole,
        rotary=size.rotary,
        norm_bias=True,
        dtype=dtype,
        scan=True,
        attention=attention,
    )
    return config, jax_filled(config, stable_dit.shapes(config), stable_dit_names)


def jax_filled(config, shapes, names):
    """Parameters of these shapes with the numbers that diffusers' model has by `weight`."""
    from weavejax.runtime import tree

    blank = {path: np.zeros(shape, np.float32) for path, shape in shapes.items()}
    keys = names.to_torch(tree.unflatten(blank), config, "diffusers")
    state = {key: weight(key, array.shape) for key, array in keys.items()}
    return names.from_torch(state, config, "diffusers")


def jax_ddim(network, params, x, cross, whole, table):
    """The same steps from noise x as one scan."""
    from functools import partial

    import jax.numpy as jnp

    from weavejax.diffusion.guidance import per_dial
    from weavejax.diffusion.noise import given_noise
    from weavejax.diffusion.samplers import begin, sample

    conditions = [(jnp.zeros_like(cross), whole), (cross, whole)]
    denoiser = per_dial(partial(network, params), conditions, jnp.array([SCALE]))
    return sample(denoiser, begin(table, given_noise(x[None])), table)


def with_jax():
    from functools import partial

    import jax
    import jax.numpy as jnp
    import optax

    from weavejax.diffusion.samplers import find_sampler
    from weavejax.diffusion.schedules import add_noise, linear, velocity
    from weavejax.losses.denoising import denoising_loss
    from weavejax.models.stable_dit import StableDit

    config, params = jax_transformer(SMALL)
    params = jax.tree.map(jnp.asarray, params)
    given = {name: jnp.asarray(array) for name, array in inputs(SMALL, BATCH).items()}
    optimiser = optax.adamw(1e-4, weight_decay=1e-3)
    noisy = add_noise(given["clean"], given["noise"], given["time"])
    target = velocity(given["clean"], given["noise"], given["time"])

    def network(params, x, at, condition):
        return StableDit(config).apply({"params": params}, x, at, *condition)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params, moments):
        def loss(params):
            made = network(params, noisy, given["time"], (given["cross"], given["whole"]))
            total, count = denoising_loss(made, target)
            return total / count

        value, grads = jax.value_and_grad(loss)(params)
        updates, moments = optimiser.update(grads, moments, params)
        return value, optax.apply_updates(params, updates), moments

    running = [jax.tree.map(jnp.copy, params), optimiser.init(params)]

    def train(steps):
        for _ in range(steps):
            value, *running[:] = step(*running)
        return float(jax.block_until_ready(value))

    table = find_sampler("ddim")(linear(SAMPLED))

    @jax.jit
    def drawn(params, table):
        return jax_ddim(network, params, given["noise"], given["cross"], given["whole"], table)

    return train, lambda: np.asarray(drawn(running[0], table))


if __name__ == "__main__":
    print(json.dumps(measured(*{"torch": with_torch, "jax": with_jax}[sys.argv[1]]())))
