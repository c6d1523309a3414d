"""GRAM's published contrastive loss in PyTorch, from its formulae, measured in a process of its own.

  python tests/bench/published_contrast.py {torch,jax} BATCH K      # prints one line of JSON

Volume of every text with every clip from its k×k Gram matrix (arXiv 2412.11959, eq. 2), once for each
direction because the other side's features carry no gradient, cross-entropy with label smoothing 0.1.
"""

import json
import re
import sys
import threading
import time
from pathlib import Path

import numpy as np

DIM, TEMPERATURE, SMOOTHING = 512, 0.07, 0.1
REPEATS = 3


def vectors(batch, k):
    """Text [B, D] and clips [B, k−1, D], unit vectors, matched pairs alike."""
    rng = np.random.default_rng(0)
    centre = rng.normal(size=(batch, 1, DIM))
    made = centre + rng.normal(size=(batch, k, DIM))
    made = np.float32(made / np.linalg.norm(made, axis=-1, keepdims=True))
    return made[:, 0], made[:, 1:]


def status(name):
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"^{name}:\s+(\d+) kB", text, re.M)[1]) * 1024


def measured(run):
    """(seconds of the fastest repeat, bytes above the start at the peak of the first)."""
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    run()
    peak = status("VmHWM") - before
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times), peak


def with_torch(batch, k):
    import torch
    import torch.nn.functional as functional

    text, clip = (torch.tensor(x, requires_grad=True) for x in vectors(batch, k))
    target = torch.arange(batch)

    def volumes(text, clip):
        """[B, B] from the Gram matrices [B, B, k, k]."""
        size = len(text)
        own = (text * text).sum(-1)
        sims = [text @ clip[:, m].T for m in range(k - 1)]
        inside = torch.einsum("bmd,bnd->bmn", clip, clip)
        first = torch.stack([own[:, None].expand(size, size), *sims], dim=-1)
        rest = [
            torch.stack(
                [sims[m], *(inside[:, m, n][None].expand(size, size) for n in range(k - 1))], dim=-1
            )
            for m in range(k - 1)
        ]
        gram = torch.stack([first, *rest], dim=-2)
        return torch.sqrt(torch.abs(torch.linalg.det(gram.float())))

    def run():
        text.grad = clip.grad = None
        there = -volumes(text, clip.detach()) / TEMPERATURE
        back = -volumes(text.detach(), clip).T / TEMPERATURE
        loss = 0.5 * sum(
            functional.cross_entropy(x, target, label_smoothing=SMOOTHING) for x in (there, back)
        )
        loss.backward()
        return float(loss.detach())

    return run, 0


def with_jax(batch, k):
    import jax
    import jax.numpy as jnp

    from weavejax.losses import SCORES
    from weavejax.losses.streamed import Plan, contrast

    text, clip = map(jnp.asarray, vectors(batch, k))
    present, paired = jnp.ones(clip.shape[:2], bool), jnp.ones(batch, bool)
    plan = Plan(gradient="half", smoothing=SMOOTHING, block=512)

    def loss(text, clip):
        scalars = {"temperature": jnp.float32(TEMPERATURE)}
        found = contrast(
            plan, SCORES["volume"], text, clip, present, paired, scalars, jax.random.key(0)
        )
        return found.total / found.pairs

    step = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(text, clip).compile()

    def run():
        value, _ = jax.block_until_ready(step(text, clip))
        return float(value)

    return run, step.memory_analysis().temp_size_in_bytes


if __name__ == "__main__":
    kind, batch, k = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    run, planned = {"torch": with_torch, "jax": with_jax}[kind](batch, k)
    seconds, peak = measured(run)
    row = {"seconds": seconds, "bytes": max(peak, planned), "loss": run()}
    print(json.dumps({**row, "threads": threading.active_count()}))
