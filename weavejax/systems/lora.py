"""Low-rank adaptation of any system: LoRA (Hu et al., arXiv 2106.09685).

A chosen kernel W becomes W + (α/r)·A·B; W stays as it is, A [in, r] and B [r, out] learn. The sum is
formed before a network sees it, so networks know nothing of it; on N tokens it costs r/N of the layer.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array

from weavejax.errors import UserError
from weavejax.systems.base import Params, System


def adapt(system: System, config: Any) -> System:
    """The system with adapters in place of training its kernels; itself where `rank` is 0.

    Args:
      system: whose kernels to adapt.
      config: `config.lora`: `rank` r; `alpha` α; `on`, a regex of the kernels to adapt [..., in, out];
        `train`, a regex of the other parameters that are trained in full. All else is frozen.

    Raises:
      UserError: `on` matches nothing, or something that is not a matrix.
    """
    if not config.rank:
        return system
    shapes = flatten_dict(jax.eval_shape(system.init, jax.random.key(0)), sep="/")
    targets = {path: leaf.shape for path, leaf in shapes.items() if re.search(config.on, path)}
    flat = sorted(path for path, shape in targets.items() if len(shape) < 2)
    if flat or not targets:
        what = f"matches {', '.join(flat)}, which is no matrix" if flat else "matches no parameter"
        raise UserError(f"lora.on {config.on!r} {what}")
    scale = config.alpha / config.rank

    def init(key: Array) -> Params:
        first, second = jax.random.split(key)
        adapters: dict[str, Array] = {}
        for number, (path, (*stack, width, out)) in enumerate(sorted(targets.items())):
            noise = jax.random.normal(
                jax.random.fold_in(second, number), (*stack, width, config.rank)
            )
            adapters[f"{path}/a"] = noise * width**-0.5
            adapters[f"{path}/b"] = jnp.zeros((*stack, config.rank, out))
        return {**system.init(first), "lora": unflatten_dict(adapters, sep="/")}

    def merged(params: Params) -> Params:
        leaves = flatten_dict({n: p for n, p in params.items() if n != "lora"}, sep="/")
        adapters = flatten_dict(params["lora"], sep="/")
        for path in targets:
            change = scale * jnp.matmul(adapters[f"{path}/a"], adapters[f"{path}/b"])
            leaves[path] = leaves[path] + change.astype(leaves[path].dtype)
        return unflatten_dict(leaves, sep="/")

    def on_merged(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda params, *args: function(merged(params), *args)

    second = system.second_stage
    return replace(
        system,
        init=init,
        loss=on_merged(system.loss),
        embed=on_merged(system.embed),
        features=system.features and on_merged(system.features),
        second_stage=second
        and replace(second, see=on_merged(second.see), match=on_merged(second.match)),
        rules=(*system.rules, (r"^lora/.*/a$", ("data", None)), (r"^lora/.*/b$", ())),
        frozen=lambda path: (
            not path.startswith("lora/")
            and (system.frozen(path) or not re.search(config.train, path))
        ),
    )
