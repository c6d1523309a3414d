"""What a system that can train on extracted features says of them (`systems.base.Latents`)."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from weavejax.systems.base import Latents

KIND = "latents"  # of `config.inputs.kind`
# Of `config.inputs`, what plays no part in what any network gives; of networks, how they compute.
PLACES = ("kind", "root", "tokenizer")
COMPUTE = ("dtype", "scan", "remat", "dropout")


def make_latents(
    config: Any,
    arrays: Mapping[str, tuple[int, ...]],
    parts: Sequence[str],
    sections: Mapping[str, Sequence[str]],
    unused: Sequence[str] = (),
) -> Latents:
    """How a system trains on features.

    Args:
      config: of the run.
      arrays: name → shape of one clip's.
      parts: see `Latents`.
      sections: of the config, beside `inputs`, and which of their entries the features depend on.
      unused: entries of `inputs` that they do not depend on.
    """
    spec = {
        name: jax.ShapeDtypeStruct((config.batch, *shape), jnp.float32)
        for name, shape in arrays.items()
    }
    mask = jax.ShapeDtypeStruct((config.batch,), jnp.bool_)
    told = {name: {entry: config[name][entry] for entry in own} for name, own in sections.items()}
    return Latents(
        chosen=config.inputs.get("kind") == KIND,
        spec={**spec, **{f"{name}_mask": mask for name in arrays}},
        parts=tuple(parts),
        key={
            **_entries({"inputs": config.inputs}, (*PLACES, *unused)),
            **_entries(told, COMPUTE),
        },
    )


def _entries(section: Any, left_out: Sequence[str], before: str = "") -> dict[str, Any]:
    """The values of a config's section by dotted name, in JSON's types."""
    found: dict[str, Any] = {}
    for name, value in section.items():
        if hasattr(value, "items"):
            found |= _entries(value, left_out, f"{before}{name}.")
        elif name not in left_out:
            found[before + name] = list(value) if isinstance(value, tuple) else value
    return found
