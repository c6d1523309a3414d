"""Tiny configs and made-up batches that tests and users share."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from weavejax.runtime.step import WISHES, wishes_sharding


def tiny_gram(**changes: Any) -> ConfigDict:
    """A GRAM small enough for a unit test; `changes` replace whole top-level entries."""
    width = {"width": 16, "layers": 1, "heads": 4, "mlp": 32}
    config = {
        "system": "gram",
        "seed": 0,
        "steps": 8,
        "batch": 8,
        "inputs": {
            "frames": 2,
            "candidates": 4,
            "size": 32,
            "crop": "squash",
            "rate": 16_000,
            "mels": 16,
            "audio_frames": 32,
            "chunks": 1,
            "text_length": 12,
            "subtitle_length": 0,
            "tokenizer": "captions",
        },
        "model": {
            "dim": 16,
            "fusion": False,
            "vision": {"patch": 16, "drop_path": 0.0, **width},
            "audio": {
                "patch": 16,
                "patch_width": 8,
                "pos_kernel": 4,
                "pos_groups": 2,
                "buckets": 8,
                "max_distance": 16,
                **width,
            },
            "text": {"vocab": 64, "positions": 16, "types": 2, "cross_attention": False, **width},
        },
        "loss": {
            "score": "volume",
            "warmup_score": "cosine",
            "warmup_steps": 4,
            "mix": 0.0,
            "smoothing": 0.1,
            "temperature": 0.07,
            "learn_temperature": True,
            "gradient": "full",
            "objective": "softmax",
            "bias": -10.0,
            "anchor": "text",
            "views": "whole",
            "missing": "phantom",
            "matching": 0.0,
            "condition": ("video", "audio"),
            "candidates": 0,
            "block": 1024,
            "exchange": "auto",
        },
        "optim": {
            "lr": 1e-3,
            "warmup": 2,
            "schedule": "cosine",
            "b1": 0.9,
            "b2": 0.98,
            "eps": 1e-6,
            "weight_decay": 0.01,
            "no_decay": "bias$",
            "clip": 1.0,
            "groups": (),
            "average": 0.0,
        },
        "init": {"weights": "", "partial": ()},
        "lora": {"rank": 0, "alpha": 16.0, "on": "query/kernel$", "train": "^head/"},
        "guard": {"window": 16, "warmup": 8, "sigmas": 6.0, "limit": 3},
    }
    return ConfigDict(config | changes)


def no_wishes(mesh: Mesh) -> jax.Array:
    """The third argument of a train step, of a process that wants nothing."""
    return jax.device_put(np.zeros((mesh.size, len(WISHES)), np.int32), wishes_sharding(mesh))


def fake_batch(
    spec: Mapping[str, jax.ShapeDtypeStruct], seed: int = 0, *, missing: float = 0.0
) -> dict[str, np.ndarray]:
    """Random arrays of a `System.batch_spec`.

    Args:
      spec: names, shapes and types.
      seed: same seed, same batch.
      missing: chance that a clip lacks a modality; text is always there.
    """
    rng = np.random.default_rng(seed)
    out: dict[str, np.ndarray] = {}
    for name, leaf in sorted(spec.items()):
        if leaf.dtype == np.bool_:
            out[name] = rng.random(leaf.shape) >= (0.0 if name == "text_mask" else missing)
        elif leaf.dtype == np.float32:
            out[name] = rng.normal(size=leaf.shape).astype(np.float32)
        else:
            out[name] = rng.integers(1, 60, leaf.shape).astype(leaf.dtype)
    return out
