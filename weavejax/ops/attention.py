"""Scaled dot-product attention: one entry, explicit backends, no silent fall-back."""

import jax
import jax.numpy as jnp

BACKENDS = ("xla", "cudnn")
# Added to the logits of masked keys, as in the published BERT. Far below any real logit, yet
# finite: a query whose keys are all masked gets an average of them instead of NaN.
MASKED_LOGIT = -10000.0


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    bias: jax.Array | None = None,
    mask: jax.Array | None = None,
    scale: float | None = None,
    backend: str = "xla",
    dropout: float = 0.0,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """softmax(scale · q kᵀ + bias) v, with logits and softmax in float32.

    Keys and values may have fewer heads than queries, K instead of H: every H/K queries in a row
    share one (grouped-query attention, arXiv 2305.13245).

    Args:
        q: queries ``[N, L, H, D]``.
        k: keys ``[N, S, K, D]``, H a multiple of K.
        v: values ``[N, S, K, D]``.
        bias: added to the scaled logits; each axis equal to ``[N, H, L, S]`` or 1.
        mask: bool, True where a query may attend; each axis equal to ``[N, H, L, S]`` or 1.
        scale: of the logits; None is 1 / √D.
        backend: ``"xla"`` (any device, any shape) or ``"cudnn"`` (flash attention on NVIDIA).
        dropout: share of attention weights set to zero.
        dropout_key: key for the dropout; needed when ``dropout`` is above 0.

    Returns:
        ``[N, L, H, D]`` in the type of ``v``.

    Raises:
        ValueError: at trace time, for shapes that do not fit together, an unknown backend, or
            inputs that the chosen backend cannot take.
    """
    _check_shapes(q, k, v, bias, mask)
    if dropout > 0.0 and dropout_key is None:
        raise ValueError("attention with dropout needs a dropout_key")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if backend == "xla":
        return _xla(q, k, v, bias, mask, scale, dropout, dropout_key)
    if backend == "cudnn":
        return _cudnn(q, k, v, bias, mask, scale, dropout)
    raise ValueError(f"unknown attention backend {backend!r}; choose one of {', '.join(BACKENDS)}")


def _check_shapes(
    q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None, mask: jax.Array | None
) -> None:
    if (
        q.ndim != 4
        or k.shape != v.shape
        or k.ndim != 4
        or q.shape[0] != k.shape[0]
        or q.shape[2] % max(k.shape[2], 1)
        or q.shape[3] != k.shape[3]
    ):
        raise ValueError(
            "attention takes q [N, L, H, D] and k, v [N, S, K, D], H a multiple of K, "
            f"got {q.shape}, {k.shape} and {v.shape}"
        )
    logits = (q.shape[0], q.shape[2], q.shape[1], k.shape[1])
    for name, extra in (("bias", bias), ("mask", mask)):
        if extra is not None and not _fits(extra.shape, logits):
            raise ValueError(f"attention {name} {extra.shape} does not broadcast to {logits}")
    if mask is not None and mask.dtype != jnp.bool_:
        raise ValueError(f"attention mask must be bool (True = attend), got {mask.dtype}")


def _fits(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    return len(shape) == len(target) and all(
        a in (1, b) for a, b in zip(shape, target, strict=True)
    )


def _xla(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array | None,
    mask: jax.Array | None,
    scale: float,
    dropout: float,
    dropout_key: jax.Array | None,
) -> jax.Array:
    grouped = q.shape[2] != k.shape[2]
    groups = (k.shape[2], q.shape[2] // k.shape[2])
    if grouped:
        queries = q.reshape(*q.shape[:2], *groups, q.shape[3])
        logits = jnp.einsum("nlkgd,nskd->nkgls", queries, k, preferred_element_type=jnp.float32)
        logits = logits.reshape(q.shape[0], q.shape[2], *logits.shape[3:])
    else:
        logits = jnp.einsum("nlhd,nshd->nhls", q, k, preferred_element_type=jnp.float32)
    logits = logits * scale
    if bias is not None:
        logits = logits + bias.astype(jnp.float32)
    if mask is not None:
        logits = logits + jnp.where(mask, 0.0, MASKED_LOGIT)
    weights = jax.nn.softmax(logits, axis=-1)
    if dropout > 0.0 and dropout_key is not None:
        kept = jax.random.bernoulli(dropout_key, 1.0 - dropout, weights.shape)
        weights = jnp.where(kept, weights / (1.0 - dropout), 0.0)
    weights = weights.astype(v.dtype)
    if not grouped:
        return jnp.einsum("nhls,nshd->nlhd", weights, v)
    weights = weights.reshape(weights.shape[0], *groups, *weights.shape[2:])
    return jnp.einsum("nkgls,nskd->nlkgd", weights, v).reshape(q.shape)


def _cudnn(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array | None,
    mask: jax.Array | None,
    scale: float,
    dropout: float,
) -> jax.Array:
    """What is checked here would otherwise fail late or, worse, be ignored."""
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        raise ValueError(f"cuDNN attention takes bfloat16 or float16, got {q.dtype}")
    if q.shape[-1] % 8 or q.shape[-1] > 256:
        raise ValueError(
            f"cuDNN attention takes head widths that are multiples of 8 up to 256, "
            f"got {q.shape[-1]}"
        )
    if dropout > 0.0:
        raise ValueError("cuDNN attention has no attention dropout: set it to 0 or use 'xla'")
    if bias is not None and bias.shape[0] != 1:
        # https://github.com/jax-ml/jax/issues/30593
        raise ValueError(
            "cuDNN attention gives no gradient for a bias that differs between examples: use 'xla'"
        )
    # A head for each query: grouped ones are not held to anything on this backend.
    k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    full = (q.shape[0], q.shape[2], q.shape[1], k.shape[1])
    if mask is not None:  # it takes full masks only: https://github.com/jax-ml/jax/issues/28974
        mask = jnp.broadcast_to(mask, full)
    if bias is not None:
        bias = jnp.broadcast_to(bias, (1, *full[1:])).astype(q.dtype)
    return jax.nn.dot_product_attention(
        q, k, v, bias=bias, mask=mask, scale=scale, implementation="cudnn"
    )
