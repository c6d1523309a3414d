"""AdamW with warm-up, a schedule and parameter groups."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from weavejax.errors import UserError
from weavejax.runtime import tree

Schedule = Callable[[Any], Any]


def schedule(config: Any, steps: int) -> Schedule:
    """Learning rate over steps: linear warm-up, then `config.schedule` down to 0 at `steps`.

    Args:
      config: `lr`; `warmup` (steps, or a share of all steps when below 1); `schedule`, one of
        "linear", "cosine", "constant".
      steps: length of the run.

    Raises:
      UserError: unknown schedule, or a warm-up longer than the run.
    """
    warmup = round(config.warmup * steps) if config.warmup < 1 else int(config.warmup)
    if warmup > steps:
        raise UserError(f"optim.warmup is {warmup} steps, but the run has only {steps}")
    rest = max(steps - warmup, 1)
    shapes: dict[str, Callable[[], Schedule]] = {
        "linear": lambda: optax.linear_schedule(config.lr, 0.0, rest),
        "cosine": lambda: optax.cosine_decay_schedule(config.lr, rest),
        "constant": lambda: optax.constant_schedule(config.lr),
    }
    if config.schedule not in shapes:
        raise UserError(f"optim.schedule {config.schedule!r} is none of {', '.join(shapes)}")
    # The first update has a rate above 0: step 0 takes lr/warmup, not 0.
    rise = optax.linear_schedule(config.lr / max(warmup, 1), config.lr, max(warmup - 1, 1))
    joined = optax.join_schedules([rise, shapes[config.schedule]()], [warmup])
    return lambda step: joined(jnp.asarray(step, jnp.float32))


def make_optimiser(config: Any, steps: int, params: Any) -> optax.GradientTransformation:
    """AdamW over the trainable parameters.

    Args:
      config: `lr`, `warmup`, `schedule` (see `schedule`); `b1`, `b2`, `eps`; `weight_decay`
        (decoupled); `no_decay`, a regex of paths that are not decayed; `clip`, the largest global
        gradient norm (0 = no clipping); `groups`, pairs (regex, factor): the first that matches a
        path multiplies its learning rate, others keep 1.
      steps: length of the run.
      params: the trainable parameters (shapes suffice), a flat or nested dict.

    Raises:
      UserError: a group that matches nothing.
    """
    paths = list(tree.flatten(params))
    for pattern, _ in config.groups:
        if not any(re.search(pattern, path) for path in paths):
            raise UserError(f"optim.groups: {pattern!r} matches no trainable parameter")

    def factor(path: str) -> float:
        return next((float(f) for pattern, f in config.groups if re.search(pattern, path)), 1.0)

    factors = tree.map_with_path(lambda path, _: factor(path), params)
    decayed = tree.map_with_path(
        lambda path, _: not (config.no_decay and re.search(config.no_decay, path)), params
    )
    parts = [
        optax.clip_by_global_norm(config.clip) if config.clip else optax.identity(),
        optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps),
        optax.add_decayed_weights(config.weight_decay, mask=decayed),
        optax.stateless(lambda updates, _: jax.tree.map(lambda u, f: u * f, updates, factors)),
        optax.scale_by_learning_rate(schedule(config, steps)),
    ]
    chain = optax.chain(*parts)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        # optax raises a float to an int32 power, which strict promotion (our tests') refuses.
        with jax.numpy_dtype_promotion("standard"):
            return chain.update(updates, state, params)

    return optax.GradientTransformation(chain.init, update)
