"""Ten seconds of stereo sound at 44.1 kHz by Stable Audio Open's networks, in a process of its own.

  python tests/bench/published_generation.py {torch,jax} [small]      # prints one line of JSON

The published sizes, random weights, bfloat16: 100 steps under guidance, two looks of the transformer
each, and the decoder. In PyTorch it is diffusers' classes under `torch.compile`. "small" is the same
work with small networks, to try the script where there is no accelerator; nothing is compiled by
PyTorch then.
"""

import json
import sys
import time
from dataclasses import dataclass

import numpy as np
from published_denoising import (
    SMALL,
    Size,
    inputs,
    jax_ddim,
    jax_filled,
    jax_transformer,
    torch_ddim,
    torch_filled,
    torch_rotary,
    torch_transformer,
)

SECONDS, RATE, REPEATS, BATCHES = 10.0, 44_100, 3, (1, 8)


@dataclass(frozen=True)
class Work:
    """Networks, steps, and the autoencoder's `channels`, `multiples` and `strides`."""

    size: Size
    steps: int
    channels: int
    multiples: tuple[int, ...]
    strides: tuple[int, ...]
    frames: int  # latents: of 2,048 samples each, as many as cover ten seconds


WORKS = {
    "published": Work(
        Size(width=1536, layers=24, heads=24, kv_heads=12, cross=768, whole=1536),
        steps=100,
        channels=128,
        multiples=(1, 2, 4, 8, 16),
        strides=(2, 4, 4, 8, 8),
        frames=216,
    ),
    "small": Work(SMALL, steps=3, channels=4, multiples=(1, 2), strides=(2, 4), frames=40),
}


def measured(work, draw, device):
    """Seconds for each batch, the fastest repeat after what is compiled, and the sound of the first."""
    found = {"device": device, "seconds": {}}
    for batch in BATCHES:
        given = inputs(work.size, batch, work.frames)
        sound, times = draw(given), []
        for _ in range(REPEATS):
            start = time.perf_counter()
            draw(given)
            times.append(time.perf_counter() - start)
        found["seconds"][str(batch)] = min(times)
        found[f"spread {batch}"] = float(np.std(sound, dtype=np.float64))
        found["samples"] = sound.shape[-1]
    return found


def with_torch(work):
    import torch

    model = torch_transformer(work.size)
    from diffusers import AutoencoderOobleck

    sound = AutoencoderOobleck(
        encoder_hidden_size=work.channels,
        decoder_channels=work.channels,
        decoder_input_channels=work.size.channels,
        downsampling_ratios=list(work.strides),
        channel_multiples=list(work.multiples),
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, sound = (x.to(device, torch.bfloat16).eval() for x in (model, torch_filled(sound)))
    look, decode = model.forward, sound.decoder.forward
    if device == "cuda":
        look, decode = torch.compile(look), torch.compile(decode)
    rotary = tuple(x.to(device) for x in torch_rotary(work.size, work.frames))

    def velocity(x, at, cross, whole):
        x, at = x.mT.to(torch.bfloat16), at.to(torch.bfloat16)
        return look(x, at, cross, whole[:, None], rotary, return_dict=False)[0].mT.float()

    @torch.inference_mode()
    def draw(given):
        noise = torch.from_numpy(given["noise"]).to(device)
        said = [torch.from_numpy(given[x]).to(device, torch.bfloat16) for x in ("cross", "whole")]
        latents = torch_ddim(velocity, noise, *said, work.steps)
        return decode(latents.mT.to(torch.bfloat16)).float().cpu().numpy()

    return draw, torch.cuda.get_device_name() if device == "cuda" else device


def with_jax(work):
    import jax
    import jax.numpy as jnp

    from weavejax.diffusion.samplers import find_sampler
    from weavejax.diffusion.schedules import linear
    from weavejax.models import oobleck, oobleck_names
    from weavejax.models.stable_dit import StableDit

    gpu = jax.default_backend() == "gpu"
    config, params = jax_transformer(work.size, "bfloat16", "cudnn" if gpu else "xla")
    sizes = oobleck.OobleckConfig(
        audio=2,
        channels=work.channels,
        multiples=work.multiples,
        strides=work.strides,
        latent=work.size.channels,
        dtype="bfloat16",
    )
    sound = jax_filled(sizes, oobleck.shapes(sizes), oobleck_names)
    params, sound = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), (params, sound))
    table = find_sampler("ddim")(linear(work.steps))

    def network(params, x, at, condition):
        return StableDit(config).apply({"params": params}, x, at, *condition)

    @jax.jit
    def drawn(params, sound, given, table):
        told = (given[x].astype(jnp.bfloat16) for x in ("cross", "whole"))
        latents = jax_ddim(network, params, given["noise"], *told, table)
        return oobleck.decode(sound, sizes, latents).astype(jnp.float32).mT

    def draw(given):
        return np.asarray(drawn(params, sound, given, table))

    return draw, jax.devices()[0].device_kind


if __name__ == "__main__":
    kind, chosen = sys.argv[1], WORKS[(*sys.argv[2:], "published")[0]]
    draw, device = {"torch": with_torch, "jax": with_jax}[kind](chosen)
    print(json.dumps(measured(chosen, draw, device)))
