"""Between published PyTorch state dicts and linen parameters: one table, both ways, without torch.

Each model file writes a table ``linen path → Source``. `read` applies it and accounts for every
leaf, `convert` is strict about the keys as well, `write` goes back.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from weavejax.errors import UserError
from weavejax.ops.batch_norm import MEAN, VARIANCE
from weavejax.ops.transformer import stack_blocks

COUNTER = ".num_batches_tracked"  # of a batch norm: nothing here needs it
Arrays = Mapping[str, np.ndarray]
Shapes = dict[str, tuple[int, ...]]


class Layout(NamedTuple):
    """How the same numbers lie in PyTorch and here.

    Attributes:
        ours: maps the PyTorch array to the linen one; a view, where it can be.
        theirs: its inverse.
    """

    ours: Callable[[np.ndarray], np.ndarray]
    theirs: Callable[[np.ndarray], np.ndarray]


AS_IT_IS = Layout(np.asarray, np.asarray)
TRANSPOSED = Layout(np.transpose, np.transpose)
# [out, in, k] ↔ [k, in, out]
CONV_1D = Layout(lambda x: x.transpose(2, 1, 0), lambda x: x.transpose(2, 1, 0))
# [out, in, h, w] ↔ [h, w, in, out]
CONV_2D = Layout(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))


class Source(NamedTuple):
    """Where a linen leaf comes from.

    Attributes:
        key: PyTorch key.
        layout: between the PyTorch array, or the leaf's part of it, and the linen one.
        copies: further keys that published files hold the same tensor under.
        part: which of ``parts`` equal pieces of the array's first axis the leaf is.
        parts: 1 where the leaf is the whole array.
    """

    key: str
    layout: Layout = AS_IT_IS
    copies: tuple[str, ...] = ()
    part: int = 0
    parts: int = 1


Table = dict[str, Source]


def batch_norm(path: str, key: str) -> Table:
    """A batch norm of `ops.batch_norm`, with its running statistics."""
    return {
        f"{path}/scale": Source(f"{key}.weight"),
        f"{path}/bias": Source(f"{key}.bias"),
        f"{path}/{MEAN}": Source(f"{key}.running_mean"),
        f"{path}/{VARIANCE}": Source(f"{key}.running_var"),
    }


def dense(path: str, key: str) -> Table:
    """``nn.Linear`` with bias → ``nn.Dense``."""
    return {
        f"{path}/kernel": Source(f"{key}.weight", TRANSPOSED),
        f"{path}/bias": Source(f"{key}.bias"),
    }


def norm(path: str, key: str) -> Table:
    """``nn.LayerNorm`` → `LayerNorm`."""
    return {f"{path}/scale": Source(f"{key}.weight"), f"{path}/bias": Source(f"{key}.bias")}


def under(path: str, key: str, table: Table) -> Table:
    """A part's table in the table of the whole: paths start with ``path``, keys with ``key``."""
    return {
        path + leaf: source._replace(
            key=key + source.key, copies=tuple(key + copy for copy in source.copies)
        )
        for leaf, source in table.items()
    }


def keys_of(table: Table) -> set[str]:
    """Every PyTorch key that a table names."""
    return {key for source in table.values() for key in (source.key, *source.copies)}


class Found(NamedTuple):
    """What a table makes of a state dict.

    Attributes:
        leaves: linen path → array, in the file's type; views of the state dict's arrays.
        missing: keys that are not there.
        misfits: what is there and does not fit, one line each.
    """

    leaves: dict[str, np.ndarray]
    missing: list[str]
    misfits: list[str]


def read(state: Arrays, table: Table, wanted: Shapes) -> Found:
    """Applies a table.

    Args:
        state: PyTorch keys → arrays; keys that the table does not name are left alone.
        table: linen path → source.
        wanted: shape of every leaf.
    """
    leaves: dict[str, np.ndarray] = {}
    misfits: list[str] = []
    for path, source in table.items():
        if source.key not in state:
            continue
        tensor = np.asarray(state[source.key])
        leaf = _ours(tensor, source)
        if leaf is None or leaf.shape != wanted[path]:
            misfits.append(
                f"mis-shaped {source.key}: {tensor.shape} does not give {path} {wanted[path]}"
            )
        else:
            leaves[path] = leaf
        misfits += [
            f"{copy} differs from {source.key}, of which it should be a copy"
            for copy in source.copies
            if copy in state and not np.array_equal(state[copy], tensor)
        ]
    return Found(leaves, sorted(keys_of(table) - state.keys()), misfits)


def _ours(tensor: np.ndarray, source: Source) -> np.ndarray | None:
    """The linen array; None when the tensor has not the rank or size that the layout is for."""
    try:
        pieces = np.split(tensor, source.parts) if source.parts > 1 else [tensor]
        leaf = source.layout.ours(pieces[source.part])
        back = source.layout.theirs(leaf)
    except (ValueError, IndexError):
        return None
    return leaf if back.shape == pieces[source.part].shape else None


def write(leaves: Arrays, table: Table) -> dict[str, np.ndarray]:
    """The inverse of `read`: PyTorch keys → arrays; views, but for the keys made of parts."""
    pieces: dict[str, dict[int, np.ndarray]] = {}
    state: dict[str, np.ndarray] = {}
    for path, source in table.items():
        piece = source.layout.theirs(np.asarray(leaves[path]))
        pieces.setdefault(source.key, {})[source.part] = piece
        if len(pieces[source.key]) == source.parts:
            parts = [part for _, part in sorted(pieces.pop(source.key).items())]
            whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
            state |= dict.fromkeys((source.key, *source.copies), whole)
    return state


def count_layers(state: Arrays, prefix: str) -> int:
    """How many blocks there are under ``prefix``, by the largest number that follows it.

    Raises:
        ValueError: there are fewer keys than that.
    """
    names = [key.removeprefix(prefix).partition(".")[0] for key in state if key.startswith(prefix)]
    count = 1 + max((int(name) for name in names if name.isdecimal()), default=-1)
    if count > len(state):
        raise ValueError(f"{count} blocks in {len(state)} keys")
    return count


def shapes_of(init: Callable[..., Any], *inputs: Any, layers: int = 0) -> Shapes:
    """Shape of every leaf of a model with separate blocks, told from one with scanned blocks.

    Args:
        init: (key, *inputs) → variables of the scanned model: traced in a time that does not grow
            with depth, and without making anything.
        *inputs: shapes and types.
        layers: number of blocks.
    """
    variables = jax.eval_shape(init, jax.random.key(0), *inputs)
    shapes: Shapes = {}
    for path, leaf in flatten_dict(dict(variables["params"]), sep="/").items():
        if path.startswith("blocks/"):
            name = path.removeprefix("blocks/")
            shapes |= {f"blocks_{i}/{name}": leaf.shape[1:] for i in range(layers)}
        else:
            shapes[path] = leaf.shape
    return shapes


def convert(
    state: Arrays,
    table: Table,
    *,
    shapes: Shapes,
    model: str,
    scan: bool,
    ignore: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """Build a parameter dict, float32, from a PyTorch state dict.

    Args:
        state: PyTorch keys → arrays, the checkpoint's prefix already stripped.
        table: linen path → source, for separate (unscanned) blocks.
        shapes: of every leaf of the unscanned model.
        model: name for the error message.
        scan: stack the blocks' parameters.
        ignore: keys that may be there and hold nothing (buffers), beside batch norms' counters.

    Raises:
        UserError: keys are unused, missing, of another shape, or copies differ; all in one message.
    """
    if shapes.keys() != table.keys():
        raise AssertionError(f"{model}: table and model differ: {shapes.keys() ^ table.keys()}")
    found = read(state, table, shapes)
    known = keys_of(table) | ignore | {key for key in state if key.endswith(COUNTER)}
    problems = [f"unused {key}" for key in sorted(state.keys() - known)]
    problems += [f"missing {key}" for key in found.missing]
    problems += found.misfits
    if problems:
        raise UserError(f"{model} weights do not fit the config: " + "; ".join(problems))
    leaves = {path: np.ascontiguousarray(x, np.float32) for path, x in found.leaves.items()}
    params = unflatten_dict(leaves, sep="/")
    return jax.tree.map(np.asarray, stack_blocks(params)) if scan else params


def invert(params: Mapping[str, Any], table: Table) -> dict[str, np.ndarray]:
    """The inverse of `convert`, from separate or scanned blocks."""
    return write(separate_blocks(flatten_dict(dict(params), sep="/")), table)


def separate_blocks(leaves: Arrays) -> dict[str, np.ndarray]:
    """Leaves by path, those of scanned stacks (``blocks/…``) block by block (``blocks_0/…``)."""
    found: dict[str, np.ndarray] = {}
    for path, leaf in leaves.items():
        stack = re.match(r"((?:.*/)?blocks)/(.*)", path)
        if stack is None:
            found[path] = leaf
        else:
            layers = enumerate(np.asarray(leaf))
            found |= {f"{stack[1]}_{i}/{stack[2]}": layer for i, layer in layers}
    return found
