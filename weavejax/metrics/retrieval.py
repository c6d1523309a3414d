"""Retrieval between anchors and clips by a score, in blocks: ranks, candidates, recalls."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from weavejax.metrics.interval import RESAMPLES

CUTOFFS = (1, 5, 10)
BLOCK = 2048  # anchors, and clips, scored at a time: 16 MiB of scores
Arrays = Any  # a pytree of arrays with a leading clip dimension


class Found(NamedTuple):
    """What a search found, of every query.

    Attributes:
      rank: of its own item, 1 = best; ties count against the query: a score that cannot tell two
        items apart has not found either. int64 [Q].
      best: its nearest items, nearest first, int32 [Q, top].
      scores: of those, float32 [Q, top].
    """

    rank: np.ndarray
    best: np.ndarray
    scores: np.ndarray


def search(
    compare: Callable[[jax.Array, Arrays, Any], jax.Array],
    anchors: np.ndarray,
    clips: Arrays,
    learned: Any = None,
    *,
    top: int = 0,
    block: int = BLOCK,
) -> tuple[Found, Found]:
    """Ranks and nearest items of every anchor among the clips, and of every clip among the anchors.

    Memory on the device is that of a block, whatever the gallery; on the host, of the inputs and of
    what is found.

    Args:
      compare: (anchors [A, …], clips with leading [B], learned) → scores [A, B], higher is better. The
        same function is compiled once for all searches.
      anchors: [N, …]; anchor i belongs to clip i.
      clips: pytree with leading N.
      learned: handed on to `compare`.
      top: nearest items to keep; fewer where the gallery is smaller.
      block: anchors and clips scored at a time.

    Raises:
      ValueError: a score is NaN, or there is nothing to search.
    """
    if not len(anchors):
        raise ValueError("there is nothing to search")
    count, top = len(anchors), min(top, len(anchors))
    starts = range(0, count, block)
    run = _program(compare, top)

    def scored(rows: int, cols: int) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
        part = jax.tree.map(lambda x: jnp.asarray(x[cols : cols + block]), clips)
        out = jax.device_get(run(jnp.asarray(anchors[rows : rows + block]), part, learned))
        if np.isnan(out[0]).any():
            raise ValueError("a score is NaN")
        return out

    # The own scores come from the same blocks as all others, so that ties are exact.
    own = np.concatenate([np.diagonal(scored(start, start)[0]) for start in starts])
    ranks = np.zeros((2, count), np.int64)
    sizes = [min(block, count - start) for start in starts]
    kept = [[_Nearest(size, top) for size in sizes] for _ in range(2)]
    for i, rows in enumerate(starts):
        for j, cols in enumerate(starts):
            scores, tops = scored(rows, cols)
            down, across = slice(rows, rows + block), slice(cols, cols + block)
            ranks[0, down] += (scores >= own[down, None]).sum(1)
            ranks[1, across] += (scores >= own[None, across]).sum(0)
            for nearest, (values, places), start in zip(
                (kept[0][i], kept[1][j]), tops, (cols, rows), strict=False
            ):
                nearest.add(values, places + start)
    first, second = (
        Found(rank, *(np.concatenate(x) for x in zip(*map(_Nearest.found, parts), strict=True)))
        for rank, parts in zip(ranks, kept, strict=True)
    )
    return first, second


@functools.lru_cache(maxsize=64)
def _program(compare: Callable[..., jax.Array], top: int) -> Callable[..., Any]:
    @jax.jit
    def run(
        anchors: jax.Array, clips: Arrays, learned: Any
    ) -> tuple[jax.Array, list[tuple[Any, Any]]]:
        scores = compare(anchors, clips, learned)
        # Of equal scores top_k takes the first: the same items however the gallery is cut.
        sides = (scores, scores.T) if top else ()
        return scores, [jax.lax.top_k(side, min(top, side.shape[1])) for side in sides]

    return run


class _Nearest:
    """The `top` best of the items seen so far, for one block of queries."""

    def __init__(self, queries: int, top: int) -> None:
        self.top = top
        self.items = np.zeros((queries, 0), np.int32)
        self.scores = np.zeros((queries, 0), np.float32)

    def add(self, scores: np.ndarray, items: np.ndarray) -> None:
        items = np.concatenate([self.items, items], 1)
        scores = np.concatenate([self.scores, scores], 1)
        order = np.lexsort((items, -scores), axis=1)[:, : self.top]
        self.items = np.take_along_axis(items, order, 1)
        self.scores = np.take_along_axis(scores, order, 1)

    def found(self) -> tuple[np.ndarray, np.ndarray]:
        return self.items, self.scores


def rerank(found: Found, own_q: np.ndarray, probability_qt: np.ndarray) -> np.ndarray:
    """Ranks after a second stage that looks at the nearest items only, int64 [Q].

    VAST's and GRAM's protocol: the candidates are ordered by match probability alone, everything else
    stays behind them. A query whose own item is no candidate keeps its rank of the first stage.

    Args:
      found: of the first stage.
      own_q: number of each query's own item.
      probability_qt: match probability of each query with its candidates `found.best` [Q, top].
    """
    is_own = found.best == own_q[:, None]
    own = np.where(is_own, probability_qt, -np.inf).max(1, initial=-np.inf)
    second = (probability_qt >= own[:, None]).sum(1)
    return np.where(is_own.any(1), second, np.maximum(found.rank, found.best.shape[1] + 1))


def recalls(rank_q: np.ndarray) -> dict[str, float]:
    """R@1, R@5, R@10 in percent and the median rank (MdR)."""
    out = {f"R@{k}": 100.0 * float(np.mean(rank_q <= k)) for k in CUTOFFS}
    return out | {"MdR": float(np.median(rank_q))}


def bootstrap(rank_q: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Interval of R@1 in percent when the queries are drawn again, seed 0, 1,000 times.

    The gallery stays: this is the noise of which questions are asked, not of training.
    """
    hits = (rank_q <= 1).astype(np.float64)
    # The sum of n draws from zeros and ones is binomial: the same distribution without drawing each.
    drawn = np.random.default_rng(0).binomial(len(hits), hits.mean(), RESAMPLES) / len(hits)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return 100.0 * float(low), 100.0 * float(high)
