"""VAST's and GRAM's matching path: a text and a clip's condition tokens, judged by the text encoder."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jax import Array

from weavejax.models import fusion
from weavejax.systems.base import Batch, Params
from weavejax.systems.towers import Towers


def condition(
    towers: Towers,
    params: Params,
    batch: Batch,
    tokens: Mapping[str, Array],
    modalities: Sequence[str],
) -> tuple[Array, Array]:
    """Condition tokens [B, S, width] of the clips and which of them to attend to, bool [B, S].

    The published code attends to all tokens, also to those of a modality that is not there and to
    padded subtitle positions. Here what is absent is masked; padding is attended to, as published.

    Args:
      towers: with a matching path.
      params: of the system.
      batch: its presence masks are read.
      tokens: by modality, as `Towers.encode` gives them.
      modalities: what is seen of a clip, in the order of the published concatenation.
    """
    assert towers.matching is not None
    seen = {name: tokens[name][:, 0] if name == "subtitle" else tokens[name] for name in modalities}
    made = fusion.Fusion(towers.matching).apply({"params": params["fusion"]}, seen)
    assert isinstance(made, jax.Array)
    masks = []
    for name in modalities:
        count = seen[name].shape[1] * (1 if name == "subtitle" else seen[name].shape[2])
        masks.append(jnp.broadcast_to(batch[f"{name}_mask"][:, None], (len(made), count)))
    return made, jnp.concatenate(masks, axis=1)


def judge(
    towers: Towers,
    params: Params,
    text: Array,
    condition: Array,
    condition_mask: Array,
    key: Array | None,
) -> Array:
    """Logits [N, 2] (no, yes) of texts [N, L] belonging to clips; `key` None = no dropout."""
    assert towers.matching is not None
    first = towers.text.network.apply(
        {"params": params["text"]},
        *towers.text.prepare(text),
        condition=condition,
        # A clip without anything to attend to takes part in no loss; a softmax over nothing is NaN.
        condition_mask=condition_mask | ~condition_mask.any(1, keepdims=True),
        deterministic=key is None,
        rngs=None if key is None else {"dropout": key},
    )
    assert isinstance(first, jax.Array)
    logits = fusion.MatchHead(towers.matching).apply({"params": params["match"]}, first[:, 0])
    assert isinstance(logits, jax.Array)
    return logits
