"""The published names of SyncFusion's waveform network, and FLOPs of it."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from weavejax.models.torch_names import (
    CONV_1D,
    TRANSPOSED,
    Shapes,
    Source,
    Table,
    convert,
    dense,
    invert,
    norm,
    shapes_of,
)
from weavejax.models.waveform_unet import WaveformUNet, WaveformUNetConfig

UNET, ENCODER = "unet.", "encoder."


def from_torch(state: Mapping[str, np.ndarray], config: WaveformUNetConfig) -> dict[str, Any]:
    """Parameters from state dicts of the UNet (prefix ``unet.``) and the encoder (``encoder.``).

    Raises:
        UserError: naming every unused, missing or mis-shaped key.
    """
    return convert(state, table(config), shapes=shapes(config), model="WaveformUNet", scan=False)


def to_torch(params: Mapping[str, Any], config: WaveformUNetConfig) -> dict[str, np.ndarray]:
    """The inverse of `from_torch`."""
    return invert(params, table(config))


def shapes(config: WaveformUNetConfig) -> Shapes:
    """Shape of every leaf."""
    sound = jax.ShapeDtypeStruct((1, config.multiple, 1), jnp.float32)
    number = jax.ShapeDtypeStruct((1,), jnp.float32)
    condition = jax.ShapeDtypeStruct((1, config.tokens, config.embedding), jnp.float32)
    present = jax.ShapeDtypeStruct((1,), jnp.bool_)
    init = WaveformUNet(config).init
    return shapes_of(init, sound, number, condition, present, sound)


def table(config: WaveformUNetConfig) -> Table:
    """Where each leaf comes from."""
    key = UNET
    found: Table = {
        "time/weights": Source(f"{key}blocks.0.weights"),
        **dense("time/embed", f"{key}blocks.0.to_out"),
        **_twice("time/fc", f"{key}blocks.1.blocks.0.0", f"{key}blocks.1.blocks.1.0"),
        "null": Source(f"{key}blocks.2.blocks.0.blocks.0.weight"),
    }
    key += "blocks.2.blocks.1.net"
    for level in range(len(config.channels)):
        found |= _level(config, level, f"unet/level_{level}", key)
        # The level below stands in the list of this one's items, after those on the way down.
        key += f".block.blocks.{1 + config.items[level] * _kinds(config, level)}"
    return found | _encoder(config)


def _twice(path: str, key: str, again: str) -> Table:
    """A dense layer that stands in the file twice."""
    names = {".weight": "kernel", ".bias": "bias"}
    return {
        f"{path}/{name}": source._replace(copies=(again + end,))
        for end, name in names.items()
        for source in [dense(path, key)[f"{path}/{name}"]]
    }


def _kinds(config: WaveformUNetConfig, level: int) -> int:
    """Published modules in an item."""
    return 5 if config.attentions[level] else 4


def _level(config: WaveformUNetConfig, level: int, path: str, key: str) -> Table:
    found = {
        **_conv(f"{path}/down", f"{key}.block.blocks.0.block"),
        **dense(f"{path}/skip", f"{key}.skip.blocks.0.1"),
    }
    kinds, items = _kinds(config, level), config.items[level]
    below = level + 1 < len(config.channels)
    for way, start in (("down", 1), ("up", 1 + items * kinds + below)):
        for item in range(items):
            first = start + item * kinds
            found |= _item(f"{path}/{way}_{item}", f"{key}.block.blocks.", first, kinds)
    last = 1 + 2 * items * kinds + below
    return found | _conv(f"{path}/up", f"{key}.block.blocks.{last}.block.1")


def _item(path: str, key: str, first: int, kinds: int) -> Table:
    residual = f"{key}{first}.block.blocks.0.blocks"
    found = {
        **norm(f"{path}/residual/norm1", f"{residual}.0.0"),
        **_conv(f"{path}/residual/conv1", f"{residual}.0.2"),
        **norm(f"{path}/residual/norm2", f"{residual}.1.0"),
        **_conv(f"{path}/residual/conv2", f"{residual}.1.2"),
        **dense(f"{path}/modulation/dense", f"{key}{first + 1}.blocks.0.block.blocks.0.1"),
        **_conv(f"{path}/inject", f"{key}{first + 2}.block.blocks.0"),
        **_attention(f"{path}/cross", f"{key}{first + kinds - 1}.blocks.0.block"),
    }
    if kinds == 5:
        found |= _attention(f"{path}/attention", f"{key}{first + 3}.blocks.0.block")
    return found


def _attention(path: str, key: str) -> Table:
    return {
        **norm(f"{path}/norm", f"{key}.norm"),
        **norm(f"{path}/norm_memory", f"{key}.norm_context"),
        f"{path}/query/kernel": Source(f"{key}.to_q.weight", TRANSPOSED),
        f"{path}/key/kernel": Source(f"{key}.to_kv.weight", TRANSPOSED, part=0, parts=2),
        f"{path}/value/kernel": Source(f"{key}.to_kv.weight", TRANSPOSED, part=1, parts=2),
        f"{path}/output/kernel": Source(f"{key}.attention.blocks.0.weight", TRANSPOSED),
    }


def _encoder(config: WaveformUNetConfig) -> Table:
    found = _residual("encoder/input", f"{ENCODER}to_in.block")
    found |= _conv("encoder/input/shortcut", f"{ENCODER}to_in.block.to_out")
    for level in range(len(config.context)):
        key = f"{ENCODER}downsamples.{level}"
        found |= _conv(f"encoder/down_{level}", f"{key}.downsample")
        for block in range(config.encoder_blocks):
            found |= _residual(f"encoder/block_{level}_{block}", f"{key}.blocks.{block}")
    return found


def _residual(path: str, key: str) -> Table:
    found: Table = {}
    for number in (1, 2):
        found |= norm(f"{path}/norm{number}", f"{key}.block{number}.groupnorm")
        found |= _conv(f"{path}/conv{number}", f"{key}.block{number}.project")
    return found


def _conv(path: str, key: str) -> Table:
    return {
        f"{path}/conv/kernel": Source(f"{key}.weight", CONV_1D),
        f"{path}/conv/bias": Source(f"{key}.bias"),
    }


def flops(config: WaveformUNetConfig, samples: int) -> float:
    """Forward FLOPs of one sound of `samples`, its onset track encoded."""
    total, length, fed, wide = 0.0, samples, 1, config.heads * config.head_width
    seen = config.context[0]
    for level, width in enumerate(config.channels):
        factor, context = config.factors[level], config.context[level]
        length //= factor
        total += 2.0 * length * (fed * width * factor + 3 * width * fed * factor)
        item = 2 * 3 * width**2 + (width + context) * width + 2 * width * wide
        if config.attentions[level]:
            item += 4 * width * wide + 2 * wide * length
        total += 2.0 * length * 2 * config.items[level] * item
        total += 2.0 * length * seen * context * (2 * factor + 1)
        total += 2.0 * length * config.encoder_blocks * 2 * 3 * context**2
        fed, seen = width, context
    return total
