"""The analytic work of a training step, counted before anything is compiled."""

from typing import Any

from weavejax.runtime import tree
from weavejax.runtime.step import split
from weavejax.systems.base import Params, System, origin


def remat_of(config: Any) -> dict[str, str]:
    """Part of the model → what its backward pass recomputes, where the config has a say."""
    return {
        name: part["remat"]
        for name, part in config.model.items()
        if hasattr(part, "keys") and "remat" in part
    }


def step_flops(system: System, config: Any, params: Params) -> dict[str, Any]:
    """Analytic FLOPs of one step over all devices: forward, trained, recomputed.

    A part with a trainable parameter costs three times its forward pass, a frozen one its forward
    pass, twice that where gradients pass through it (`System.passed`). Recomputation of a part (`remat`
    "full") is another forward pass; of "dots" only the products of attention are recomputed, which
    are not counted.

    Args:
      system: whose step.
      config: for the batch, and for what is recomputed.
      params: shapes of the parameters.
    """
    trainable, rest = split(params, system.frozen)
    frozen = {_part(path) for path in rest} - {_part(path) for path in trainable}
    # A copy of a network recomputes what that network does.
    sources = {
        _part(path): _part(source)
        for path in tree.flatten(params)
        if (source := origin(path, system.copies))
    }
    remat = remat_of(config)
    forward = {part: flops * config.batch for part, flops in system.flops.items()}
    times = {
        part: 3 if part not in frozen else 2 if part in system.passed else 1 for part in forward
    }
    return {
        "forward by part": forward,
        "forward": sum(forward.values()),
        "step": sum(times[part] * flops for part, flops in forward.items()),
        "recomputation": sum(
            flops
            for part, flops in forward.items()
            if times[part] > 1 and remat.get(sources.get(part, part)) == "full"
        ),
        "frozen parts": sorted(frozen & forward.keys()),
        "passed parts": sorted(frozen & forward.keys() & system.passed),
    }


def _part(path: str) -> str:
    """First name of a parameter's path; an adapter belongs to what it adapts."""
    return path.removeprefix("lora/").split("/")[0]
