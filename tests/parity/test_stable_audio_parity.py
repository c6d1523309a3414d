"""Stable Audio Open's networks against diffusers, stable-audio-tools and transformers."""

import importlib.util
import math
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
import seeded
from recorded import (
    LIVE,
    RECORDINGS,
    Recording,
    live,
    needs_torch,
    quick_jit,
    recorded,
    relative_error,
)
from recorded import cases as all_cases

from weavejax.errors import UserError
from weavejax.models import (
    control_dit,
    number,
    oobleck,
    oobleck_names,
    stable_dit,
    stable_dit_names,
    t5,
)
from weavejax.ops.rotary import inverse_frequencies

DIFFUSERS, TOOLS = "diffusers", "stable-audio-tools"
DIT = {
    DIFFUSERS: stable_dit.StableDitConfig(
        channels=8,
        width=128,
        layers=2,
        heads=4,
        kv_heads=2,
        mlp=512,
        cross_width=64,
        global_width=24,
        features=16,
        rotary=16,
        norm_bias=True,
    ),
    TOOLS: stable_dit.StableDitConfig(
        channels=8,
        width=256,
        layers=2,
        heads=4,
        kv_heads=2,
        mlp=1024,
        cross_width=128,
        global_width=32,
    ),
}
OOBLECK = {
    DIFFUSERS: oobleck.OobleckConfig(2, 8, (1, 2, 3), (2, 3, 4), latent=4),
    TOOLS: oobleck.OobleckConfig(2, 8, (1, 2, 3), (2, 4, 8), latent=4),
}
NUMBER = number.NumberConfig(24, 0.0, 512.0)
T5 = t5.T5Config(vocab=40, width=32, layers=2, heads=4, mlp=64)
SUFFIX = {DIFFUSERS: "diffusers", TOOLS: "tools"}
NAMES = (
    *(
        f"{network}_{suffix}"
        for network in ("dit", "oobleck", "number")
        for suffix in SUFFIX.values()
    ),
    "control_tools",
    "t5",
    "buckets",
    "published",
    "published_tools",
)


def run_live(name: str) -> Recording:
    if name.endswith("tools") and not importlib.util.find_spec("stable_audio_tools"):
        pytest.skip("needs stable-audio-tools")
    return live(f"stable_audio/{name}")


@pytest.fixture(params=["recorded", LIVE])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def reference(kind: str, name: str) -> Recording:
    return run_live(name) if kind == "live" else recorded(f"stable_audio/{name}")


def state(found: Recording) -> Recording:
    """Parameters and buffers."""
    return seeded.weights(seeded.unpack(found["shapes"])) | constants(found)


def constants(found: Recording) -> Recording:
    mark = "constant/"
    return {key.removeprefix(mark): found[key] for key in found if key.startswith(mark)}


def cases(found: Recording) -> dict[str, Recording]:
    return {k: c for k, c in all_cases(found).items() if k not in ("shapes", "constant")}


def assert_close(ours: Any, theirs: np.ndarray, *, most: float = 2e-5) -> None:
    error = relative_error(np.asarray(ours), theirs)
    print(f"relative error {error:.1e}")
    assert error < most


@pytest.mark.parametrize("layout", DIT)
def test_dit(kind: str, layout: str) -> None:
    found = reference(kind, f"dit_{SUFFIX[layout]}")
    config = replace(DIT[layout], scan=True)
    params = stable_dit_names.from_torch(state(found), config, layout)
    run = quick_jit(partial(stable_dit.StableDit(config).apply, {"params": params}))
    for case in cases(found).values():
        assert_close(
            run(*(case[name] for name in ("x", "time", "cross", "global_cond"))), case["output"]
        )


def test_control(kind: str) -> None:
    found = reference(kind, "control_tools")
    tensors = {name: {} for name in ("base", "copy", "conv_in", "conv_outs")}
    for key, tensor in state(found).items():
        name, _, rest = key.partition(".")
        tensors[name][rest] = tensor
    base = replace(DIT[TOOLS], width=128, heads=2, kv_heads=1, mlp=512, cross_width=64, scan=True)
    config = control_dit.ControlDitConfig(base, layers=1)
    params = stable_dit_names.from_torch(tensors["base"], base, TOOLS)
    # Of the copy's, what leads to an output is not there.
    copied = {k: v for k, v in tensors["copy"].items() if not k.startswith("postprocess_conv")}
    copied |= {"conv_in.weight": tensors["conv_in"]["weight"]}
    copied |= {f"conv_outs.{key}": tensor for key, tensor in tensors["conv_outs"].items()}
    control = control_dit.from_torch(copied, config)
    case = cases(found)["odd"]
    inputs = [case[name] for name in ("x", "time", "cross", "global_cond")]

    @quick_jit
    def run() -> tuple[jax.Array, jax.Array]:
        network = control_dit.ControlDit(config)
        residuals = network.apply({"params": control}, *inputs, case["control"])
        apply = stable_dit.StableDit(base).apply
        return residuals, apply({"params": params}, *inputs, residuals)

    residuals, output = run()
    assert_close(residuals, case["residuals"])
    assert_close(output, case["output"])


@pytest.mark.parametrize("layout", OOBLECK)
def test_oobleck(kind: str, layout: str) -> None:
    found = reference(kind, f"oobleck_{SUFFIX[layout]}")
    config = OOBLECK[layout]
    variables = {"params": oobleck_names.from_torch(state(found), config, layout)}
    network = oobleck.Oobleck(config)
    encode = quick_jit(partial(network.apply, variables, method="encode"))
    decode = quick_jit(partial(network.apply, variables, method="decode"))
    for case in cases(found).values():
        latent = encode(case["audio"])
        assert_close(latent.mean, case["mean"])
        assert_close(latent.deviation, case["deviation"])
        assert_close(latent.divergence(), case["divergence"])
        assert_close(decode(case["mean"]), case["output"])
        assert config.latents(case["audio"].shape[1]) == case["mean"].shape[1]
        assert config.samples(case["mean"].shape[1]) == case["output"].shape[1]


@pytest.mark.parametrize("layout", number.PREFIXES)
def test_number(kind: str, layout: str) -> None:
    found = reference(kind, f"number_{SUFFIX[layout]}")
    variables = {"params": number.from_torch(state(found), NUMBER, layout)}
    case = cases(found)["seconds"]
    ours = number.NumberConditioner(NUMBER).apply(variables, case["numbers"])
    assert_close(ours, case["output"])
    grid = number.NumberConditioner(NUMBER).apply(variables, case["numbers"].reshape(1, -1, 1))
    np.testing.assert_allclose(grid[0, :, 0], ours, atol=1e-6)


def test_t5(kind: str) -> None:
    found = reference(kind, "t5")
    config = replace(T5, scan=True)
    params = t5.from_torch(state(found), config)
    run = quick_jit(partial(t5.T5Encoder(config).apply, {"params": params}))
    for case in cases(found).values():
        assert_close(run(case["tokens"], case["mask"]), case["output"])


def test_buckets_of_relative_positions(kind: str) -> None:
    for case, arrays in cases(reference(kind, "buckets")).items():
        count, most = map(int, case.split("-"))
        ours = t5.relative_buckets(401, count, most)
        # Of the last query, keys before it; of the first one, keys after it.
        both = np.concatenate([ours[-1], ours[0, 1:]])
        np.testing.assert_array_equal(both, arrays["buckets"])


def test_every_published_key_is_mapped_and_every_number_counted(kind: str) -> None:
    counts, entries = {}, {}
    for layout, suffix in ((DIFFUSERS, ""), (TOOLS, "_tools")):
        for network, arrays in cases(reference(kind, f"published{suffix}")).items():
            name = network + suffix
            counts[name] = int(arrays["count"])
            wanted = seeded.unpack(arrays["shapes"])
            entries[name] = len(wanted)
            ours, parameters = published(network, layout)
            if network == "t5":
                wanted.pop("encoder.embed_tokens.weight", None)
                ours.pop("encoder.embed_tokens.weight")
            assert ours == wanted
            assert parameters == counts[name]
    assert counts == {
        "dit": 1_056_939_136,
        "dit_tools": 1_056_828_544,
        "oobleck": 77_989_888 + 78_122_626,
        "oobleck_tools": 77_989_888 + 78_122_626,
        "number": 198_272,
        "number_tools": 198_272,
        "t5": 109_628_544,
    }
    assert (entries["dit"], entries["dit_tools"], entries["oobleck"]) == (445, 374, 183 + 182)


def published(network: str, layout: str) -> tuple[dict[str, tuple[int, ...]], int]:
    """Keys and shapes that our published config has, and how many numbers it has."""
    constants: dict[str, np.ndarray] = {}
    if network == "dit":
        config = replace(stable_dit.STABLE_AUDIO_OPEN, norm_bias=layout == DIFFUSERS)
        shapes, table = stable_dit.shapes(config), stable_dit_names.table(config, layout)
        constants = stable_dit_names.constants(config, layout)
    elif network == "oobleck":
        shapes = oobleck.shapes(oobleck.STABLE_AUDIO_OPEN)
        table = oobleck_names.table(oobleck.STABLE_AUDIO_OPEN, layout)
    elif network == "number":
        shapes = number.shapes(number.SECONDS)
        table = number.table(number.SECONDS, layout)
    else:
        shapes, table = t5.shapes(t5.T5_BASE), t5.table(t5.T5_BASE)
    assert shapes.keys() == table.keys()
    found = {key: array.shape for key, array in constants.items()}
    for path, source in table.items():
        # One number stands for all: nothing of that size is made.
        leaf = np.broadcast_to(np.zeros((), np.float32), shapes[path])
        first, *rest = source.layout.theirs(leaf).shape
        for key in (source.key, *source.copies):
            found[key] = (first * source.parts, *rest)
    return found, sum(map(math.prod, shapes.values()))


@pytest.mark.parametrize("layout", SUFFIX)
def test_published_sizes_are_read_off_the_arrays(layout: str) -> None:
    arrays = cases(recorded(f"stable_audio/published{'_tools' if layout == TOOLS else ''}"))
    full = {
        name: {
            key: np.broadcast_to(np.zeros((), np.float32), shape)
            for key, shape in seeded.unpack(a["shapes"]).items()
        }
        for name, a in arrays.items()
    }
    if layout == TOOLS:
        full["dit"][stable_dit_names.INVERSE] = inverse_frequencies(32)
    assert stable_dit_names.sizes(full["dit"], layout) == stable_dit.STABLE_AUDIO_OPEN
    assert oobleck_names.sizes(full["oobleck"], layout) == oobleck.STABLE_AUDIO_OPEN
    assert number.sizes(full["number"], layout) == number.SECONDS
    if layout == DIFFUSERS:
        assert t5.sizes(full["t5"]) == t5.T5_BASE


@pytest.mark.parametrize("name", [*NAMES[:6], "t5"])
def test_weights_go_back_exactly(name: str) -> None:
    network, _, suffix = name.partition("_")
    layout = TOOLS if suffix == "tools" else DIFFUSERS
    tensors = state(recorded(f"stable_audio/{name}"))
    for scan in (False, True) if network in ("dit", "t5") else (False,):
        if network == "dit":
            config = replace(DIT[layout], scan=scan)
            params = stable_dit_names.from_torch(tensors, config, layout)
            back = stable_dit_names.to_torch(params, config, layout)
        elif network == "t5":
            params = t5.from_torch(tensors, replace(T5, scan=scan))
            back = t5.to_torch(params, T5)
            assert back.pop("encoder.embed_tokens.weight") is back["shared.weight"]
        elif network == "oobleck":
            params = oobleck_names.from_torch(tensors, OOBLECK[layout], layout)
            back = oobleck_names.to_torch(params, OOBLECK[layout], layout)
        else:
            back = number.to_torch(number.from_torch(tensors, NUMBER, layout), NUMBER, layout)
        assert back.keys() == tensors.keys()
        for key, tensor in tensors.items():
            np.testing.assert_array_equal(back[key], tensor, err_msg=key)


def test_one_layout_becomes_the_other() -> None:
    """Between the layouts nothing changes but names, norms' zero biases and buffers."""
    config = DIT[TOOLS]
    tensors = state(recorded("stable_audio/dit_tools"))
    params = stable_dit_names.from_torch(tensors, config, TOOLS)
    other = stable_dit_names.to_torch(params, config, DIFFUSERS)
    again = stable_dit_names.from_torch(other, config, DIFFUSERS)
    jax.tree.map(np.testing.assert_array_equal, again, params)
    biased = stable_dit_names.from_torch(other, replace(config, norm_bias=True), DIFFUSERS)
    assert not biased["blocks_1"]["norm2"]["bias"].any()
    np.testing.assert_array_equal(
        other["transformer_blocks.1.attn2.to_v.weight"],
        tensors["transformer.layers.1.cross_attn.to_kv.weight"][128:],
    )


def test_what_should_be_constant_is_looked_at() -> None:
    config = DIT[TOOLS]
    tensors = state(recorded("stable_audio/dit_tools"))
    inverse, beta = stable_dit_names.INVERSE, "transformer.layers.1.ff_norm.beta"
    half = {**tensors, inverse: tensors[inverse].astype(np.float16)}
    stable_dit_names.from_torch(half, config, TOOLS)
    wrong = {**tensors, beta: tensors[beta] + 1, inverse: tensors[inverse] * 2}
    with pytest.raises(UserError, match=f"not as the config says: {inverse}, {beta}"):
        stable_dit_names.from_torch(wrong, config, TOOLS)
    biased = stable_dit_names.from_torch(
        {**wrong, inverse: tensors[inverse]}, replace(config, norm_bias=True), TOOLS
    )
    np.testing.assert_array_equal(biased["blocks_1"]["norm3"]["bias"], wrong[beta])
    with pytest.raises(UserError, match=r"missing preprocess_conv\.weight"):
        stable_dit_names.from_torch(
            {k: v for k, v in tensors.items() if k != "preprocess_conv.weight"}, config, TOOLS
        )
    with pytest.raises(ValueError, match="unknown layout 'timm'"):
        stable_dit_names.from_torch(tensors, config, "timm")


def test_the_control_network_is_written_with_its_published_keys() -> None:
    config = control_dit.ControlDitConfig(DIT[TOOLS], layers=1)
    tensors = state(recorded("stable_audio/dit_tools"))
    wanted = {
        key: tensor
        for key, tensor in tensors.items()
        if not key.startswith(("transformer.layers.1.", "transformer.project_out.", "postproc"))
    }
    for key, shape in (("conv_in", (8, 8, 1)), ("conv_outs.0", (256, 256, 1))):
        wanted[f"{key}.weight"] = seeded.array(key, shape)
    params = control_dit.from_torch(wanted, config)
    back = control_dit.to_torch(params, config)
    assert back.keys() == wanted.keys()
    for key, tensor in wanted.items():
        np.testing.assert_array_equal(back[key], tensor, err_msg=key)


@pytest.mark.parity
@needs_torch
@pytest.mark.parametrize("name", NAMES)
def test_recordings_equal_the_live_run(name: str) -> None:
    now, stored = run_live(name), recorded(f"stable_audio/{name}")
    assert stored.keys() == now.keys()
    for key, array in now.items():
        np.testing.assert_allclose(stored[key], array, rtol=1e-5, atol=1e-5, err_msg=key)


def test_recordings_are_small() -> None:
    sizes = {path.stem: path.stat().st_size for path in (RECORDINGS / "stable_audio").iterdir()}
    assert sizes.keys() == set(NAMES)
    assert sum(sizes.values()) < 300_000
