"""The matching loss: does this text belong to this clip? (VAST's ITM, GRAM's DAM.)"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from weavejax.ops.exchange import take_rows

Judge = Callable[[Array, Array, Array], Array]


def matching_loss(
    judge: Judge,
    text: Array,
    condition: Array,
    condition_mask: Array,
    paired: Array,
    hard_clip: Array,
    hard_text: Array,
) -> tuple[Array, Array, Array]:
    """Cross-entropy over three rows a pair: itself, with another clip, with another text.

    Published as L_DAM (arXiv 2412.11959): one positive and two hard negatives of each pair. Only the
    chosen rows move between devices; the gradient reaches their encoders, as published.

    Args:
      judge: (text [N,L], condition [N,S,W], condition_mask [N,S]) → logits [N,2]: no, yes.
      text: tokens int32 [B, L].
      condition: tokens of the clips [B, S, W].
      condition_mask: bool [B, S].
      paired: bool [B]; other pairs take no part.
      hard_clip: number of another clip for each text, int32 [B]; the pair's own where there is none.
      hard_text: number of another text for each clip, int32 [B].

    Returns:
      Sum of the rows' losses, their number, and how many were judged right.
    """
    size = len(text)
    own = jnp.arange(size, dtype=hard_clip.dtype)
    clips = (condition, take_rows(condition, hard_clip), condition)
    masks = (condition_mask, take_rows(condition_mask, hard_clip), condition_mask)
    texts = (text, text, take_rows(text, hard_text))
    # Side by side in a new axis, so that the rows of a pair stay on its device.
    rows = [jnp.stack(x, 1).reshape(3 * size, *x[0].shape[1:]) for x in (texts, clips, masks)]
    logits = judge(*rows).astype(jnp.float32).reshape(size, 3, 2)
    usable = jnp.stack([paired, paired & (hard_clip != own), paired & (hard_text != own)], 1)
    label = jnp.broadcast_to(jnp.array([1, 0, 0])[None], (size, 3))
    losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), label[..., None], 2)[..., 0]
    right = (logits.argmax(-1) == label) & usable
    count = usable.sum().astype(jnp.float32)
    return jnp.where(usable, losses, 0.0).sum(), count, right.sum().astype(jnp.float32)
