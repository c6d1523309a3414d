"""Whole CLIP, SigLIP and CLAP models as Hugging Face keeps them, recorded by halves or live."""

import importlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from recorded import Recording, needs_torch, recorded, state

from weavejax import convert
from weavejax.errors import UserError
from weavejax.models import hugging_face
from weavejax.runtime import tree
from weavejax.weights.safe import open_safetensors, save_safetensors

BLOCKS = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
TEXT = {"vocab_size": 40, "max_position_embeddings": 12, **BLOCKS}
SOUND = {
    "hidden_size": 32,  # of the last stage
    "spec_size": 32,
    "num_mel_bins": 8,
    "patch_size": 2,
    "patch_stride": [2, 2],
    "window_size": 4,
    "patch_embeds_hidden_size": 8,
    "depths": [2, 2, 2],
    "num_attention_heads": [2, 4, 8],
    "enable_fusion": True,
    "fusion_type": "aff_2d",
    "aff_block_r": 2,
}
# By format: the recorded halves, and what `config.json` says of them.
MODELS: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "clip": (
        {"vision": "clip_vision", "text": "clip_text"},
        {
            "projection_dim": 16,
            "vision_config": {"image_size": 24, "patch_size": 8, **BLOCKS},
            "text_config": {"eos_token_id": 2, **TEXT},
        },
    ),
    "siglip": (
        {"vision": "siglip_vision", "text": "siglip_text"},
        {
            "vision_config": {"image_size": 26, "patch_size": 8, **BLOCKS},
            "text_config": {**TEXT},
        },
    ),
    "clap": (
        {"audio": "htsat_fused", "text": "clap_text"},
        {
            "projection_dim": 16,
            "audio_config": SOUND,
            "text_config": {**TEXT, "max_position_embeddings": 14},
        },
    ),
}


def whole(name: str) -> Recording:
    """The halves' tensors under the whole model's keys, with its temperatures."""
    tensors: Recording = {}
    for tower, half in MODELS[name][0].items():
        part = hugging_face.FORMATS[name].parts[tower]
        for key, tensor in state(recorded(f"towers/{half}")).items():
            own = part.projection and key.startswith(part.projection)
            tensors[key if own else part.prefix + key] = tensor
    kept = hugging_face.FORMATS[name].kept
    return tensors | {key: np.zeros((), np.float32) for key in kept}


@pytest.mark.parametrize("name", MODELS)
def test_a_whole_model_is_its_halves(name: str) -> None:
    halves, config = MODELS[name]
    tensors = whole(name)
    assert hugging_face.detect(tensors) == name
    params, coverage = hugging_face.convert(name, tensors, json.loads(json.dumps(config)))
    encoders = hugging_face.sizes(name, config)
    assert params.keys() == halves.keys()
    for tower, half in halves.items():
        part = hugging_face.FORMATS[name].parts[tower]
        alone = part.from_torch(state(recorded(f"towers/{half}")), encoders[tower])
        jax.tree.map(np.testing.assert_array_equal, params[tower], alone)
    accounted = [*coverage.buffers, *coverage.kept, *(k for u in coverage.used.values() for k in u)]
    assert sorted(accounted) == sorted(tensors)
    assert coverage.kept == hugging_face.FORMATS[name].kept


@pytest.mark.parametrize("name", MODELS)
def test_half_a_model_is_read_as_well(name: str) -> None:
    tower = next(iter(MODELS[name][0]))
    part = hugging_face.FORMATS[name].parts[tower]
    half = {key: x for key, x in whole(name).items() if key.startswith(part.prefix)}
    assert hugging_face.detect(half) == name
    params, coverage = hugging_face.convert(name, half, MODELS[name][1])
    assert params.keys() == {tower}
    assert "projection" not in params[tower]
    assert len(coverage.used[tower]) + len(coverage.buffers) == len(half)


def test_every_misfit_is_named() -> None:
    tensors, config = whole("clip"), MODELS["clip"][1]
    assert hugging_face.detect({"encoder.layer.0": None}) is None
    with pytest.raises(UserError, match=r"has no place for audio_model.x, bias"):
        hugging_face.convert("clip", tensors | {"bias": 0, "audio_model.x": 0}, config)
    wider = {**config, "text_config": {**config["text_config"], "intermediate_size": 80}}
    with pytest.raises(UserError, match=r"CLIP's text tower weights do not fit.*mlp.fc1.weight"):
        hugging_face.convert("clip", tensors, wider)
    for section, odd, words in (
        (
            "audio_config",
            {"patch_stride": [1, 2]},
            r"audio tower here can have patch_stride \[1, 2\]",
        ),
        ("audio_config", {"fusion_type": "channel_map"}, "can have fusion_type 'channel_map'"),
        ("audio_config", {"depths": [2, 3, 2]}, "audio: HTS-AT needs .* an even depth"),
        ("text_config", {"hidden_act": "relu"}, "text tower here can have hidden_act 'relu'"),
    ):
        given = MODELS["clap"][1]
        with pytest.raises(UserError, match=words):
            hugging_face.sizes("clap", {**given, section: {**given[section], **odd}})


def test_sections_are_what_a_system_takes() -> None:
    made = hugging_face.sections("clap", MODELS["clap"][1])
    assert made["audio"]["kind"] == "htsat"
    assert made["audio"]["depths"] == (2, 2, 2)
    assert made["text"]["kind"] == "roberta"
    assert {"mels", "frames", "position_offset"}.isdisjoint({**made["audio"], **made["text"]})
    assert hugging_face.sections("siglip", MODELS["siglip"][1]).keys() == {"vision"}


@pytest.mark.parity
@needs_torch
@pytest.mark.parametrize("name", MODELS)
def test_transformers_writes_such_keys_and_configs(name: str) -> None:
    tensors, config = importlib.import_module("torch_towers").whole(name, MODELS[name][1])
    assert tensors.keys() == whole(name).keys()
    params, _ = hugging_face.convert(name, tensors, config)
    recorded_params, _ = hugging_face.convert(name, whole(name), MODELS[name][1])
    shapes = [jax.tree.map(np.shape, tree) for tree in (params, recorded_params)]
    assert shapes[0] == shapes[1]
    published = hugging_face.sizes(name, {})
    for tower, part in hugging_face.FORMATS[name].parts.items():
        assert published[tower] == part.base


@pytest.mark.parametrize("name", MODELS)
def test_the_convert_door_takes_a_directory(name: str, tmp_path: Path) -> None:
    tensors, config = whole(name), MODELS[name][1]
    folder, out = tmp_path / "model", tmp_path / "converted"
    folder.mkdir()
    save_safetensors(folder / "model.safetensors", tensors, {"format": "pt"})
    with pytest.raises(UserError, match=r"config\.json, which tells the sizes"):
        convert.main(["--from", str(folder), "--out", str(out)])
    (folder / "config.json").write_text(json.dumps(config))
    convert.main(["--from", str(folder), "--out", str(out)])
    params, coverage = hugging_face.convert(name, tensors, config)
    stored = open_safetensors(out / "params.safetensors")
    for path, leaf in tree.flatten(params).items():
        np.testing.assert_array_equal(stored[path], leaf)
    for key in coverage.kept:
        np.testing.assert_array_equal(stored[f"published/{key}"], tensors[key])
    assert (
        f"{len(tensors)} of {len(tensors)} keys accounted for" in (out / "coverage.md").read_text()
    )
    with pytest.raises(UserError, match="only read"):
        convert.main(["--from", str(out), "--back", "--out", str(tmp_path / "again.safetensors")])
