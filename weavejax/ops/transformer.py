"""What the transformers of this package share: attention, MLP, residual noise, stacks of blocks."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from weavejax.ops.attention import attention
from weavejax.ops.placement import split_batch
from weavejax.ops.rotary import rotate

Init = jax.nn.initializers.Initializer
# (regex on the "/"-joined parameter path, mesh axes of the last dimensions)
Rule = tuple[str, tuple[str | None, ...]]

# Megatron's layout: the first matrix of each pair is split by columns over `model`, the second by
# rows, so a pair costs one all-reduce. `data` shards the other dimension (FSDP).
BLOCK_RULES: tuple[Rule, ...] = (
    (r"attention/(query|key|value)/kernel$", ("data", "model")),
    (r"attention/output/kernel$", ("model", "data")),
    (r"mlp/(fc1|gate)/kernel$", ("data", "model")),
    (r"mlp/fc2/kernel$", ("model", "data")),
    (r"/(bias|scale)$", ()),
)

trunc_normal: Init = nn.initializers.truncated_normal(0.02)
# At the published widths (768, 1408) this comes to 0.036 and 0.027, near the published 0.02; unlike
# a fixed 0.02 it also lets narrow networks pass a signal from the first step.
fan_in: Init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
# PyTorch's default for convolutions, which the published patch embeddings start from.
torch_conv: Init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

# By the names that PyTorch's configurations give them.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}

REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class PatchEmbed(nn.Module):
    """Non-overlapping patches to tokens: a strided convolution, done as one matrix product.

    The product is what the convolution comes to, and several times as fast where convolutions are
    lowered badly (CPU, and the weight gradient on most backends). Patches are ``stretch`` times as
    wide as they are high: 1, square, but for the local views of CLAP's feature fusion.
    """

    width: int
    patch: int
    dtype: jnp.dtype
    use_bias: bool = True
    stretch: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[N, H, W, C]`` → ``[N, H/patch · W/(patch · stretch), width]``, row by row."""
        shape = (self.patch, self.patch * self.stretch, x.shape[-1], self.width)
        kernel = self.param("kernel", torch_conv, shape).astype(self.dtype)
        patches = rearrange(
            x.astype(self.dtype),
            "n (h p) (w q) c -> n (h w) (p q c)",
            p=self.patch,
            q=self.patch * self.stretch,
        )
        y = patches @ kernel.reshape(-1, self.width)
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        return y + bias.astype(self.dtype).reshape(1, 1, -1)


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis: statistics in float32, output in ``dtype``.

    Linen's own refuses a bfloat16 input under strict type promotion.
    """

    epsilon: float
    dtype: jnp.dtype
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        # Frozen parameters are kept in bfloat16.
        scale = self.param("scale", nn.initializers.ones, (width,)).astype(jnp.float32)
        x = x.astype(jnp.float32)
        x = x - x.mean(-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.epsilon)
        row = (1,) * (x.ndim - 1) + (width,)
        x = x * scale.reshape(row)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (width,)).astype(jnp.float32)
            x = x + bias.reshape(row)
        return x.astype(self.dtype)


class RmsNorm(nn.Module):
    """Root-mean-square normalisation (arXiv 1910.07467) over the last axis, in float32."""

    epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (width,)).astype(jnp.float32)
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.epsilon)
        return (x * scale.reshape((1,) * (x.ndim - 1) + (width,))).astype(self.dtype)


class MultiHeadAttention(nn.Module):
    """Multi-head attention with separate query, key and value projections.

    Attributes:
        width: width of the output; the input may have another (cross-attention).
        heads: number of heads, each ``width / heads`` wide.
        dtype: compute type.
        dropout: dropout of attention weights.
        kv_heads: number of heads of keys and values, 0 = ``heads``; each serves as many queries.
        use_bias: False leaves out all biases.
        key_bias: False leaves out the key's bias, as in EVA (it cannot change a softmax).
        scale: of the logits; None is 1 / √(width / heads).
        backend: see `weavejax.ops.attention`.
        query_init: initialiser of the query and key kernels.
        value_init: initialiser of the value and output kernels.
        output_init: initialiser of the output kernel alone; None = ``value_init``.
        deterministic: True switches dropout off.
    """

    width: int
    heads: int
    dtype: jnp.dtype
    dropout: float = 0.0
    kv_heads: int = 0
    use_bias: bool = True
    key_bias: bool = True
    scale: float | None = None
    backend: str = "xla"
    query_init: Init = fan_in
    value_init: Init = fan_in
    output_init: Init | None = None
    deterministic: bool = True

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        memory: jax.Array | None = None,
        *,
        bias: Callable[[jax.Array], jax.Array] | None = None,
        mask: jax.Array | None = None,
        rotary: jax.Array | None = None,
    ) -> jax.Array:
        """Attend from ``x [N, L, width]`` to ``memory [N, S, ·]``, or to ``x`` itself.

        ``bias`` maps the projected queries ``[N, L, H, D]`` to a logit bias (`attention`'s shape).
        ``rotary`` is the `rotary_table` of the positions of ``x``, for self-attention.
        """
        memory = x if memory is None else memory
        pairs = self.kv_heads or self.heads
        q = self._heads(x, "query", self.query_init, self.heads, use_bias=self.use_bias)
        biased = self.use_bias and self.key_bias
        k = self._heads(memory, "key", self.query_init, pairs, use_bias=biased)
        v = self._heads(memory, "value", self.value_init, pairs, use_bias=self.use_bias)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        dropout = 0.0 if self.deterministic else self.dropout
        mixed = attention(
            q,
            k,
            v,
            bias=None if bias is None else bias(q),
            mask=mask,
            scale=self.scale,
            backend=self.backend,
            dropout=dropout,
            dropout_key=self.make_rng("dropout") if dropout > 0.0 else None,
        )
        mixed = mixed.reshape(*x.shape[:-1], self.width)
        return nn.Dense(
            self.width,
            dtype=self.dtype,
            kernel_init=self.output_init or self.value_init,
            use_bias=self.use_bias,
            name="output",
        )(mixed)

    def _heads(
        self, x: jax.Array, name: str, init: Init, heads: int, *, use_bias: bool
    ) -> jax.Array:
        each = self.width // self.heads
        dense = nn.Dense(
            heads * each, dtype=self.dtype, kernel_init=init, use_bias=use_bias, name=name
        )
        return dense(x).reshape(*x.shape[:-1], heads, each)


class Mlp(nn.Module):
    """Two dense layers with an activation between them, by default the exact (erf) GELU.

    With ``gated`` the activation is of a third layer's output, and multiplies the first's (GLU
    variants, arXiv 2002.05202).
    """

    hidden: int
    width: int
    dtype: jnp.dtype
    kernel_init: Init = fan_in
    activation: str = "gelu"
    use_bias: bool = True
    gated: bool = False
    output_init: Init | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"unknown activation {self.activation!r}; choose one of {', '.join(ACTIVATIONS)}"
            )
        dense = partial(nn.Dense, dtype=self.dtype, use_bias=self.use_bias)
        activate = ACTIVATIONS[self.activation]
        y = dense(self.hidden, kernel_init=self.kernel_init, name="fc1")(x)
        if self.gated:
            # Apart from the first, not half of it, so that each splits over `model` by itself.
            y = y * activate(dense(self.hidden, kernel_init=self.kernel_init, name="gate")(x))
        else:
            y = activate(y)
        return dense(self.width, kernel_init=self.output_init or self.kernel_init, name="fc2")(y)


class PreNormBlock(nn.Module):
    """Pre-norm attention and MLP, each branch with stochastic depth: the block of EVA and CLIP.

    Attributes:
        width: token width.
        heads: attention heads.
        mlp: hidden width of the MLP.
        epsilon: of the norms.
        dtype: compute type.
        drop_rise: stochastic depth, 0 in the first block and so much more in each that follows.
        key_bias: see `MultiHeadAttention`.
        activation: of the MLP.
        attention: backend.
        deterministic: True switches stochastic depth off.
    """

    width: int
    heads: int
    mlp: int
    epsilon: float
    dtype: jnp.dtype
    drop_rise: float
    deterministic: bool
    key_bias: bool = True
    activation: str = "gelu"
    attention: str = "xla"

    @nn.compact
    def __call__(
        self, x: jax.Array, layer: jax.Array, mask: jax.Array | None = None
    ) -> tuple[jax.Array, None]:
        x = split_batch(x)
        attend = MultiHeadAttention(
            self.width,
            self.heads,
            self.dtype,
            key_bias=self.key_bias,
            backend=self.attention,
            name="attention",
        )
        mlp = Mlp(self.mlp, self.width, self.dtype, activation=self.activation, name="mlp")
        y = LayerNorm(self.epsilon, self.dtype, name="norm1")(x)
        x = x + self._noise(attend(y, mask=mask), layer)
        y = LayerNorm(self.epsilon, self.dtype, name="norm2")(x)
        return x + self._noise(mlp(y), layer), None

    def _noise(self, branch: jax.Array, layer: jax.Array) -> jax.Array:
        if self.deterministic or self.drop_rise == 0.0:
            return branch
        rate = layer.astype(jnp.float32) * self.drop_rise
        return drop_path(branch, rate, self.make_rng("dropout"))


def drop_path(branch: jax.Array, rate: jax.Array, key: jax.Array) -> jax.Array:
    """Stochastic depth: zero a residual branch ``[N, ...]`` for a share ``rate`` of the examples.

    The others are divided by ``1 - rate``, which keeps the mean. ``rate`` may be traced.
    """
    keep = 1.0 - rate
    kept = jax.random.bernoulli(key, keep, (branch.shape[0],) + (1,) * (branch.ndim - 1))
    return jnp.where(kept, branch / keep.astype(branch.dtype), jnp.zeros((), branch.dtype))


def run_blocks(block: type[nn.Module], x: jax.Array, *shared: Any, **how: Any) -> jax.Array:
    """Run copies of ``block`` one after the other: `collect_blocks` where they put nothing out."""
    return collect_blocks(block, x, *shared, **how)[0]


def collect_blocks(
    block: type[nn.Module],
    x: jax.Array,
    *shared: Any,
    layers: int,
    scan: bool,
    remat: str,
    **fields: Any,
) -> tuple[jax.Array, Any]:
    """Run ``layers`` copies of ``block`` one after the other, inside a compact ``__call__``.

    A block maps ``(x, layer, *shared)`` to ``(x, output)``; ``layer`` is its int32 index.

    Args:
        block: the module class.
        x: what is passed from block to block.
        *shared: arguments that every block sees unchanged.
        layers: number of blocks.
        scan: one `nn.scan` over stacked parameters (``blocks/...``, leading axis ``layers``)
            instead of separate blocks (``blocks_0/...``): same numbers, compile time and program
            size that do not grow with depth.
        remat: what the backward pass recomputes: ``"none"``, ``"dots"`` (keep the results of
            matrix products) or ``"full"`` (keep the blocks' inputs only).
        **fields: attributes of each block.

    Returns:
        What the last block passed on, and the blocks' outputs stacked (None if they are None).
    """
    if remat != "none":
        if remat not in REMAT_POLICIES:
            raise ValueError(f"unknown remat {remat!r}; choose none, dots or full")
        # Inside a scan XLA cannot merge the recomputation with the first pass: no barrier needed.
        block = nn.remat(block, policy=REMAT_POLICIES[remat], prevent_cse=not scan)
    if not scan:
        outputs = []
        for layer in range(layers):
            x, output = block(**fields, name=f"blocks_{layer}")(x, jnp.int32(layer), *shared)
            outputs.append(output)
        return x, jax.tree.map(lambda *each: jnp.stack(each), *outputs) if outputs else None
    scanned = nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(0,) + (nn.broadcast,) * len(shared),
        length=layers,
    )
    found: tuple[jax.Array, Any] = scanned(**fields, name="blocks")(
        x, jnp.arange(layers, dtype=jnp.int32), *shared
    )
    return found


def stack_blocks(params: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the parameters of separate blocks (``blocks_0``, ...) into those of a scanned stack.

    Stacks of blocks may stand anywhere in the tree.
    """
    params = {k: stack_blocks(v) if isinstance(v, Mapping) else v for k, v in params.items()}
    layers = sum(name.startswith("blocks_") for name in params)
    if not layers:
        return params
    rest = {name: leaf for name, leaf in params.items() if not name.startswith("blocks_")}
    blocks = [params[f"blocks_{layer}"] for layer in range(layers)]
    return {**rest, "blocks": jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)}
