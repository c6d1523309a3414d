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
from pathlib import Path

import numpy as np

WIDTH, LAYERS, HEADS, KV_HEADS, CHANNELS, CROSS, GLOBAL = 256, 6, 4, 2, 64, 128, 256
BATCH, FRAMES, TOKENS = 4, 215, 41
TRAINED, SAMPLED, REPEATS = 3, 8, 3
SCALE = 7.0


def weight(key, shape):
    """By its key, of the size that keeps what it is applied to; norms around one."""
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    spread = 1 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.1
    return (rng.normal(size=shape) * spread + ("norm" in key and "weight" in key)).astype(
        np.float32
    )


def inputs():
    """Clean latents, noise and times of a training batch, and conditions."""
    rng = np.random.default_rng(0)
    shapes = {"clean": (BATCH, FRAMES, CHANNELS), "noise": (BATCH, FRAMES, CHANNELS)}
    shapes |= {"cross": (BATCH, TOKENS, CROSS), "whole": (BATCH, GLOBAL)}
    found = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return found | {"time": np.linspace(0.1, 0.9, BATCH, dtype=np.float32)}


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


def with_torch():
    sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))
    import conftest  # noqa: F401  (the import shim, before diffusers)
    import torch
    from diffusers import StableAudioDiTModel
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    def network(width):
        return StableAudioDiTModel(
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            num_layers=LAYERS,
            attention_head_dim=width // HEADS,
            num_attention_heads=HEADS,
            num_key_value_attention_heads=KV_HEADS,
            cross_attention_dim=KV_HEADS * width // HEADS,
            cross_attention_input_dim=CROSS,
            time_proj_dim=256,
            global_states_input_dim=GLOBAL,
        )

    model = network(WIDTH)
    state = {key: torch.from_numpy(weight(key, x.shape)) for key, x in model.state_dict().items()}
    model.load_state_dict(state)
    given = {name: torch.from_numpy(array) for name, array in inputs().items()}
    rotary = get_1d_rotary_pos_embed(
        WIDTH // HEADS // 2, FRAMES + 1, use_real=True, repeat_interleave_real=False
    )
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-3)

    def velocity(x, at, cross, whole):
        return model(x.mT, at, cross, whole[:, None], rotary, return_dict=False)[0].mT

    def levels(at):
        angle = at * math.pi / 2
        return torch.cos(angle), torch.sin(angle)

    alpha, sigma = (x[:, None, None] for x in levels(given["time"]))
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
        x = given["noise"]
        cross = torch.cat([torch.zeros_like(given["cross"]), given["cross"]])
        whole = torch.cat([given["whole"]] * 2)
        for number in range(SAMPLED):
            now, then = (torch.tensor(1 - n / SAMPLED) for n in (number, number + 1))
            nothing, all_ = velocity(torch.cat([x] * 2), now.repeat(2 * BATCH), cross, whole).chunk(
                2
            )
            v = nothing + SCALE * (all_ - nothing)
            (a, s), (next_a, next_s) = levels(now), levels(then)
            x = next_a * (a * x - s * v) + next_s * (s * x + a * v)
        return x.numpy()

    return train, draw


def with_jax():
    from functools import partial

    import jax
    import jax.numpy as jnp
    import optax

    from weavejax.diffusion.guidance import per_dial
    from weavejax.diffusion.noise import given_noise
    from weavejax.diffusion.samplers import begin, find_sampler, sample
    from weavejax.diffusion.schedules import add_noise, linear, velocity
    from weavejax.losses.denoising import denoising_loss
    from weavejax.models import stable_dit_names
    from weavejax.models.stable_dit import StableDit, StableDitConfig, shapes
    from weavejax.runtime import tree

    config = StableDitConfig(
        channels=CHANNELS,
        width=WIDTH,
        layers=LAYERS,
        heads=HEADS,
        kv_heads=KV_HEADS,
        mlp=4 * WIDTH,
        cross_width=CROSS,
        global_width=GLOBAL,
        rotary=WIDTH // HEADS // 2,
        norm_bias=True,
        scan=True,
    )
    blank = {path: np.zeros(shape, np.float32) for path, shape in shapes(config).items()}
    keys = stable_dit_names.to_torch(tree.unflatten(blank), config, "diffusers")
    state = {key: weight(key, array.shape) for key, array in keys.items()}
    params = jax.tree.map(jnp.asarray, stable_dit_names.from_torch(state, config, "diffusers"))
    given = {name: jnp.asarray(array) for name, array in inputs().items()}
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

    @jax.jit
    def drawn(params, table):
        without = (jnp.zeros_like(given["cross"]), given["whole"])
        conditions = [without, (given["cross"], given["whole"])]
        denoiser = per_dial(partial(network, params), conditions, jnp.array([SCALE]))
        return sample(denoiser, begin(table, given_noise(given["noise"][None])), table)

    table = find_sampler("ddim")(linear(SAMPLED))
    return train, lambda: np.asarray(drawn(running[0], table))


if __name__ == "__main__":
    print(json.dumps(measured(*{"torch": with_torch, "jax": with_jax}[sys.argv[1]]())))
