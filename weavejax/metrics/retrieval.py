"""Retrieval metrics from a score matrix."""

import numpy as np

CUTOFFS = (1, 5, 10)


def ranks(scores_qg: np.ndarray, target_q: np.ndarray | None = None) -> np.ndarray:
    """Rank (1 = best) of each query's own gallery item.

    Ties count against the query: a score that cannot tell two items apart has not found either.

    Args:
      scores_qg: [Q, G], higher is better; NaN is refused.
      target_q: index of the right item per query; the diagonal by default.

    Returns:
      int [Q].
    """
    if np.isnan(scores_qg).any():
        raise ValueError("the score matrix holds NaN")
    target_q = np.arange(len(scores_qg)) if target_q is None else target_q
    own_q = np.take_along_axis(scores_qg, target_q[:, None], axis=1)
    return (scores_qg >= own_q).sum(1)


def recalls(rank_q: np.ndarray) -> dict[str, float]:
    """R@1, R@5, R@10 in percent and the median rank (MdR)."""
    out = {f"R@{k}": 100.0 * float(np.mean(rank_q <= k)) for k in CUTOFFS}
    return out | {"MdR": float(np.median(rank_q))}
