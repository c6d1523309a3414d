"""What looks at the frames of a window in Fol·AI: `config.model.vision.kind`.

Towers of `systems.encoders` look at every frame by itself; "cavp", as published, is a network over
video (`models.slow_only`), in which a frame also sees its neighbours.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from weavejax.errors import UserError
from weavejax.models import slow_only
from weavejax.models.slow_only import SlowOnly, SlowOnlyConfig
from weavejax.ops.transformer import Rule
from weavejax.systems.base import Params
from weavejax.systems.encoders import Tower, configured, make_tower

CAVP = "cavp"
TINY = 1e-12  # of a squared norm


@dataclass(frozen=True)
class FrameTower:
    """One network over frames, as Fol·AI uses it.

    Attributes:
      width: of what it says of a frame.
      rules: its sharding table.
      init: key → parameters.
      see: (parameters, video uint8 [B, F, H, W, 3], key of dropout or None) → float32 [B, F, width],
        each of length 1.
      flops: of the forward pass of one frame. Multiply-adds counted twice.
    """

    width: int
    rules: tuple[Rule, ...]
    init: Callable[[Array], Any]
    see: Callable[[Params, Array, Array | None], Array]
    flops: float


def make_frame_tower(config: Any) -> FrameTower:
    """The tower of a config: `config.model.vision`, and the shapes of `config.inputs`.

    Raises:
      UserError: unknown kind, or fields that do not fit it.
    """
    if config.model.vision.get("kind") == CAVP:
        return _cavp(config.model.vision, config.inputs.size)
    return _frame_by_frame(make_tower("vision", config), config.inputs.size)


def _frame_by_frame(tower: Tower, size: int) -> FrameTower:
    def init(key: Array) -> Any:
        blank = tower.prepare(jnp.zeros((1, size, size, 3), jnp.uint8))
        made: Any = tower.network.init(key, *blank, deterministic=True)
        return made["params"]

    def see(params: Params, video: Array, key: Array | None) -> Array:
        frames = tower.prepare(video.reshape(-1, *video.shape[2:]))
        tokens = run_tower(tower, params, frames, key)
        return unit(tower.pool(tokens, *frames)).reshape(*video.shape[:2], -1)

    return FrameTower(tower.width, tower.rules, init, see, tower.flops(0))


def _cavp(section: Any, size: int) -> FrameTower:
    fields = {n: tuple(v) if isinstance(v, (list, tuple)) else v for n, v in section.items()}
    try:
        config: SlowOnlyConfig = configured(SlowOnlyConfig, fields)
    except ValueError as error:
        raise UserError(f"model.vision ({CAVP}): {error}") from error
    network = SlowOnly(config)

    def init(key: Array) -> Any:
        made: Any = network.init(key, jnp.zeros((1, 1, 32, 32, 3)), deterministic=True)
        return made["params"]

    def see(params: Params, video: Array, key: Array | None) -> Array:
        del key  # it has no dropout, and its norms stay as they are
        pictures = video.astype(jnp.float32) / 255.0
        made: Any = network.apply({"params": params}, pictures, deterministic=True)
        return made

    rules = slow_only.rules(config)
    return FrameTower(config.embedding, rules, init, see, slow_only.flops(config, 1, size))


def run_tower(
    tower: Tower, params: Any, inputs: tuple[Array, ...], key: Array | None, **how: Any
) -> Array:
    """Tokens of a tower, with dropout by `key` unless that is None."""
    apply: Any = partial(tower.network.apply, deterministic=key is None, **how)
    return apply({"params": params}, *inputs, rngs=None if key is None else {"dropout": key})


def unit(x: Array) -> Array:
    """Vectors of length 1, float32."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + TINY)
