"""CAVP's video tower: SlowOnly-ResNet50 with one embedding a frame, Diff-Foley's and Fol·AI's tokens.

Source: Luo et al., "Diff-Foley", arXiv 2306.17203 (its ``cavp_model.py``); the network is the slow
pathway of Feichtenhofer et al., "SlowFast Networks", arXiv 1812.03982, without strides in time: frames
see each other only in the first convolution of every block of the last stages. It looks at 4 frames a
second of 224² in [0, 1], as they are, without the pooling over 16 frames that it was trained with.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from weavejax.models.r2plus1d import SPATIAL, TEMPORAL, he
from weavejax.models.torch_names import (
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

EXPANSION = 4  # of a block's width in its output
STEM = 7  # side of the first convolution
TINY = 1e-24  # of a squared length
FPS, SIZE = 4, 224  # of the pictures it was trained on
ENCODER, HEAD = "video_encoder.", "video_project_head"


@dataclass(frozen=True)
class SlowOnlyConfig:
    """Sizes of a `SlowOnly`.

    Attributes:
        width: of the stem and of the first stage's blocks; each stage has twice that of the last.
        blocks: bottlenecks in each stage; all stages but the first halve height and width.
        temporal: whether the first convolution of a stage's blocks is one over 3 frames.
        embedding: width of what comes out.
        dtype: compute type; parameters are float32.
        remat: whether the backward pass computes the blocks again.
    """

    width: int = 64
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    temporal: tuple[bool, ...] = (False, False, True, True)
    embedding: int = 512
    dtype: str = "float32"
    remat: bool = False


CAVP = SlowOnlyConfig()


def rules(config: SlowOnlyConfig) -> tuple[Rule, ...]:
    """Sharding table: 33 M parameters are copied to every device."""
    del config
    return ((r"", ()),)


class _Conv(nn.Module):
    """Over space, or over 3 frames, then a norm; as large as it was, but for the stride."""

    width: int
    side: int
    stride: int
    temporal: bool
    dtype: jnp.dtype
    deterministic: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[B, T, H, W, C]`` → ``[B, T, H / stride, W / stride, width]``."""
        batch, time, high, wide, fed = x.shape
        half = self.side // 2
        if self.temporal:
            frames, size, padding = (batch, time, high * wide, fed), (3, 1), ((1, 1), (0, 0))
        else:
            frames, size = (batch * time, high, wide, fed), (self.side, self.side)
            padding = ((half, half), (half, half))
        conv = nn.Conv(
            self.width,
            size,
            (self.stride, self.stride),
            padding=padding,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=he,
            name="conv",
        )
        y = conv(x.reshape(frames))
        room = (high, wide) if self.temporal else y.shape[1:3]
        y = y.reshape(batch, time, *room, self.width)
        return BatchNorm(self.dtype, self.deterministic, name="norm")(y)


class _Bottleneck(nn.Module):
    """Narrow, over space, wide again; beside a shortcut."""

    width: int
    stride: int
    temporal: bool
    dtype: jnp.dtype
    deterministic: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        fixed = (self.dtype, self.deterministic)
        y = nn.relu(_Conv(self.width, 1, 1, self.temporal, *fixed, name="conv1")(x))
        y = nn.relu(_Conv(self.width, 3, self.stride, False, *fixed, name="conv2")(y))
        y = _Conv(EXPANSION * self.width, 1, 1, False, *fixed, name="conv3")(y)
        if x.shape != y.shape:
            shape = (EXPANSION * self.width, 1, self.stride, False)
            x = _Conv(*shape, *fixed, name="shortcut")(x)
        return nn.relu(x + y)


class SlowOnly(nn.Module):
    """Video to one embedding a frame."""

    config: SlowOnlyConfig

    @nn.compact
    def __call__(self, video: jax.Array, *, deterministic: bool) -> jax.Array:
        """``[B, T, H, W, 3]`` in [0, 1] → float32 ``[B, T, embedding]``, each of length 1.

        ``deterministic`` False normalises by the batch's statistics, True by the running ones.
        """
        c = self.config
        dtype = jnp.dtype(c.dtype)
        fixed = (dtype, deterministic)
        x = nn.relu(_Conv(c.width, STEM, 2, False, *fixed, name="stem")(video.astype(dtype)))
        pool = ((0, 0), (1, 1), (1, 1))
        x = nn.max_pool(x, (1, 3, 3), (1, 2, 2), padding=pool)
        block = nn.remat(_Bottleneck) if c.remat else _Bottleneck
        for stage, (count, temporal) in enumerate(zip(c.blocks, c.temporal, strict=True)):
            for number in range(count):
                stride = 2 if stage and not number else 1
                name = f"layer{stage + 1}_{number}"
                x = block(c.width << stage, stride, temporal, *fixed, name=name)(x)
        x = x.mean((2, 3), dtype=jnp.float32).astype(dtype)
        x = nn.Dense(c.embedding, dtype=dtype, name="head")(x).astype(jnp.float32)
        return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), TINY))


def flops(config: SlowOnlyConfig, frames: int, size: int = SIZE) -> float:
    """Forward FLOPs of one clip of `frames` square frames."""
    side = -(-size // 2)
    total = 2.0 * side**2 * STEM**2 * 3 * config.width
    side, fed = -(-side // 2), config.width
    for stage, (count, temporal) in enumerate(zip(config.blocks, config.temporal, strict=True)):
        width = config.width << stage
        for number in range(count):
            total += 2.0 * side**2 * fed * width * (3 if temporal else 1)
            side = -(-side // 2) if stage and not number else side
            total += 2.0 * side**2 * width * (9 * width + EXPANSION * width)
            total += 2.0 * side**2 * fed * EXPANSION * width * (number == 0)
            fed = EXPANSION * width
    return frames * (total + 2.0 * fed * config.embedding)


def from_torch(state: Mapping[str, np.ndarray], config: SlowOnlyConfig) -> dict[str, Any]:
    """Parameters and running statistics from the video half of CAVP's state dict.

    Args:
        state: keys ``video_encoder.*`` and ``video_project_head.*``, any ``module.`` stripped.
        config: sizes.

    Raises:
        UserError: naming every unused, missing or mis-shaped key.
    """
    return convert(state, table(config), shapes=shapes(config), model="SlowOnly", scan=False)


def to_torch(params: Mapping[str, Any], config: SlowOnlyConfig) -> dict[str, np.ndarray]:
    """The inverse of `from_torch`, without PyTorch's counters of batches."""
    return invert(params, table(config))


def shapes(config: SlowOnlyConfig) -> Shapes:
    """Shape of every leaf."""
    video = jax.ShapeDtypeStruct((1, 1, 32, 32, 3), jnp.float32)
    return shapes_of(lambda key, x: SlowOnly(config).init(key, x, deterministic=True), video)


def table(config: SlowOnlyConfig) -> Table:
    """Where each leaf comes from."""
    found = {**_conv("stem", "conv1"), **dense("head", HEAD)}
    for stage, (count, temporal) in enumerate(zip(config.blocks, config.temporal, strict=True)):
        for number in range(count):
            path, key = f"layer{stage + 1}_{number}", f"layer{stage + 1}.{number}"
            found |= _conv(f"{path}/conv1", f"{key}.conv1", temporal=temporal)
            found |= _conv(f"{path}/conv2", f"{key}.conv2")
            found |= _conv(f"{path}/conv3", f"{key}.conv3")
            if number == 0:
                found |= _conv(f"{path}/shortcut", f"{key}.downsample")
    return found


def _conv(path: str, key: str, *, temporal: bool = False) -> Table:
    key = ENCODER + key
    return {
        f"{path}/conv/kernel": Source(f"{key}.conv.weight", TEMPORAL if temporal else SPATIAL),
        **batch_norm(f"{path}/norm", f"{key}.bn"),
    }
