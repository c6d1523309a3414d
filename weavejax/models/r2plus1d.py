"""R(2+1)D over video with one output a frame: the onset network of SyncFusion.

Source: Tran et al., "A Closer Look at Spatiotemporal Convolutions", arXiv 1711.11248, as built by
torchvision's ``r2plus1d_18``; Comunità et al., "SyncFusion", arXiv 2310.15247, which keeps the frame
rate (no stride in time) and puts a small MLP on every frame. Every 3-D convolution is one over
space, a norm, a ReLU and one over time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from weavejax.models.torch_names import (
    Layout,
    Shapes,
    Source,
    Table,
    batch_norm,
    convert,
    dense,
    invert,
    shapes_of,
)
from weavejax.ops.batch_norm import BatchNorm
from weavejax.ops.transformer import Rule

# [out, in, 1, h, w] ↔ [h, w, in, out] and [out, in, t, 1, 1] ↔ [t, 1, in, out]
SPATIAL = Layout(
    lambda x: x[:, :, 0].transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)[:, :, None]
)
TEMPORAL = Layout(
    lambda x: x[..., 0].transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)[..., None]
)
he: jax.nn.initializers.Initializer = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


@dataclass(frozen=True)
class R2Plus1DConfig:
    """Sizes of an `R2Plus1D`.

    Attributes:
        widths: channels of each stage; all but the first halve height and width.
        blocks: residual blocks in each stage.
        hidden: width of the MLP on every frame.
        stem: planes between the two convolutions that come first.
        dtype: compute type; parameters are float32.
        remat: whether the backward pass computes the blocks again.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512)
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    hidden: int = 128
    stem: int = 45
    dtype: str = "float32"
    remat: bool = False


SYNCFUSION = R2Plus1DConfig()


def rules(config: R2Plus1DConfig) -> tuple[Rule, ...]:
    """Sharding table: 31 M parameters are copied to every device."""
    del config
    return ((r"", ()),)


def middle(fed: int, width: int) -> int:
    """Planes between the convolutions over space and time: as many weights as 3×3×3 has."""
    return 27 * fed * width // (9 * fed + 3 * width)


class _Factored(nn.Module):
    """3×3 over space, norm, ReLU, 3 over time; both padded to keep the size."""

    planes: int
    width: int
    stride: int
    dtype: jnp.dtype
    deterministic: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = _spatial(x, self.planes, 3, self.stride, self.dtype, "spatial")
        x = nn.relu(BatchNorm(self.dtype, self.deterministic, name="norm")(x))
        return _temporal(x, self.width, self.dtype, "temporal")


class _Block(nn.Module):
    """Two factored convolutions beside a shortcut."""

    width: int
    stride: int
    dtype: jnp.dtype
    deterministic: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        fed, fixed = x.shape[-1], (self.dtype, self.deterministic)
        planes = middle(fed, self.width)
        y = _Factored(planes, self.width, self.stride, *fixed, name="conv1")(x)
        y = nn.relu(BatchNorm(*fixed, name="norm1")(y))
        y = _Factored(planes, self.width, 1, *fixed, name="conv2")(y)
        y = BatchNorm(*fixed, name="norm2")(y)
        if fed != self.width or self.stride > 1:
            x = _spatial(x, self.width, 1, self.stride, self.dtype, "shortcut")
            x = BatchNorm(*fixed, name="shortcut_norm")(x)
        return nn.relu(x + y)


class R2Plus1D(nn.Module):
    """Video to one logit a frame."""

    config: R2Plus1DConfig

    @nn.compact
    def __call__(self, video: jax.Array, *, deterministic: bool) -> jax.Array:
        """``[B, T, H, W, 3]``, normalised → logits float32 ``[B, T]``.

        ``deterministic`` False normalises by the batch's statistics, True by the running ones.
        """
        c = self.config
        dtype = jnp.dtype(c.dtype)
        x = _spatial(video.astype(dtype), c.stem, 7, 2, dtype, "stem_spatial")
        x = nn.relu(BatchNorm(dtype, deterministic, name="stem_norm1")(x))
        x = _temporal(x, c.widths[0], dtype, "stem_temporal")
        x = nn.relu(BatchNorm(dtype, deterministic, name="stem_norm2")(x))
        block = nn.remat(_Block) if c.remat else _Block
        for stage, (width, count) in enumerate(zip(c.widths, c.blocks, strict=True), start=1):
            for number in range(count):
                stride = 2 if stage > 1 and number == 0 else 1
                name = f"layer{stage}_{number}"
                x = block(width, stride, dtype, deterministic, name=name)(x)
        x = x.mean((2, 3), dtype=jnp.float32).astype(dtype)
        x = nn.relu(nn.Dense(c.hidden, dtype=dtype, name="fc1")(x))
        return nn.Dense(1, dtype=dtype, name="fc2")(x)[..., 0].astype(jnp.float32)


def _spatial(
    x: jax.Array, width: int, size: int, stride: int, dtype: jnp.dtype, name: str
) -> jax.Array:
    """Every frame by itself: [B, T, H, W, C] → [B, T, H/stride, W/stride, width]."""
    batch, time = x.shape[:2]
    half = size // 2
    conv = nn.Conv(
        width,
        (size, size),
        (stride, stride),
        padding=((half, half), (half, half)),
        use_bias=False,
        dtype=dtype,
        kernel_init=he,
        name=name,
    )
    y = conv(x.reshape(-1, *x.shape[2:]))
    return y.reshape(batch, time, *y.shape[1:])


def _temporal(x: jax.Array, width: int, dtype: jnp.dtype, name: str) -> jax.Array:
    """Every pixel by itself, three frames at a time: [B, T, H, W, C] → [B, T, H, W, width]."""
    batch, time, high, wide, fed = x.shape
    conv = nn.Conv(
        width,
        (3, 1),
        padding=((1, 1), (0, 0)),
        use_bias=False,
        dtype=dtype,
        kernel_init=he,
        name=name,
    )
    return conv(x.reshape(batch, time, high * wide, fed)).reshape(batch, time, high, wide, width)


def flops(config: R2Plus1DConfig, frames: int, size: int) -> float:
    """Forward FLOPs of one clip of `frames` square frames."""

    def factored(fed: int, planes: int, width: int, side: int, kernel: int) -> float:
        return 2.0 * frames * side**2 * (fed * planes * kernel**2 + 3 * planes * width)

    side = -(-size // 2)
    total = factored(3, config.stem, config.widths[0], side, 7)
    fed = config.widths[0]
    for stage, (width, count) in enumerate(zip(config.widths, config.blocks, strict=True)):
        for number in range(count):
            down = stage > 0 and number == 0
            side = -(-side // 2) if down else side
            planes = middle(fed, width)
            total += factored(fed, planes, width, side, 3)
            total += factored(width, planes, width, side, 3)
            total += 2.0 * frames * side**2 * fed * width * down
            fed = width
    return total + 2.0 * frames * (fed * config.hidden + config.hidden)


def from_torch(state: Mapping[str, np.ndarray], config: R2Plus1DConfig) -> dict[str, Any]:
    """Parameters and running statistics from the published state dict, prefix ``net.model.`` off.

    Raises:
        UserError: naming every unused, missing or mis-shaped key.
    """
    return convert(state, table(config), shapes=shapes(config), model="R2Plus1D", scan=False)


def to_torch(params: Mapping[str, Any], config: R2Plus1DConfig) -> dict[str, np.ndarray]:
    """The inverse of `from_torch`, without PyTorch's counters of batches."""
    return invert(params, table(config))


def shapes(config: R2Plus1DConfig) -> Shapes:
    """Shape of every leaf."""
    video = jax.ShapeDtypeStruct((1, 2, 32, 32, 3), jnp.float32)
    return shapes_of(lambda key, x: R2Plus1D(config).init(key, x, deterministic=True), video)


def table(config: R2Plus1DConfig) -> Table:
    """Where each leaf comes from."""
    found: Table = {
        "stem_spatial/kernel": Source("stem.0.weight", SPATIAL),
        **batch_norm("stem_norm1", "stem.1"),
        "stem_temporal/kernel": Source("stem.3.weight", TEMPORAL),
        **batch_norm("stem_norm2", "stem.4"),
        **dense("fc1", "fc.0"),
        **dense("fc2", "fc.2"),
    }
    fed = config.widths[0]
    for stage, (width, count) in enumerate(zip(config.widths, config.blocks, strict=True), start=1):
        for number in range(count):
            path, key = f"layer{stage}_{number}", f"layer{stage}.{number}"
            for conv in (1, 2):
                found |= {
                    f"{path}/conv{conv}/spatial/kernel": Source(
                        f"{key}.conv{conv}.0.0.weight", SPATIAL
                    ),
                    **batch_norm(f"{path}/conv{conv}/norm", f"{key}.conv{conv}.0.1"),
                    f"{path}/conv{conv}/temporal/kernel": Source(
                        f"{key}.conv{conv}.0.3.weight", TEMPORAL
                    ),
                    **batch_norm(f"{path}/norm{conv}", f"{key}.conv{conv}.1"),
                }
            if fed != width or (stage > 1 and number == 0):
                found[f"{path}/shortcut/kernel"] = Source(f"{key}.downsample.0.weight", SPATIAL)
                found |= batch_norm(f"{path}/shortcut_norm", f"{key}.downsample.1")
            fed = width
    return found
