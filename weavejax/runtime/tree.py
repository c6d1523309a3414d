"""Parameters as plain nested dicts, addressed by "/"-joined paths."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

Tree = Any


def path_string(path: tuple[Any, ...]) -> str:
    """A JAX key path as "vision/block_0/attn/qkv/kernel"."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def flatten(tree: Tree) -> dict[str, Any]:
    """Leaves by path, in tree order."""
    return {path_string(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `flatten` for nested dicts."""
    root: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        node = root
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return root


def map_with_path(function: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """`jax.tree.map` whose function gets the path string first."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: function(path_string(path), *leaves), tree, *rest
    )
