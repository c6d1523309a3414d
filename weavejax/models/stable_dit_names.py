"""Stable Audio Open's diffusion transformer: its published keys, in both layouts, and back.

stable-audio-tools (``model.model.*`` of its one file, prefix stripped; 374 entries) and diffusers
(``StableAudioDiTModel``; 445 entries) hold the same numbers. The first fuses query, key and value
and has buffers: the norms' zero ``beta`` and the rotary frequencies. The second has zero biases.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from weavejax.errors import UserError
from weavejax.models.stable_dit import StableDitConfig, shapes
from weavejax.models.torch_names import (
    TRANSPOSED,
    Arrays,
    Layout,
    Source,
    Table,
    convert,
    count_layers,
    dense,
    invert,
)
from weavejax.ops.rotary import inverse_frequencies

# [out, in, 1] ↔ [in, out]: a convolution of one tap.
POINTWISE = Layout(lambda x: x[..., 0].T, lambda x: x.T[..., None])
COLUMN = Layout(lambda x: x[..., 0], lambda x: x[..., None])
HEAD_WIDTH = 64
NORMS = ("norm1", "norm2", "norm3")
TOOLS_NORMS = {"norm1": "pre_norm", "norm2": "cross_attend_norm", "norm3": "ff_norm"}
INVERSE = "transformer.rotary_pos_emb.inv_freq"


def from_torch(
    state: Mapping[str, np.ndarray], config: StableDitConfig, layout: str
) -> dict[str, Any]:
    """Parameters from a published state dict.

    Args:
        state: keys as in ``layout``, prefix stripped; buffers may be missing.
        config: sizes. Without ``norm_bias`` the norms' biases in ``state`` must be zero.
        layout: "stable-audio-tools" or "diffusers".

    Raises:
        UserError: naming every unused, missing or mis-shaped key, or what should be constant and
            is not.
    """
    known = constants(config, layout)
    wrong = [key for key, value in known.items() if key in state and not same(state[key], value)]
    if wrong:
        raise UserError(
            f"StableDit weights do not fit the config: not as the config says: {', '.join(wrong)}"
        )
    return convert(
        state,
        table(config, layout),
        shapes=shapes(config),
        model="StableDit",
        scan=config.scan,
        ignore=frozenset(known),
    )


def to_torch(
    params: Mapping[str, Any], config: StableDitConfig, layout: str
) -> dict[str, np.ndarray]:
    """The inverse of `from_torch`: every published entry, buffers included."""
    return constants(config, layout) | invert(params, table(config, layout))


def same(stored: np.ndarray, constant: np.ndarray) -> bool:
    """Whether a stored buffer has its value, to the precision that it is stored in."""
    stored = np.asarray(stored)
    if stored.shape != constant.shape:
        return False
    return np.allclose(np.asarray(stored, np.float32), constant, rtol=1e-2, atol=0.0)


def constants(config: StableDitConfig, layout: str) -> dict[str, np.ndarray]:
    """Entries that are no parameters here: key → value."""
    _known(layout)
    found: dict[str, np.ndarray] = {}
    if layout == "stable-audio-tools":
        found[INVERSE] = inverse_frequencies(config.rotary)
    if not config.norm_bias:
        for i in range(config.layers):
            found |= {
                _norm(i, name, layout)[1]: np.zeros(config.width, np.float32) for name in NORMS
            }
    return found


def table(config: StableDitConfig, layout: str) -> Table:
    """Where each leaf comes from, with separate blocks."""
    _known(layout)
    found = embed_table(layout)
    tools = layout == "stable-audio-tools"
    found["output/kernel"] = Source(
        "transformer.project_out.weight" if tools else "proj_out.weight", TRANSPOSED
    )
    found["post/kernel"] = Source("postprocess_conv.weight", POINTWISE)
    for i in range(config.layers):
        found |= block_table(config, i, layout)
    return found


def embed_table(layout: str) -> Table:
    """Of the embedding; the prefix of its paths is "embed/"."""
    tools = layout == "stable-audio-tools"
    names = (
        {"time": "to_timestep_embed", "global": "to_global_embed", "cross": "to_cond_embed"}
        if tools
        else {"time": "timestep_proj", "global": "global_proj", "cross": "cross_attention_proj"}
    )
    found: Table = {
        "embed/frequencies": Source("timestep_features.weight", COLUMN)
        if tools
        else Source("time_proj.weight"),
        "embed/pre/kernel": Source("preprocess_conv.weight", POINTWISE),
        "embed/input/kernel": Source(
            "transformer.project_in.weight" if tools else "proj_in.weight", TRANSPOSED
        ),
    }
    for ours, theirs in names.items():
        for layer, number in (("fc1", 0), ("fc2", 2)):
            both = dense(f"embed/{ours}/{layer}", f"{theirs}.{number}")
            found |= {p: s for p, s in both.items() if ours == "time" or p.endswith("kernel")}
    return found


def block_table(config: StableDitConfig, layer: int, layout: str) -> Table:
    """Of one block, ``blocks_<layer>/…``."""
    path = f"blocks_{layer}"
    key = f"transformer.layers.{layer}" if layout == "stable-audio-tools" else None
    found: Table = {}
    for name in NORMS:
        scale, bias = _norm(layer, name, layout)
        found[f"{path}/{name}/scale"] = Source(scale)
        if config.norm_bias:
            found[f"{path}/{name}/bias"] = Source(bias)
    attention = _tools_attention if key else _diffusers_attention
    for leaf, source in attention(layer).items():
        found[f"{path}/{leaf}/kernel"] = source
    gated, out = (
        (f"{key}.ff.ff.0.proj", f"{key}.ff.ff.2")
        if key
        else (f"transformer_blocks.{layer}.ff.net.0.proj", f"transformer_blocks.{layer}.ff.net.2")
    )
    for part, name in enumerate(("fc1", "gate")):
        for leaf, source in dense(f"{path}/mlp/{name}", gated).items():
            found[leaf] = source._replace(part=part, parts=2)
    return found | dense(f"{path}/mlp/fc2", out)


def _tools_attention(layer: int) -> dict[str, Source]:
    key = f"transformer.layers.{layer}"
    found = {
        "attention/output": Source(f"{key}.self_attn.to_out.weight", TRANSPOSED),
        "cross_attention/query": Source(f"{key}.cross_attn.to_q.weight", TRANSPOSED),
        "cross_attention/output": Source(f"{key}.cross_attn.to_out.weight", TRANSPOSED),
    }
    for part, name in enumerate(("query", "key", "value")):
        fused = Source(f"{key}.self_attn.to_qkv.weight", TRANSPOSED, part=part, parts=3)
        found[f"attention/{name}"] = fused
    for part, name in enumerate(("key", "value")):
        fused = Source(f"{key}.cross_attn.to_kv.weight", TRANSPOSED, part=part, parts=2)
        found[f"cross_attention/{name}"] = fused
    return found


def _diffusers_attention(layer: int) -> dict[str, Source]:
    names = {"query": "to_q", "key": "to_k", "value": "to_v", "output": "to_out.0"}
    return {
        f"{ours}/{name}": Source(f"transformer_blocks.{layer}.{theirs}.{to}.weight", TRANSPOSED)
        for ours, theirs in (("attention", "attn1"), ("cross_attention", "attn2"))
        for name, to in names.items()
    }


def _norm(layer: int, name: str, layout: str) -> tuple[str, str]:
    """Keys of a norm's scale and bias."""
    if layout == "diffusers":
        key = f"transformer_blocks.{layer}.{name}"
        return f"{key}.weight", f"{key}.bias"
    key = f"transformer.layers.{layer}.{TOOLS_NORMS[name]}"
    return f"{key}.gamma", f"{key}.beta"


def _known(layout: str) -> None:
    if layout not in SIZES:
        raise ValueError(f"unknown layout {layout!r}; choose one of {', '.join(SIZES)}")


def sizes(state: Arrays, layout: str) -> StableDitConfig:
    """The sizes that a published state dict has.

    Heads are taken to be 64 wide, as in all published models, which no array tells.

    Raises:
        KeyError: an array that tells them is missing.
        ValueError: the rotary frequencies are not the published ones.
    """
    _known(layout)
    config = SIZES[layout](state)
    if INVERSE in state and not same(state[INVERSE], inverse_frequencies(config.rotary)):
        raise ValueError(f"{INVERSE} is not of base 10000")
    biases = (_norm(i, name, layout)[1] for i in range(config.layers) for name in NORMS)
    return replace(config, norm_bias=any(np.any(state[key]) for key in biases if key in state))


def _tools_sizes(state: Arrays) -> StableDitConfig:
    width, channels = state["transformer.project_in.weight"].shape
    kv_width, cross_width = state["transformer.layers.0.cross_attn.to_kv.weight"].shape
    return StableDitConfig(
        channels=channels,
        width=width,
        layers=count_layers(state, "transformer.layers."),
        heads=width // HEAD_WIDTH,
        kv_heads=kv_width // 2 // HEAD_WIDTH,
        mlp=state["transformer.layers.0.ff.ff.2.weight"].shape[1],
        cross_width=cross_width,
        global_width=state["to_global_embed.0.weight"].shape[1],
        features=2 * state["timestep_features.weight"].shape[0],
        rotary=2 * state[INVERSE].shape[0] if INVERSE in state else HEAD_WIDTH // 2,
    )


def _diffusers_sizes(state: Arrays) -> StableDitConfig:
    width, channels = state["proj_in.weight"].shape
    kv_width, cross_width = state["transformer_blocks.0.attn2.to_k.weight"].shape
    return StableDitConfig(
        channels=channels,
        width=width,
        layers=count_layers(state, "transformer_blocks."),
        heads=width // HEAD_WIDTH,
        kv_heads=kv_width // HEAD_WIDTH,
        mlp=state["transformer_blocks.0.ff.net.2.weight"].shape[1],
        cross_width=cross_width,
        global_width=state["global_proj.0.weight"].shape[1],
        features=2 * state["time_proj.weight"].shape[0],
        rotary=HEAD_WIDTH // 2,
    )


SIZES: dict[str, Callable[[Arrays], StableDitConfig]] = {
    "stable-audio-tools": _tools_sizes,
    "diffusers": _diffusers_sizes,
}
