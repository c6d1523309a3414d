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

Init = jax.nn.initializers.Initializer
# (regex on the "/"-joined parameter path, mesh axes of the last dimensions)
Rule = tuple[str, tuple[str | None, ...]]

# Megatron's layout: the first matrix of each pair is split by columns over `model`, the second by
# rows, so a pair costs one all-reduce. `data` shards the other dimension (FSDP).
BLOCK_RULES: tuple[Rule, ...] = (
    (r"attention/(query|key|value)/kernel$", ("data", "model")),
    (r"attention/output/kernel$", ("model", "data")),
    (r"mlp/fc1/kernel$", ("data", "model")),
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

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        # Frozen parameters are kept in bfloat16.
        scale = self.param("scale", nn.initializers.ones, (width,)).astype(jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (width,)).astype(jnp.float32)
        x = x.astype(jnp.float32)
        x = x - x.mean(-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.epsilon)
        row = (1,) * (x.ndim - 1) + (width,)
        return (x * scale.reshape(row) + bias.reshape(row)).astype(self.dtype)


class MultiHeadAttention(nn.Module):
    """Multi-head attention with separate query, key and value projections.

    Attributes:
        width: width of the output; the input may have another (cross-attention).
        heads: number of heads, each ``width / heads`` wide.
        dtype: compute type.
        dropout: dropout of attention weights.
        key_bias: False leaves out the key's bias, as in EVA (it cannot change a softmax).
        backend: see `weavejax.ops.attention`.
        query_init: initialiser of the query and key kernels.
        value_init: initialiser of the value and output kernels.
        deterministic: True switches dropout off.
    """

    width: int
    heads: int
    dtype: jnp.dtype
    dropout: float = 0.0
    key_bias: bool = True
    backend: str = "xla"
    query_init: Init = fan_in
    value_init: Init = fan_in
    deterministic: bool = True

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        memory: jax.Array | None = None,
        *,
        bias: Callable[[jax.Array], jax.Array] | None = None,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Attend from ``x [N, L, width]`` to ``memory [N, S, ·]``, or to ``x`` itself.

        ``bias`` maps the projected queries ``[N, L, H, D]`` to a logit bias (`attention`'s shape).
        """
        memory = x if memory is None else memory
        q = self._heads(x, "query", self.query_init, use_bias=True)
        k = self._heads(memory, "key", self.query_init, use_bias=self.key_bias)
        v = self._heads(memory, "value", self.value_init, use_bias=True)
        dropout = 0.0 if self.deterministic else self.dropout
        mixed = attention(
            q,
            k,
            v,
            bias=None if bias is None else bias(q),
            mask=mask,
            backend=self.backend,
            dropout=dropout,
            dropout_key=self.make_rng("dropout") if dropout > 0.0 else None,
        )
        mixed = mixed.reshape(*x.shape[:-1], self.width)
        return nn.Dense(self.width, dtype=self.dtype, kernel_init=self.value_init, name="output")(
            mixed
        )

    def _heads(self, x: jax.Array, name: str, init: Init, *, use_bias: bool) -> jax.Array:
        dense = nn.Dense(
            self.width, dtype=self.dtype, kernel_init=init, use_bias=use_bias, name=name
        )
        return dense(x).reshape(*x.shape[:-1], self.heads, self.width // self.heads)


class Mlp(nn.Module):
    """Two dense layers with an activation between them, by default the exact (erf) GELU."""

    hidden: int
    width: int
    dtype: jnp.dtype
    kernel_init: Init = fan_in
    activation: str = "gelu"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"unknown activation {self.activation!r}; choose one of {', '.join(ACTIVATIONS)}"
            )
        x = nn.Dense(self.hidden, dtype=self.dtype, kernel_init=self.kernel_init, name="fc1")(x)
        x = ACTIVATIONS[self.activation](x)
        return nn.Dense(self.width, dtype=self.dtype, kernel_init=self.kernel_init, name="fc2")(x)


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


def run_blocks(
    block: type[nn.Module],
    x: jax.Array,
    *shared: Any,
    layers: int,
    scan: bool,
    remat: str,
    **fields: Any,
) -> jax.Array:
    """Run ``layers`` copies of ``block`` one after the other, inside a compact ``__call__``.

    A block maps ``(x, layer, *shared)`` to ``(x, None)``; ``layer`` is its int32 index.

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
    """
    if remat != "none":
        if remat not in REMAT_POLICIES:
            raise ValueError(f"unknown remat {remat!r}; choose none, dots or full")
        # Inside a scan XLA cannot merge the recomputation with the first pass: no barrier needed.
        block = nn.remat(block, policy=REMAT_POLICIES[remat], prevent_cse=not scan)
    if not scan:
        for layer in range(layers):
            x, _ = block(**fields, name=f"blocks_{layer}")(x, jnp.int32(layer), *shared)
        return x
    scanned = nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(0,) + (nn.broadcast,) * len(shared),
        length=layers,
    )
    x, _ = scanned(**fields, name="blocks")(x, jnp.arange(layers, dtype=jnp.int32), *shared)
    return x


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
