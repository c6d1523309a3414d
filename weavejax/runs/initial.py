"""Where a run starts: at random, or from converted weights (`config.init`).

Converted weights are read where they are used: each device's share of each parameter goes from the
file to that device, and nothing is made at random that the file has.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from weavejax.errors import UserError
from weavejax.runtime import cluster, tree
from weavejax.runtime.step import Layout, State
from weavejax.storage import Storage
from weavejax.systems.base import System
from weavejax.weights.converted import PREFIX, open_converted
from weavejax.weights.published import KEPT
from weavejax.weights.safe import SafeFile

Index = Any  # a tuple of slices
NAMED = 12  # of a longer list, so many are named in the lines that are printed


class Fit(NamedTuple):
    """How a file's arrays make a model's parameters.

    Attributes:
      found: path → (index → that part of the parameter).
      resized: what was stored for inputs of another size, one line each.
      fresh: paths that start at random.
      left: of the file, paths that the model has no use for.
    """

    found: dict[str, Callable[[Index], np.ndarray]]
    resized: list[str]
    fresh: list[str]
    left: list[str]


def state(system: System, layout: Layout, init: Any, key: jax.Array) -> State:
    """A state at step 0, made where it belongs.

    Args:
      system: that starts.
      layout: of the run.
      init: `config.init`.
      key: of what starts at random.

    Raises:
      UserError: the weights do not fit: all that is wrong with them at once.
    """
    if not init.weights:
        return layout.init(key)
    return layout.begin(params(system, layout, init, key))


def params(system: System, layout: Layout, init: Any, key: jax.Array) -> Any:
    """The parameters of converted weights, where they belong; raises as `state`."""
    found, _, fresh, _ = check(system, layout, init)
    wanted = tree.flatten(layout.abstract.params)
    leaves = {
        path: jax.make_array_from_callback(
            leaf.shape, leaf.sharding, _cast(found[path], leaf.dtype)
        )
        for path, leaf in wanted.items()
        if path in found
    }
    if fresh:
        made = jax.jit(
            lambda key: {path: tree.flatten(layout.fresh(key))[path] for path in fresh},
            out_shardings={path: wanted[path].sharding for path in fresh},
        )
        leaves |= made(key)
    return tree.unflatten(leaves)


def _cast(part: Callable[[Index], np.ndarray], dtype: Any) -> Callable[[Index], np.ndarray]:
    # A copy, whatever the type: CPU devices share memory with arrays, and the file's is not to be
    # written to.
    return lambda index: np.array(part(index), dtype, order="C")


def check(system: System, layout: Layout, init: Any) -> Fit:
    """Whether `config.init` fits, before anything is read or compiled.

    Raises:
      UserError: missing, left-over and mis-shaped parameters that no pattern of `init.partial`
        allows; all at once.
    """
    file = open_converted(init.weights)
    fit, wrong = _fit(file, tree.flatten(layout.shapes.params), system.resize)
    refused = [w for path, w in wrong.items() if not any(re.search(p, path) for p in init.partial)]
    if refused:
        raise UserError(
            f"{file.path} does not fit the config ({len(refused)} parameters): "
            f"{'; '.join(refused)}; config.init.partial can let some differ"
        )
    return fit


def announce(system: System, layout: Layout, init: Any, workdir: Storage) -> None:
    """Checks where a new run is to start and says it, once in a job; raises as `check`."""
    if init.weights and not (workdir / "checkpoints").exists():
        fit = check(system, layout, init)
        if cluster.primary():
            print(describe(fit, init), flush=True)


def describe(fit: Fit, init: Any) -> str:
    """What comes from where, for people."""
    source = open_converted(init.weights).metadata.get(f"{PREFIX}source", "").strip('"')
    whence = f"{init.weights} ({source})" if source else init.weights
    lines = [f"{len(fit.found):,} arrays of parameters from {whence}"]
    lines += [f"resized: {'; '.join(fit.resized)}"] * bool(fit.resized)
    for name, paths in (("at random", fit.fresh), ("left out", fit.left)):
        more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
        lines += [f"{name}: {', '.join(paths[:NAMED])}{more}"] * bool(paths)
    return "\n".join(lines)


def _fit(
    file: SafeFile,
    wanted: Mapping[str, Any],
    resize: Mapping[str, Callable[[np.ndarray, tuple[int, ...]], np.ndarray]],
) -> tuple[Fit, dict[str, str]]:
    """The fit, and path → what is wrong with it."""
    fit = Fit({}, [], [], [])
    wrong: dict[str, str] = {}
    used: set[str] = set()
    for path, leaf in wanted.items():
        names = _names(file, path, leaf.shape)
        used.update(names)
        shapes = [file.tensors[name].shape for name in names if name in file]
        each = leaf.shape if names == [path] else leaf.shape[1:]
        if len(shapes) < len(names):
            wrong[path] = f"{path} is missing"
        elif any(shape != each for shape in shapes):
            how = next((f for pattern, f in resize.items() if re.search(pattern, path)), None)
            if how and names == [path] and shapes[0][-1] == each[-1]:
                array = how(np.asarray(file[path]), each)
                fit.found[path] = array.__getitem__
                fit.resized.append(f"{path} {shapes[0]} to {each}")
                continue
            bad = next(shape for shape in shapes if shape != each)
            wrong[path] = f"{path} is {bad}, needed {each}"
        else:
            fit.found[path] = _reader(file, path, names)
        if path in wrong:
            fit.fresh.append(path)
    for name in file:
        if name not in used and not name.startswith(KEPT):
            wrong[name] = f"{name} is left over"
            fit.left.append(name)
    return fit, wrong


def _names(file: SafeFile, path: str, shape: Sequence[int]) -> list[str]:
    """Under which a parameter is stored: that of a scanned stack as it is, or block by block."""
    if path in file or "/blocks/" not in path:
        return [path]
    return [path.replace("/blocks/", f"/blocks_{i}/") for i in range(shape[0])]


def _reader(file: SafeFile, path: str, names: list[str]) -> Callable[[Index], np.ndarray]:
    if names == [path]:
        return lambda index: file[path][index]
    return lambda index: np.stack([file[name][index[1:]] for name in names[index[0]]])
