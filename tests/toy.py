"""A system that compiles in a second: the promises of the runtime do not depend on the system."""

import jax
import jax.numpy as jnp
import numpy as np
from whole_matrix import two_way_cross_entropy

from weavejax.losses import SCORES
from weavejax.metrics.report import Report
from weavejax.systems.base import System

WIDTH = 16


def build(config):
    """Linear maps of mean colours, mean mels and bags of words into one space."""
    size, inputs = config.batch, config.inputs
    shapes = {
        "video": ((inputs.frames, inputs.size, inputs.size, 3), jnp.uint8),
        "audio": ((inputs.chunks, inputs.audio_frames, inputs.mels), jnp.float32),
        "text": ((inputs.text_length,), jnp.int32),
    }

    def init(key):
        def kernel(n, rows):
            return 0.5 * jax.random.normal(jax.random.fold_in(key, n), (rows, WIDTH))

        return {
            "video": {"kernel": kernel(0, 12)},
            "audio": {"kernel": kernel(1, inputs.mels)},
            "text": {"embedding": kernel(2, config.model.text.vocab)},
        }

    def unit(x):
        return x / jnp.sqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-6)

    def embed(params, batch):
        pixels = batch["video"].astype(jnp.float32) / 255.0
        colours = jnp.stack([pixels.mean((1, 2, 3)), pixels.std((1, 2, 3))], axis=1)
        colours = jnp.concatenate([colours, jnp.square(colours)], axis=1).reshape(-1, 12)
        return {
            "video": unit(colours @ params["video"]["kernel"]),
            "audio": unit(batch["audio"].mean((1, 2)) @ params["audio"]["kernel"]),
            "text": unit(params["text"]["embedding"][batch["text"]].mean(1)),
        }

    def loss(params, batch, key, step):
        vectors = embed(params, batch)
        # Something random, so that a resumed run must have its random state right.
        noise = 0.01 * jax.random.normal(key, vectors["text"].shape)
        clip = jnp.stack([vectors["video"], vectors["audio"]], axis=1)
        present = jnp.ones(clip.shape[:2], bool)
        sim = SCORES["cosine"](unit(vectors["text"] + noise), clip, present) / 0.1
        total, count = two_way_cross_entropy(sim, sim, present[:, 0])
        return total / count, {"loss": (total, count)}

    def report(vectors):
        valid = np.asarray(vectors["valid"])
        sim = (vectors["text"] @ (vectors["video"] + vectors["audio"]).T)[valid][:, valid]
        hits = {
            f"{name}/R@1": 100.0 * float((s.argmax(1) == np.arange(len(s))).mean())
            for name, s in (("text→clip", sim), ("clip→text", sim.T))
        }
        return Report(hits)

    return System(
        name="toy",
        batch_spec={
            name: jax.ShapeDtypeStruct((size, *shape), dtype)
            for name, (shape, dtype) in shapes.items()
        },
        init=init,
        loss=loss,
        embed=embed,
        rules=(
            (r"text/embedding", ("data", "model")),
            (r"(video|audio)/kernel", (None, "model")),
        ),
        evaluators={"toy": report},
        flops={"line": 1.0},
        headline="toy/text→clip/R@1",
    )
