"""Judges a step inside the compiled program, so that a poisoned one changes nothing.

A step is refused when its loss or its gradient norm is not finite, or lies far above the last
accepted ones: above median + sigmas · spread of a window, where the spread is the median absolute
deviation (× 1.4826, the σ of a normal distribution) and never less than a floor, so that a quiet
stretch of training does not make ordinary steps suspicious.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from weavejax.errors import UserError

MAD_TO_SIGMA = 1.4826
LOSS_FLOOR = 0.05  # of the median loss: 6 sigmas are at least 30 %
NORM_FLOOR = 0.5  # of the log gradient norm: 6 sigmas are at least a factor of 20


class GuardState(NamedTuple):
    """What the guard remembers; part of the train state, so that it resumes exactly.

    Attributes:
      losses: of the last accepted steps, float32 [window]; NaN where there is none yet.
      norms: natural logarithms of their gradient norms, float32 [window].
      accepted: steps accepted so far, int32 [].
      refused: steps refused so far, int32 [].
      in_a_row: refused since the last accepted one, int32 [].
    """

    losses: Any
    norms: Any
    accepted: Any
    refused: Any
    in_a_row: Any


def check_guard(config: Any) -> None:
    """Raises UserError for a `config.guard` (window, warmup, sigmas, limit) that makes no sense."""
    if not (1 <= config.warmup <= config.window) or config.sigmas < 0 or config.limit < 1:
        raise UserError(
            "guard: needs 1 ≤ warmup ≤ window, sigmas ≥ 0 (0 refuses only what is not finite) and "
            f"limit ≥ 1; got {config.to_dict()}"
        )


def fresh(window: int) -> GuardState:
    """Of a run that has not made a step."""

    def empty() -> Array:
        return jnp.full((window,), jnp.nan, jnp.float32)

    # An array each: the train step is given them all, and one cannot be given twice.
    return GuardState(empty(), empty(), *(jnp.zeros((), jnp.int32) for _ in range(3)))


def judge(config: Any, guard: GuardState, loss: Array, norm: Array) -> tuple[Array, GuardState]:
    """Whether to accept a step, and what to remember of it.

    Args:
      config: `config.guard`: window; warmup, accepted steps before outliers are looked for; sigmas.
      guard: of the steps before.
      loss: of this step, [].
      norm: of its gradients, before clipping, [].

    Returns:
      accepted, bool []; the guard after the step.
    """
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    loss = loss.astype(jnp.float32)
    log_norm = jnp.log(jnp.maximum(norm.astype(jnp.float32), 1e-30))
    outlying = _far_above(guard.losses, loss, config.sigmas, LOSS_FLOOR, relative=True)
    outlying |= _far_above(guard.norms, log_norm, config.sigmas, NORM_FLOOR, relative=False)
    watching = (guard.accepted >= config.warmup) & (config.sigmas > 0)
    accepted = finite & ~(watching & outlying)

    place = jnp.remainder(guard.accepted, len(guard.losses))
    one = accepted.astype(jnp.int32)
    return accepted, GuardState(
        losses=jnp.where(accepted, guard.losses.at[place].set(loss), guard.losses),
        norms=jnp.where(accepted, guard.norms.at[place].set(log_norm), guard.norms),
        accepted=guard.accepted + one,
        refused=guard.refused + 1 - one,
        in_a_row=jnp.where(accepted, 0, guard.in_a_row + 1),
    )


def _far_above(
    window: Array, value: Array, sigmas: float, floor: float, *, relative: bool
) -> Array:
    centre = jnp.nanmedian(window)
    spread = MAD_TO_SIGMA * jnp.nanmedian(jnp.abs(window - centre))
    least = floor * jnp.abs(centre) if relative else jnp.full((), floor, jnp.float32)
    return value > centre + sigmas * jnp.maximum(spread, least)
