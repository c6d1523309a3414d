"""Where a run starts: at random, from converted weights, or from other runs (`config.init`).

`init.weights` names what fills the whole model, `init.parts` by prefix what fills a part of it:
`parts.oobleck = "runs/oobleck"` puts what that run has learnt under `oobleck/`. Either is a file of
`weavejax.convert`, its directory, or the working directory of a run, and a part comes before the
whole. Weights are read where they are used: each device's share of each parameter goes from the file
to that device, and nothing is made at random that a file has. A copy that a system keeps of one of its
networks (`System.copies`), of which nothing is stored, starts as that network does.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from weavejax.errors import UserError
from weavejax.runs.stored import Stored, below, open_stored
from weavejax.runtime import cluster, tree
from weavejax.runtime.step import Layout, State
from weavejax.storage import Storage
from weavejax.systems.base import System, origin

Index = Any  # a tuple of slices
NAMED = 12  # of a longer list, so many are named in the lines that are printed


class Fit(NamedTuple):
    """How stored arrays make a model's parameters.

    Attributes:
      sources: what each place gives, one line each.
      found: path → (index → that part of the parameter).
      resized: what was stored for inputs of another size, one line each.
      copied: path → that of the parameter as which it starts.
      fresh: paths that start at random.
      left: of what is stored, paths that the model has no use for.
    """

    sources: list[str]
    found: dict[str, Callable[[Index], np.ndarray]]
    resized: list[str]
    copied: dict[str, str]
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
    if not given(init):
        return layout.init(key)
    return layout.begin(params(system, layout, init, key))


def given(init: Any) -> bool:
    """Whether `config.init` names anything to start from."""
    return bool(init.weights or _parts(init))


def _parts(init: Any) -> dict[str, str]:
    """Prefix → place, of the parts that are named."""
    return {prefix: place for prefix, place in init.get("parts", {}).items() if place}


def params(system: System, layout: Layout, init: Any, key: jax.Array) -> Any:
    """The parameters that `init` gives, where they belong; raises as `state`."""
    fit = check(system, layout, init)
    found, fresh = fit.found, fit.fresh
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
    fit = Fit([], {}, [], {}, [], [])
    refused: list[str] = []
    rest = tree.flatten(layout.shapes.params)
    whole = open_stored(init.weights) if init.weights else None
    for prefix, place in _parts(init).items():
        start = f"{prefix}/"
        part = {path: rest.pop(path) for path in list(rest) if path.startswith(start)}
        if not part:
            raise UserError(f"config.init.parts.{prefix}: the system has no parameters {start}…")
        refused += _take(fit, below(open_stored(place), prefix), part, system, init)
        if whole:
            kept = {p: shape for p, shape in whole.shapes.items() if not p.startswith(start)}
            whole = whole._replace(shapes=kept)
    if whole:
        refused += _take(fit, whole, rest, system, init)
    else:
        fit.fresh.extend(rest)
    if refused:
        raise UserError(f"{'; '.join(refused)}; config.init.partial can let some differ")
    _copy(fit, tree.flatten(layout.shapes.params), system)
    return fit


def _copy(fit: Fit, shapes: Mapping[str, Any], system: System) -> None:
    """Lets what would start at random, and is a copy of what does not, start as that."""
    for path in list(fit.fresh):
        source = origin(path, system.copies)
        if source and source in fit.found:
            fit.found[path] = _beginning(fit.found[source], shapes[path].shape)
            fit.fresh.remove(path)
            fit.copied[path] = source


def _beginning(
    part: Callable[[Index], np.ndarray], shape: Sequence[int]
) -> Callable[[Index], np.ndarray]:
    """As much of a parameter as another one of that shape has: the first blocks of a stack."""
    return lambda index: part(
        tuple(slice(*each.indices(size)) for each, size in zip(index, shape, strict=True))
    )


def _take(
    fit: Fit, stored: Stored, wanted: Mapping[str, Any], system: System, init: Any
) -> list[str]:
    """Adds to a fit what a source gives; what stands against it, in a line or none."""
    before = len(fit.found)
    copies = {path for path in wanted if origin(path, system.copies) is not None}
    if not any(_names(stored, path, wanted[path].shape)[0] in stored for path in copies):
        # Not a misfit: `_copy` knows where they come from.
        fit.fresh.extend(sorted(copies))
        wanted = {path: leaf for path, leaf in wanted.items() if path not in copies}
    wrong = _fit(fit, stored, wanted, system.resize)
    whence = f"{stored.name} ({stored.whence})" if stored.whence else stored.name
    fit.sources.append(f"{len(fit.found) - before:,} arrays of parameters from {whence}")
    refused = [w for path, w in wrong.items() if not any(re.search(p, path) for p in init.partial)]
    if not refused:
        return []
    count = f"{len(refused)} parameters"
    return [f"{stored.name} does not fit the config ({count}): {'; '.join(refused)}"]


def announce(system: System, layout: Layout, init: Any, workdir: Storage) -> None:
    """Checks where a new run is to start and says it, once in a job; raises as `check`."""
    if given(init) and not (workdir / "checkpoints").exists():
        fit = check(system, layout, init)
        if cluster.primary():
            print(describe(fit), flush=True)


def describe(fit: Fit) -> str:
    """What comes from where, for people."""
    lines = list(fit.sources)
    lines += [f"resized: {'; '.join(fit.resized)}"] * bool(fit.resized)
    pairs = Counter((path.split("/")[0], of.split("/")[0]) for path, of in fit.copied.items())
    lines += [f"{n} arrays of {to}/ are copies from {of}/" for (to, of), n in pairs.items()]
    for name, paths in (("at random", fit.fresh), ("left out", fit.left)):
        more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
        lines += [f"{name}: {', '.join(paths[:NAMED])}{more}"] * bool(paths)
    return "\n".join(lines)


def _fit(
    fit: Fit,
    stored: Stored,
    wanted: Mapping[str, Any],
    resize: Mapping[str, Callable[[np.ndarray, tuple[int, ...]], np.ndarray]],
) -> dict[str, str]:
    """Adds to a fit what a source gives; path → what is wrong with it."""
    wrong: dict[str, str] = {}
    used: set[str] = set()
    for path, leaf in wanted.items():
        names = _names(stored, path, leaf.shape)
        used.update(names)
        shapes = [stored.shapes[name] for name in names if name in stored]
        each = leaf.shape if names == [path] else leaf.shape[1:]
        if len(shapes) < len(names):
            wrong[path] = f"{path} is missing"
        elif any(shape != each for shape in shapes):
            how = next((f for pattern, f in resize.items() if re.search(pattern, path)), None)
            if how and names == [path] and shapes[0][-1] == each[-1]:
                array = how(np.asarray(stored.read(path)), each)
                fit.found[path] = array.__getitem__
                fit.resized.append(f"{path} {shapes[0]} to {each}")
                continue
            bad = next(shape for shape in shapes if shape != each)
            wrong[path] = f"{path} is {bad}, needed {each}"
        else:
            fit.found[path] = _reader(stored.read, path, names)
        if path in wrong:
            fit.fresh.append(path)
    for name in stored.shapes:
        if name not in used:
            wrong[name] = f"{name} is left over"
            fit.left.append(name)
    return wrong


def _names(stored: Stored, path: str, shape: Sequence[int]) -> list[str]:
    """Under which a parameter is stored: that of a scanned stack as it is, or block by block."""
    if path in stored or "/blocks/" not in path:
        return [path]
    return [path.replace("/blocks/", f"/blocks_{i}/") for i in range(shape[0])]


def _reader(
    read: Callable[[str], np.ndarray], path: str, names: list[str]
) -> Callable[[Index], np.ndarray]:
    if names == [path]:
        return lambda index: read(path)[index]
    return lambda index: np.stack([read(name)[index[1:]] for name in names[index[0]]])
