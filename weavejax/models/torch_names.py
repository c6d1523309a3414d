"""From published PyTorch state dicts to linen parameters, by a table and without torch.

Each model file writes a table ``linen path → Source``; `convert` applies it and accounts for every
key on both sides.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from weavejax.errors import UserError
from weavejax.ops.transformer import stack_blocks


class Source(NamedTuple):
    """Where a linen leaf comes from.

    Attributes:
        key: PyTorch key.
        layout: maps the PyTorch array to the linen one.
        copies: further keys that published files hold the same tensor under.
    """

    key: str
    layout: Callable[[np.ndarray], np.ndarray] = np.asarray
    copies: tuple[str, ...] = ()


Table = dict[str, Source]


def dense(path: str, key: str) -> Table:
    """``nn.Linear`` with bias → ``nn.Dense``."""
    return {
        f"{path}/kernel": Source(f"{key}.weight", np.transpose),
        f"{path}/bias": Source(f"{key}.bias"),
    }


def norm(path: str, key: str) -> Table:
    """``nn.LayerNorm`` → `LayerNorm`."""
    return {f"{path}/scale": Source(f"{key}.weight"), f"{path}/bias": Source(f"{key}.bias")}


def conv_2d(weight: np.ndarray) -> np.ndarray:
    """``[out, in, h, w]`` → ``[h, w, in, out]``."""
    return weight.transpose(2, 3, 1, 0)


def convert(
    state: Mapping[str, np.ndarray],
    table: Table,
    *,
    shapes: Mapping[str, Any],
    model: str,
    scan: bool,
    ignore: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """Build a parameter dict, float32, from a PyTorch state dict.

    Args:
        state: PyTorch keys → arrays, the checkpoint's prefix already stripped.
        table: linen path → source, for separate (unscanned) blocks.
        shapes: abstract parameters of the unscanned model.
        model: name for the error message.
        scan: stack the blocks' parameters.
        ignore: keys that may be there and hold nothing (buffers).

    Raises:
        UserError: keys are unused, missing, of another shape, or copies differ; all in one message.
    """
    wanted = {path: leaf.shape for path, leaf in flatten_dict(dict(shapes), sep="/").items()}
    if wanted.keys() != table.keys():
        raise AssertionError(f"{model}: table and model differ: {wanted.keys() ^ table.keys()}")
    used = {key for source in table.values() for key in (source.key, *source.copies)}
    problems = [f"unused {key}" for key in sorted(state.keys() - used - ignore)]
    problems += [f"missing {key}" for key in sorted(used - state.keys())]
    leaves: dict[str, np.ndarray] = {}
    for path, source in table.items():
        if source.key not in state:
            continue
        tensor = np.asarray(state[source.key])
        try:
            leaves[path] = np.ascontiguousarray(source.layout(tensor), np.float32)
        except ValueError:  # a layout meets an array of another rank or size
            leaves[path] = tensor
        if leaves[path].shape != wanted[path]:
            problems.append(
                f"mis-shaped {source.key}: {tensor.shape} does not give {path} {wanted[path]}"
            )
        problems += [
            f"{copy} differs from {source.key}, of which it should be a copy"
            for copy in source.copies
            if copy in state and not np.array_equal(state[copy], tensor)
        ]
    if problems:
        raise UserError(f"{model} weights do not fit the config: " + "; ".join(problems))
    params = unflatten_dict(leaves, sep="/")
    return jax.tree.map(np.asarray, stack_blocks(params)) if scan else params
