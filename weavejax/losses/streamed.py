r"""The contrastive loss of a large batch, without its matrix of logits.

Anchors and clips are scored in blocks; running statistics (`losses.tiles`) of every row and column are
all that is kept, and the backward pass makes each block again. Memory is O(B·k·D + block²) instead of
O(B²), in the published formulation O(k²·B²).

Over a mesh each device keeps its own anchors, and meets all clips in one of two ways: "gather" brings
all clips to every device at once; "ring" hands them on from device to device, with the statistics of
their columns, and in the backward pass with their gradients. The ring holds one shard of clips at a
time, the gather has fewer, larger messages. Both give the same but for the order of sums.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from weavejax.losses.blocks import (
    Place,
    find_place,
    gather,
    global_numbers,
    hand_on,
    merge_views,
    spread,
    sweep_blocks,
)
from weavejax.losses.score import Score
from weavejax.losses.tiles import (
    Stats,
    draw_rivals,
    gumbel,
    log_mass,
    merge,
    no_stats,
    tile_stats,
)

Tile = Callable[[Array, list[Array], list[Array], dict[str, Array]], Array]
Scalars = dict[str, Array]


class Plan(NamedTuple):
    """How a batch is contrasted.

    Attributes:
      objective: "softmax" (InfoNCE in both directions) or "sigmoid" (SigLIP, arXiv 2303.15343, eq. 1:
        −log σ(y·logit) over all pairs, y = 1 for a pair's own and −1 elsewhere).
      gradient: "full", or "half" as GRAM's published code has it: its gathered features carry no
        gradient, so anchors learn from anchor → clip and clips from clip → anchor alone.
      smoothing: share of the softmax target spread evenly over all candidates.
      block: anchors and clips scored at a time.
      exchange: "gather", "ring" or "auto" (gather while that is at most 64 MiB a device).
      rivals: share added to the softmax when one other clip per anchor and one other anchor per clip
        are drawn; 0 draws none. Published: 1e-4.
    """

    objective: str = "softmax"
    gradient: str = "full"
    smoothing: float = 0.0
    block: int = 1024
    exchange: str = "auto"
    rivals: float = 0.0


class Contrast(NamedTuple):
    """What `contrast` gives.

    Attributes:
      total: sum over the pairs of their losses [].
      pairs: how many [].
      own: logit of each pair [B]; 0 where there is none.
      hit: whether no other clip has as high a logit with the anchor, bool [B].
      hard_clip: index of another clip for each anchor, int32 [B]; its own when none was drawn.
      hard_anchor: index of another anchor for each clip, int32 [B].
    """

    total: Array
    pairs: Array
    own: Array
    hit: Array
    hard_clip: Array
    hard_anchor: Array


class _Side(NamedTuple):
    """What moves of the clips: what the score prepared, who takes part, and their numbers."""

    floats: list[Array]
    others: list[Array]
    usable: Array
    number: Array


def contrast(
    plan: Plan,
    score: Score,
    anchor: Array,
    clip: Array,
    present: Array,
    paired: Array,
    scalars: Scalars,
    key: Array,
) -> Contrast:
    """Contrasts every anchor with every clip: logits are score/temperature (+ bias).

    Args:
      plan: objective, gradient and blocks.
      score: an entry of `SCORES`.
      anchor: unit vectors float32 [B, D].
      clip: unit vectors float32 [B, M, D]; clip i belongs to anchor i.
      present: bool [B, M].
      paired: bool [B]; False for a pair whose anchor or whole clip is missing: it is neither a query
        nor a candidate.
      scalars: "temperature" [], what the score learns, and for the sigmoid "bias" [].
      key: for the rivals (threefry).
    """
    leaves, treedef = jax.tree.flatten(score.prepare(clip, present))
    inexact = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]
    floats = [leaf for leaf, yes in zip(leaves, inexact, strict=True) if yes]
    others = [leaf for leaf, yes in zip(leaves, inexact, strict=True) if not yes]

    def tile(anchor_ad: Array, floats: list[Array], others: list[Array], scalars: Scalars) -> Array:
        sources = {True: iter(floats), False: iter(others)}
        clips = jax.tree.unflatten(treedef, [next(sources[yes]) for yes in inexact])
        sim = score.compare(anchor_ad, clips, scalars)
        return sim / scalars["temperature"] + scalars.get("bias", jnp.zeros(()))

    place = find_place(plan.exchange, leaves, len(anchor))
    noise = jax.random.key_data(key)
    side = (others, paired, noise)
    total, rows, cols = _streamed(plan, place, tile, anchor, floats, scalars, *side)
    hard_clip = hard_anchor = jnp.arange(len(anchor), dtype=jnp.int32)
    if plan.rivals:
        first, second = jax.random.split(jax.random.fold_in(key, 1))
        hard_clip = draw_rivals(rows, paired, plan.rivals, first)
        hard_anchor = draw_rivals(cols, paired, plan.rivals, second)
    hit = paired & (rows.own > rows.rival)
    count = paired.sum().astype(total.dtype)
    return Contrast(total, count, rows.own, hit, hard_clip, hard_anchor)


def _streamed(
    plan: Plan,
    place: Place,
    tile: Tile,
    anchor: Array,
    floats: list[Array],
    scalars: Scalars,
    others: list[Array],
    paired: Array,
    noise: Array,
) -> tuple[Array, Stats, Stats]:
    """The sum of the losses, and the statistics of rows and columns, which carry no derivative."""
    shared = partial(spread, place)

    def value(*args: Any) -> tuple[Array, Stats, Stats]:
        anchor, floats, scalars, others, paired, noise = args
        forward = shared(partial(_forward, plan, place, tile), "bbb.b.", "bb")
        rows, cols = forward(anchor, floats, others, scalars, paired, noise)
        return _total(plan, rows, cols, paired), rows, cols

    def forward(*args: Any) -> tuple[Any, Any]:
        out = value(*args)
        return out, (*args[:5], log_mass(out[1]), log_mass(out[2]))

    def backward(saved: Any, bars: Any) -> tuple[Any, ...]:
        anchor, floats, scalars, others, paired, row_mass, col_mass = saved
        count = jnp.maximum(paired.sum(), 1).astype(jnp.float32)
        pull = shared(partial(_backward, plan, place, tile), "bbb.bbb.", "bb.")
        facts = jnp.stack([bars[0], count])
        pulled = pull(anchor, floats, others, scalars, paired, row_mass, col_mass, facts)
        return (*pulled, None, None, None)

    run = jax.custom_vjp(value)
    run.defvjp(forward, backward)
    total, rows, cols = run(anchor, floats, scalars, others, paired, noise)
    return total, *lax.stop_gradient((rows, cols))


def _total(plan: Plan, rows: Stats, cols: Stats, paired: Array) -> Array:
    if plan.objective == "sigmoid":
        return rows.total.sum()
    count = jnp.maximum(paired.sum(), 1).astype(rows.total.dtype)
    even = plan.smoothing * (rows.total + cols.total) / count
    each = log_mass(rows) + log_mass(cols) - 2.0 * (1.0 - plan.smoothing) * rows.own - even
    return jnp.where(paired, 0.5 * each, 0.0).sum()


def _forward(
    plan: Plan,
    place: Place,
    tile: Tile,
    anchor: Array,
    floats: list[Array],
    others: list[Array],
    scalars: Scalars,
    paired: Array,
    noise: Array,
) -> tuple[Stats, Stats]:
    def block(_: Any, mine: Any, rows: Stats, side: _Side, cols: Stats) -> Any:
        anchor, usable, index = mine
        logits = tile(anchor, side.floats, side.others, scalars)
        both, same = _pairs(usable, index, side)
        ahead = across = weigh = None
        if plan.rivals:
            ahead, across = gumbel(noise, index, side.number)
            across = across.T
        if plan.objective == "sigmoid":
            weigh = jax.nn.softplus(jnp.where(same, -logits, logits))
        seen = tile_stats(logits, both, same, side.number, noise_qc=ahead, weigh_qc=weigh)
        seen_by = tile_stats(logits.T, both.T, same.T, index, noise_qc=across)
        return (), merge(rows, seen), merge(cols, seen_by)

    index = global_numbers(place, len(anchor))
    mine, side = (anchor, paired, index), _Side(floats, others, paired, index)
    rows = cols = no_stats(len(anchor), index)
    sweep = partial(sweep_blocks, plan.block, block)
    if place.ways == 1:
        _, rows, cols = sweep((), mine, rows, side, cols)
    elif place.ring:

        def step(carry: Any, _: None) -> tuple[Any, None]:
            rows, side, cols = carry
            _, rows, cols = sweep((), mine, rows, side, cols)
            return (rows, *hand_on(place, (side, cols))), None

        (rows, _, cols), _ = lax.scan(step, (rows, side, cols), None, length=place.ways)
    else:
        everyone = gather(place, side)
        cols = no_stats(len(everyone.number), everyone.number)
        _, rows, cols = sweep((), mine, rows, everyone, cols)
        cols = merge_views(place, cols, len(anchor))
    return rows, cols


def _backward(
    plan: Plan,
    place: Place,
    tile: Tile,
    anchor: Array,
    floats: list[Array],
    others: list[Array],
    scalars: Scalars,
    paired: Array,
    row_mass: Array,
    col_mass: Array,
    facts: Array,
) -> tuple[Array, list[Array], Scalars]:
    bar, count = facts

    def block(scalar_bar: Scalars, mine: Any, anchor_bar: Array, theirs: Any, bars: Any) -> Any:
        anchor, usable, index, row_mass = mine
        side, col_mass = theirs

        def logits_of(anchor: Array, floats: list[Array], scalars: Scalars) -> Array:
            return tile(anchor, floats, side.others, scalars)

        logits, pull = jax.vjp(logits_of, anchor, side.floats, scalars)
        both, same = _pairs(usable, index, side)
        if plan.objective == "sigmoid":
            sign = jnp.where(same, -1.0, 1.0)
            ahead = jnp.where(both, bar * sign * jax.nn.sigmoid(sign * logits), 0.0)
            across = jnp.zeros_like(ahead)
        else:
            even = plan.smoothing / count
            target = jnp.where(same, 1.0 - plan.smoothing + even, even)
            ahead, across = (
                jnp.where(both, 0.5 * bar * (jnp.exp(logits - mass) - target), 0.0)
                for mass in (row_mass[:, None], col_mass[None, :])
            )
        if plan.gradient == "half":
            (a, _, s), (_, c, t) = pull(ahead), pull(across)
            s = jax.tree.map(jnp.add, s, t)
        else:
            a, c, s = pull(ahead + across)
        return jax.tree.map(jnp.add, (scalar_bar, anchor_bar, bars), (s, a, c))

    index = global_numbers(place, len(anchor))
    mine, side = (anchor, paired, index, row_mass), _Side(floats, others, paired, index)
    nothing = jax.tree.map(jnp.zeros_like, (scalars, anchor, floats))
    sweep = partial(sweep_blocks, plan.block, block)
    if place.ways == 1:
        scalar_bar, anchor_bar, bars = sweep(*_ordered(nothing, mine, (side, col_mass)))
        return anchor_bar, bars, scalar_bar
    if place.ring:

        def step(carry: Any, _: None) -> tuple[Any, None]:
            so_far, theirs = carry
            scalar_bar, anchor_bar, bars = sweep(*_ordered(so_far, mine, theirs))
            bars, theirs = hand_on(place, (bars, theirs))
            return ((scalar_bar, anchor_bar, bars), theirs), None

        start = (nothing, (side, col_mass))
        ((scalar_bar, anchor_bar, bars), _), _ = lax.scan(step, start, None, length=place.ways)
    else:
        everyone = gather(place, (side, col_mass))
        so_far = (*nothing[:2], jax.tree.map(jnp.zeros_like, everyone[0].floats))
        scalar_bar, anchor_bar, bars = sweep(*_ordered(so_far, mine, everyone))
        bars = [lax.psum_scatter(x, place.axes, scatter_dimension=0, tiled=True) for x in bars]
    return anchor_bar, bars, lax.psum(scalar_bar, place.axes)


def _ordered(so_far: Any, mine: Any, theirs: Any) -> tuple[Any, ...]:
    """Arguments of a sweep whose results so far are (common, of the anchors, of the clips)."""
    common, ours, others = so_far
    return common, mine, ours, theirs, others


def _pairs(usable: Array, index: Array, side: _Side) -> tuple[Array, Array]:
    """Which pairs of a block take part, and which are an anchor and its own clip: bool [A, C]."""
    return usable[:, None] & side.usable[None, :], index[:, None] == side.number[None, :]
