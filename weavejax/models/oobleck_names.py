"""Oobleck's published keys, in both layouts, and back.

stable-audio-tools (``pretransform.model.*`` of Stable Audio Open's one file, prefix stripped; 183
entries of the encoder, 182 of the decoder) and diffusers (``AutoencoderOobleck``) hold the same
arrays under other names; α and β have the shape ``[C]`` in one and ``[1, C, 1]`` in the other.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from weavejax.models.oobleck import DILATIONS, OobleckConfig, shapes
from weavejax.models.torch_names import (
    AS_IT_IS,
    CONV_1D,
    Arrays,
    Layout,
    Source,
    Table,
    convert,
    invert,
)

# Of a transposed convolution: [in, out, k] ↔ [k, in, out]
TRANSPOSED_1D = Layout(lambda x: x.transpose(2, 0, 1), lambda x: x.transpose(1, 2, 0))
GAIN = Layout(lambda x: x[:, 0, 0], lambda x: x[:, None, None])
CHANNELS = Layout(lambda x: x[0, :, 0], lambda x: x[None, :, None])
HALVES = ("encoder", "decoder")
LAYOUTS = ("stable-audio-tools", "diffusers")


def from_torch(state: Mapping[str, np.ndarray], config: OobleckConfig, layout: str) -> Any:
    """Parameters from a published state dict.

    Args:
        state: keys as in ``layout``, prefix stripped.
        config: sizes.
        layout: "stable-audio-tools" or "diffusers".

    Raises:
        UserError: naming every unused, missing or mis-shaped key.
    """
    return convert(state, table(config, layout), shapes=shapes(config), model="Oobleck", scan=False)


def to_torch(
    params: Mapping[str, Any], config: OobleckConfig, layout: str
) -> dict[str, np.ndarray]:
    """The inverse of `from_torch`."""
    return invert(params, table(config, layout))


def table(config: OobleckConfig, layout: str) -> Table:
    """Where each leaf comes from."""
    if layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}; choose one of {', '.join(LAYOUTS)}")
    tools = layout == "stable-audio-tools"
    found: Table = {}
    for half in HALVES:
        leaves = _half(half, config, _tools_name if tools else _diffusers_name)
        for path, (key, theirs) in leaves.items():
            found |= _arrays(f"{half}/{path}", f"{half}.{key}", theirs, flat=tools)
    return found


def _half(
    half: str, config: OobleckConfig, name: Callable[[str, str, int], str]
) -> dict[str, tuple[str, str]]:
    """Modules of the encoder or decoder: path → (key, what it is)."""
    count = len(config.strides)
    change = "down" if half == "encoder" else "up"
    ends = {"first": "conv", "snake": "snake", "last": "conv"}
    if half == "decoder":
        ends["last"] = "conv without bias"
    stage = {"snake": "snake", change: "conv" if half == "encoder" else "transposed conv"}
    for i in range(len(DILATIONS)):
        unit = {"snake1": "snake", "dilated": "conv", "snake2": "snake", "pointwise": "conv"}
        stage |= {f"unit_{i}/{module}": kind for module, kind in unit.items()}
    paths = ends | {f"stage_{i}/{p}": kind for i in range(count) for p, kind in stage.items()}
    return {path: (name(half, path, count), kind) for path, kind in paths.items()}


def _arrays(path: str, key: str, kind: str, *, flat: bool) -> Table:
    if kind == "snake":
        layout = AS_IT_IS if flat else CHANNELS
        return {f"{path}/{name}": Source(f"{key}.{name}", layout) for name in ("alpha", "beta")}
    kernel = TRANSPOSED_1D if kind == "transposed conv" else CONV_1D
    found = {
        f"{path}/kernel": Source(f"{key}.weight_v", kernel),
        f"{path}/gain": Source(f"{key}.weight_g", GAIN),
    }
    if kind != "conv without bias":
        found[f"{path}/bias"] = Source(f"{key}.bias")
    return found


def _tools_name(half: str, path: str, stages: int) -> str:
    """Numbers in nested sequences."""
    # Where the encoder's blocks have their units first, the decoder's have theirs last.
    first_unit, snake, change = (0, 3, 4) if half == "encoder" else (2, 0, 1)
    ends = {"first": 0, "snake": stages + 1, "last": stages + 2}
    if path in ends:
        return f"layers.{ends[path]}"
    stage, *rest = path.split("/")
    key = f"layers.{int(stage.removeprefix('stage_')) + 1}.layers"
    if len(rest) == 1:
        return f"{key}.{snake if rest[0] == 'snake' else change}"
    unit = int(rest[0].removeprefix("unit_")) + first_unit
    module = ("snake1", "dilated", "snake2", "pointwise").index(rest[1])
    return f"{key}.{unit}.layers.{module}"


def _diffusers_name(half: str, path: str, stages: int) -> str:
    """Named modules."""
    del stages
    ends = {"first": "conv1", "snake": "snake1", "last": "conv2"}
    if path in ends:
        return ends[path]
    stage, *rest = path.split("/")
    key = f"block.{stage.removeprefix('stage_')}"
    if len(rest) == 1:
        return f"{key}.{ {'snake': 'snake1', 'down': 'conv1', 'up': 'conv_t1'}[rest[0]] }"
    unit = int(rest[0].removeprefix("unit_")) + 1
    module = {"dilated": "conv1", "pointwise": "conv2"}.get(rest[1], rest[1])
    return f"{key}.res_unit{unit}.{module}"


def sizes(state: Arrays, layout: str) -> OobleckConfig:
    """The sizes that a published state dict has.

    Raises:
        KeyError: an array that tells them is missing.
    """
    tools = layout == "stable-audio-tools"
    first = state[f"encoder.{'layers.0' if tools else 'conv1'}.weight_v"].shape
    # encoder.layers.1.layers.4.weight_v, ... or encoder.block.0.conv1.weight_v, ...
    pattern = r"encoder\.layers\.(\d+)\.layers\.4" if tools else r"encoder\.block\.(\d+)\.conv1"
    found = (re.fullmatch(rf"{pattern}\.weight_v", key) for key in state)
    downs = {int(match[1]): state[match[0]].shape for match in found if match}
    changes = [shape for _, shape in sorted(downs.items())]
    last = f"decoder.{'layers.0' if tools else 'conv1'}.weight_v"
    return OobleckConfig(
        audio=first[1],
        channels=first[0],
        multiples=tuple(shape[0] // first[0] for shape in changes),
        strides=tuple(shape[2] // 2 for shape in changes),
        latent=state[last].shape[1],
    )
