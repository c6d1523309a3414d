"""The control network of Fol·AI (Stable-V2A) on Stable Audio Open.

Source: Gramaccioni et al., Stable-V2A (arXiv 2412.15023), after ControlNet (arXiv 2302.05543); the
code published as stable-audio-controlnet. The first blocks of the base are copied with its
embedding. The control, a signal that the base's autoencoder has encoded (an envelope, as loud as the
sound is to be), is added to the noisy latents through a layer that starts at zero; each copied
block puts out a residual through another, which `StableDit` adds before its own block. At first
the base is therefore what it was.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from weavejax.models import stable_dit, stable_dit_names
from weavejax.models.stable_dit import STABLE_AUDIO_OPEN, Block, Embed, StableDitConfig
from weavejax.models.torch_names import (
    Shapes,
    Source,
    Table,
    convert,
    invert,
    separate_blocks,
    shapes_of,
)
from weavejax.ops.rotary import rotary_table
from weavejax.ops.transformer import BLOCK_RULES, Rule, collect_blocks, stack_blocks

LAYOUT = "stable-audio-tools"
zeros = nn.initializers.zeros


@dataclass(frozen=True)
class ControlDitConfig:
    """Sizes of a `ControlDit`.

    Attributes:
        base: the base's; its ``dtype``, ``scan``, ``remat`` and ``attention`` are the copy's too.
        layers: how many of its first blocks are copied.
    """

    base: StableDitConfig
    layers: int

    def __post_init__(self) -> None:
        if not 0 < self.layers <= self.base.layers:
            raise ValueError(f"{self.layers} of {self.base.layers} blocks cannot be copied")


# A depth factor of 0.2: int(0.2 · 24) blocks.
FOLAI = ControlDitConfig(STABLE_AUDIO_OPEN, layers=4)


def rules(config: ControlDitConfig) -> tuple[Rule, ...]:
    """Sharding table, first match wins; specs are written from the right."""
    del config
    own: tuple[Rule, ...] = (
        (r"^control/kernel$", ()),
        (r"^blocks.*/residual/kernel$", ("data", "model")),
    )
    return (*own, *stable_dit.EMBED_RULES, *BLOCK_RULES)


class ControlBlock(nn.Module):
    """A copied block, and the layer through which its residual leaves."""

    config: StableDitConfig

    @nn.compact
    def __call__(
        self, x: jax.Array, layer: jax.Array, memory: jax.Array, rotary: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        c = self.config
        x, _ = Block(c, name="copy")(x, layer, memory, rotary)
        leave = nn.Dense(
            c.width, dtype=jnp.dtype(c.dtype), use_bias=False, kernel_init=zeros, name="residual"
        )
        return x, leave(x)


class ControlDit(nn.Module):
    """What `StableDit` sees, and a control, to the residuals for its first blocks."""

    config: ControlDitConfig

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        time: jax.Array,
        cross: jax.Array,
        global_cond: jax.Array,
        control: jax.Array,
    ) -> jax.Array:
        """Look at the control.

        Args:
            x: noisy latents ``[N, T, channels]``, as the base sees them.
            time: ``[N]``, as the base sees it.
            cross: ``[N, S, cross_width]``, as the base sees them: in the unconditional branch of
                guidance zeros for both.
            global_cond: ``[N, global_width]``, as the base sees it.
            control: latents of the control ``[N, T, channels]``, in both branches. Scaled, it
                counts more or less: it enters linearly.

        Returns:
            Residuals ``[layers, N, 1 + T, width]``. Scaled, the control has more or less say.
        """
        c = self.config.base
        if control.shape != x.shape:
            raise ValueError(f"a control {control.shape} does not fit latents {x.shape}")
        dtype = jnp.dtype(c.dtype)
        enter = nn.Dense(c.channels, dtype=dtype, use_bias=False, kernel_init=zeros, name="control")
        added = enter(control.astype(dtype))
        tokens, memory = Embed(c, name="embed")(x, time, cross, global_cond, added)
        _, residuals = collect_blocks(
            ControlBlock,
            tokens,
            memory,
            jnp.asarray(rotary_table(tokens.shape[1], c.rotary)),
            layers=self.config.layers,
            scan=c.scan,
            remat=c.remat,
            config=c,
        )
        return residuals


def init_from_base(base: Mapping[str, Any], config: ControlDitConfig) -> dict[str, Any]:
    """Parameters to start from, float32: copies of the base's, and zeros. Nothing is random.

    Args:
        base: parameters of a `StableDit`, with separate or scanned blocks, in any type.
        config: sizes; ``config.base.scan`` says which blocks come out.
    """
    leaves = separate_blocks(flatten_dict(dict(base), sep="/"))
    c = config.base
    found = {path: leaf for path, leaf in leaves.items() if path.startswith("embed/")}
    found["control/kernel"] = np.zeros((c.channels, c.channels))
    for i in range(config.layers):
        block = f"blocks_{i}/"
        found |= {
            f"{block}copy/{path.removeprefix(block)}": leaf
            for path, leaf in leaves.items()
            if path.startswith(block)
        }
        found[f"{block}residual/kernel"] = np.zeros((c.width, c.width))
    # Copies, for the base's are kept frozen while these are trained and their buffers donated.
    single = {path: jnp.array(leaf, jnp.float32, copy=True) for path, leaf in found.items()}
    params = unflatten_dict(single, sep="/")
    return stack_blocks(params) if c.scan else params


def from_torch(state: Mapping[str, np.ndarray], config: ControlDitConfig) -> dict[str, Any]:
    """Parameters from a published control network's state dict.

    Args:
        state: keys as in stable-audio-controlnet's ``ControlNetDiffusionTransformer``: those of
            stable-audio-tools' base, ``conv_in`` and ``conv_outs``. Its ``project_out``, which
            nothing there uses, may be present and is not read.
        config: sizes.

    Raises:
        UserError: naming every unused, missing or mis-shaped key.
    """
    known = stable_dit_names.constants(_copied(config), LAYOUT)
    return convert(
        state,
        table(config),
        shapes=shapes(config),
        model="ControlDit",
        scan=config.base.scan,
        ignore=frozenset({*known, "transformer.project_out.weight"}),
    )


def to_torch(params: Mapping[str, Any], config: ControlDitConfig) -> dict[str, np.ndarray]:
    """The inverse of `from_torch`, with the buffers and without what it does not read."""
    constants = stable_dit_names.constants(_copied(config), LAYOUT)
    return constants | invert(params, table(config))


def table(config: ControlDitConfig) -> Table:
    """Where each leaf comes from, with separate blocks."""
    point = stable_dit_names.POINTWISE
    found = stable_dit_names.embed_table(LAYOUT)
    found["control/kernel"] = Source("conv_in.weight", point)
    for i in range(config.layers):
        block = f"blocks_{i}/"
        for path, source in stable_dit_names.block_table(config.base, i, LAYOUT).items():
            found[f"{block}copy/{path.removeprefix(block)}"] = source
        found[f"{block}residual/kernel"] = Source(f"conv_outs.{i}.weight", point)
    return found


def _copied(config: ControlDitConfig) -> StableDitConfig:
    return replace(config.base, layers=config.layers)


def shapes(config: ControlDitConfig) -> Shapes:
    """Shape of every leaf, with separate blocks."""
    base = replace(config.base, scan=True)
    x, *others = stable_dit.inputs(base)
    init = ControlDit(replace(config, base=base)).init
    return shapes_of(init, x, *others, x, layers=config.layers)


def flops(config: ControlDitConfig, length: int, tokens: int) -> float:
    """Of the forward pass of one example; multiply-adds counted twice, attention included."""
    c = config.base
    block = stable_dit.block_flops(c, length, tokens) + 2.0 * (length + 1) * c.width**2
    enter = 2.0 * length * c.channels**2
    return stable_dit.embed_flops(c, length, tokens) + enter + config.layers * block
