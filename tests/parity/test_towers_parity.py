"""CLIP, SigLIP, CLAP and its front end against transformers, live or from recordings."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
from recorded import (
    LIVE,
    RECORDINGS,
    Recording,
    cases,
    live,
    needs_torch,
    quick_jit,
    recorded,
    relative_error,
    state,
)

from weavejax.data.resize import bicubic, centre_window
from weavejax.errors import UserError
from weavejax.models import bert, clip_text, clip_vision, htsat
from weavejax.ops.log_mel import fusion_views, log_mel, repeat_pad
from weavejax.ops.transformer import stack_blocks
from weavejax.systems.encoders import HALF, IMAGE_MEAN, IMAGE_STD, normalise_images

BLOCKS: dict[str, Any] = {"width": 32, "layers": 2, "heads": 4, "mlp": 64}
SIGLIP: dict[str, Any] = {"activation": "gelu_pytorch_tanh", "epsilon": 1e-6}
TEXT: dict[str, Any] = {"vocab": 40, "positions": 12, **BLOCKS}
HTSAT = htsat.HtsatConfig(
    frames=101,
    mels=8,
    side=32,
    patch=2,
    window=4,
    width=8,
    depths=(2, 2, 2),
    heads=(2, 4, 8),
    fusion_ratio=2,
    projection=16,
)
TOWERS: dict[str, tuple[Any, Any, Any]] = {
    "clip_vision": (
        clip_vision,
        clip_vision.ClipVision,
        clip_vision.ClipVisionConfig(image_size=24, patch=8, projection=16, **BLOCKS),
    ),
    "siglip_vision": (
        clip_vision,
        clip_vision.ClipVision,
        clip_vision.ClipVisionConfig(
            image_size=26, patch=8, pooling="attention", **SIGLIP, **BLOCKS
        ),
    ),
    "clip_text": (
        clip_text,
        clip_text.ClipText,
        clip_text.ClipTextConfig(end=39, projection=16, **TEXT),
    ),
    "siglip_text": (
        clip_text,
        clip_text.ClipText,
        clip_text.ClipTextConfig(causal=False, projection=32, **SIGLIP, **TEXT),
    ),
    "clap_text": (
        bert,
        bert.Bert,
        bert.BertConfig(types=1, position_offset=2, projection=16, **{**TEXT, "positions": 14}),
    ),
    "htsat": (htsat, htsat.Htsat, HTSAT),
    "htsat_fused": (htsat, htsat.Htsat, replace(HTSAT, fusion=True)),
}
NAMES = (*TOWERS, "log_mel", "pictures", "counts")
OUTPUTS = ("output", "joint")


@pytest.fixture(params=["recorded", LIVE])
def reference(request: pytest.FixtureRequest, name: str) -> Recording:
    return recorded(f"towers/{name}") if request.param == "recorded" else live(f"towers/{name}")


@pytest.mark.parametrize("name", TOWERS)
def test_tokens_and_joint_embeddings(reference: Recording, name: str) -> None:
    module, network, config = TOWERS[name]
    params = {"params": module.from_torch(state(reference), config)}

    def run(inputs: Recording) -> tuple[jax.Array, jax.Array]:
        apply = partial(network(config).apply, params, **inputs, deterministic=True)
        return apply(), apply(joint=True)

    for case in cases(reference).values():
        inputs = {key: array for key, array in case.items() if key not in OUTPUTS}
        tokens, joint = (np.asarray(array) for array in quick_jit(run)(inputs))
        if "mask" in inputs:
            tokens = np.where(inputs["mask"][..., None], tokens, np.float32(0))
        if name == "siglip_vision":  # the pooled token comes first
            np.testing.assert_array_equal(tokens[:, 0], joint)
            tokens = tokens[:, 1:]
        assert relative_error(tokens, case["output"]) < 2e-5
        assert relative_error(joint, case["joint"]) < 2e-5


@pytest.mark.parametrize("name", ["log_mel"])
def test_log_mel(reference: Recording) -> None:
    for case in cases(reference).values():
        wave = case["wave"]
        if "views" in case:
            starts = iter(case["starts"].tolist())
            views, longer = fusion_views(wave, samples=4_800, choose=lambda _, s=starts: next(s))
            assert longer == (len(np.unique(case["views"], axis=0)) > 1)
            assert relative_error(views, case["views"]) < 1e-5
            continue
        whole = repeat_pad(wave, 4_800)
        for mode, scale in (("rand_trunc", "slaney"), ("fusion", "htk")):
            assert relative_error(log_mel(whole, scale=scale), case[mode]) < 1e-5
        views, longer = fusion_views(wave, samples=4_800)
        assert not longer
        assert all(relative_error(view, case["fusion"]) < 1e-5 for view in views)


@pytest.mark.parametrize("name", ["pictures"])
def test_pictures(reference: Recording) -> None:
    for case in cases(reference).values():
        image = case["image"]
        size, window = centre_window(image.shape[:2], 24)
        cut = bicubic(image, size, (window[0], window[1], 24, 24))
        squashed = bicubic(image, (24, 24))
        for ours, statistics, theirs in (
            (cut, (IMAGE_MEAN, IMAGE_STD), case["clip"]),
            (squashed, (HALF, HALF), case["siglip"]),
        ):
            assert relative_error(np.asarray(normalise_images(ours, *statistics)), theirs) < 1e-6


@pytest.mark.parametrize("name", ["counts"])
def test_published_parameter_counts(reference: Recording) -> None:
    ours = {}
    for module, network, config in TOWERS.values():
        for name in reference.keys() & vars(module).keys():
            published = replace(getattr(module, name), scan=True)
            if isinstance(published, type(config)):
                ours[name] = count(network(published), published)
    assert ours == {name: int(number) for name, number in reference.items()}


def count(network: Any, config: Any) -> int:
    if isinstance(config, clip_vision.ClipVisionConfig):
        inputs = [jax.ShapeDtypeStruct((1, config.image_size, config.image_size, 3), np.float32)]
    elif isinstance(config, htsat.HtsatConfig):
        inputs = [jax.ShapeDtypeStruct((1, config.frames, config.mels), np.float32)]
    else:
        inputs = [jax.ShapeDtypeStruct((1, 4), kind) for kind in (np.int32, np.bool_)]
    init = partial(network.init, jax.random.key(0), deterministic=True)
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(init, *inputs)))


@pytest.mark.parametrize("name", ["siglip_vision", "htsat_fused"])
def test_from_torch_stacks_blocks_for_scan(name: str) -> None:
    module, _, config = TOWERS[name]
    tensors = state(recorded(f"towers/{name}"))
    stacked = module.from_torch(tensors, replace(config, scan=True))
    separate = module.from_torch(tensors, config)
    jax.tree.map(np.testing.assert_array_equal, stacked, stack_blocks(separate))


def test_from_torch_names_what_a_tower_lacks() -> None:
    tensors = state(recorded("towers/htsat_fused"))
    config = TOWERS["htsat_fused"][2]
    tensors["norm.weight"] = np.ones(5, np.float32)
    tensors["embeddings.unheard_of"] = np.ones(5, np.float32)
    with pytest.raises(UserError) as error:
        htsat.from_torch(tensors, config)
    assert "mis-shaped norm.weight: (5,)" in str(error.value)
    assert "unused embeddings.unheard_of" in str(error.value)
    norm = "patch_embed.fusion_model.local_att.1"
    del tensors[f"{norm}.running_var"], tensors["batch_norm.weight"]
    with pytest.raises(UserError) as error:
        htsat.from_torch(tensors, config)
    assert f"not whole: missing batch_norm.weight, {norm}.running_var" in str(error.value)


@pytest.mark.parity
@needs_torch
@pytest.mark.parametrize("name", NAMES)
def test_recordings_equal_the_live_run(name: str) -> None:
    stored, now = recorded(f"towers/{name}"), live(f"towers/{name}")
    assert stored.keys() == now.keys()
    for key, array in now.items():
        np.testing.assert_allclose(stored[key], array, rtol=1e-5, atol=1e-5, err_msg=key)


def test_recordings_are_small() -> None:
    sizes = {path.stem: path.stat().st_size for path in (RECORDINGS / "towers").glob("*.npz")}
    assert sizes.keys() == set(NAMES)
    assert max(sizes.values()) < 300_000
    assert sum(sizes.values()) < 1_500_000
