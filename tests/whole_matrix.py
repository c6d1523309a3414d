"""The two-direction contrastive loss with all its logits, that the streamed one is held against."""

import jax.numpy as jnp
from jax import Array, lax


def two_way_cross_entropy(
    anchor_to_clip: Array, clip_to_anchor: Array, paired: Array, *, smoothing: float = 0.0
) -> tuple[Array, Array]:
    """Label-smoothed cross-entropy, anchor → clip along rows and clip → anchor along columns.

    GRAM's loss (arXiv 2412.11959, eq. 5–6; label smoothing 0.1 from the published code): anchors and
    clips are swapped as whole blocks, so there are two directions, whatever the number of modalities.

    Args:
      anchor_to_clip: logits [B, B], entry (i, j) of anchor i with clip j; softmax over j.
      clip_to_anchor: logits [B, B], same layout; softmax over i. The same array as `anchor_to_clip`
        for the full gradient; a copy with other gradient stops for the published half gradient.
      paired: bool [B]; False for a pair whose anchor or whose whole clip is missing: it is neither a
        query nor a candidate.
      smoothing: share of the target spread evenly over all candidates.

    Returns:
      The sum over the 2·B terms of the loss of each pair, halved: (sum [], number of pairs []).
    """
    forward = _smoothed_cross_entropy(anchor_to_clip, paired, smoothing)
    backward = _smoothed_cross_entropy(clip_to_anchor.T, paired, smoothing)
    per_pair = jnp.where(paired, 0.5 * (forward + backward), 0.0)
    return per_pair.sum(), paired.sum().astype(per_pair.dtype)


def _smoothed_cross_entropy(logits_qc: Array, valid_c: Array, smoothing: float) -> Array:
    """Per query: log-sum-exp − (1 − ε)·own logit − ε·mean logit, over the valid candidates."""
    masked_qc = jnp.where(valid_c[None, :], logits_qc, -jnp.inf)
    # A row without candidates would be −inf everywhere; its term is dropped by the caller.
    top_q = lax.stop_gradient(jnp.maximum(masked_qc.max(1), jnp.finfo(logits_qc.dtype).min))
    log_sum_q = top_q + jnp.log(
        jnp.maximum(jnp.exp(masked_qc - top_q[:, None]).sum(1), jnp.finfo(logits_qc.dtype).tiny)
    )
    count = jnp.maximum(valid_c.sum(), 1).astype(logits_qc.dtype)
    mean_q = jnp.where(valid_c[None, :], logits_qc, 0.0).sum(1) / count
    return log_sum_q - (1.0 - smoothing) * jnp.diagonal(logits_qc) - smoothing * mean_q
