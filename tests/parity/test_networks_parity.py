"""Networks and front end against the published PyTorch code, live or from recordings."""

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

from weavejax.convert import FORMATS, detect
from weavejax.errors import UserError
from weavejax.models import bert, fusion, spectrogram, vit
from weavejax.ops.fbank import kaldi_fbank
from weavejax.ops.transformer import stack_blocks
from weavejax.weights.published import convert_file, restore_file

NAMES = ("vit", "spectrogram", "buckets", "bert", "matching", "resizing", "fbank")
VIT = vit.ViTConfig(image_size=24, patch=8, width=32, layers=2, heads=4, mlp=64, head=16)
SPECTROGRAM = spectrogram.SpectrogramConfig(
    frames=112,
    mels=64,
    patch=16,
    patch_width=24,
    width=32,
    layers=2,
    heads=4,
    mlp=64,
    pos_kernel=16,
    pos_groups=4,
    buckets=16,
    max_distance=20,
)
BERT = bert.BertConfig(
    vocab=40,
    positions=12,
    types=2,
    width=32,
    layers=2,
    heads=4,
    mlp=64,
    cross_attention=True,
    cond_width=32,
)
FUSION = fusion.FusionConfig(video=24, audio=20, text=32, width=32, frames=3, chunks=2)


@pytest.fixture(params=["recorded", LIVE])
def reference(request: pytest.FixtureRequest, name: str) -> Recording:
    return recorded(name) if request.param == "recorded" else live(name)


@pytest.mark.parametrize("name", ["vit"])
def test_vit(reference: Recording) -> None:
    params = vit.from_torch(state(reference), VIT)
    for case in cases(reference).values():
        ours = quick_jit(partial(vit.ViT(VIT).apply, deterministic=True))(
            {"params": params}, case["images"]
        )
        assert relative_error(np.asarray(ours), case["output"]) < 1e-5


@pytest.mark.parametrize("name", ["spectrogram"])
def test_spectrogram(reference: Recording) -> None:
    params = spectrogram.from_torch(state(reference), SPECTROGRAM)
    model = spectrogram.SpectrogramTransformer(SPECTROGRAM)
    for case in cases(reference).values():
        ours = quick_jit(partial(model.apply, deterministic=True))(
            {"params": params}, case["fbank"]
        )
        assert relative_error(np.asarray(ours), case["output"]) < 1e-5


@pytest.mark.parametrize("name", ["buckets"])
def test_relative_buckets(reference: Recording) -> None:
    ours = spectrogram.relative_buckets(1024, 320, 800)
    np.testing.assert_array_equal(ours[0], reference["after"])
    np.testing.assert_array_equal(ours[:, 0], reference["before"])


@pytest.mark.parametrize("name", ["bert"])
def test_bert(reference: Recording) -> None:
    params = bert.from_torch(state(reference), BERT)
    for case in cases(reference).values():
        ours = quick_jit(partial(bert.Bert(BERT).apply, deterministic=True))(
            {"params": params}, case["tokens"], case["mask"], condition=case.get("condition")
        )
        assert relative_error(np.asarray(ours), case["output"]) < 1e-5


@pytest.mark.parametrize("name", ["matching"])
def test_matching(reference: Recording) -> None:
    """From the towers' tokens to the logits of the match head."""
    encoder = "multimodal_encoder.bert."
    tensors = state(reference)
    text = {k.removeprefix(encoder): tensors.pop(k) for k in [*tensors] if k.startswith(encoder)}
    params = fusion.from_torch(tensors, FUSION) | {"text": bert.from_torch(text, BERT)}

    def logits(tokens: jax.Array, mask: jax.Array, clip: dict[str, jax.Array]) -> jax.Array:
        condition = fusion.Fusion(FUSION).apply({"params": params["fusion"]}, clip)
        fused = bert.Bert(BERT).apply(
            {"params": params["text"]}, tokens, mask, condition=condition, deterministic=True
        )
        return fusion.MatchHead(FUSION).apply({"params": params["match"]}, fused[:, 0])

    for case in cases(reference).values():
        clip = {key.removeprefix("clip."): x for key, x in case.items() if key.startswith("clip.")}
        ours = quick_jit(logits)(case["tokens"], case["mask"], clip)
        assert relative_error(np.asarray(ours), case["output"]) < 1e-5


@pytest.mark.parametrize("name", ["resizing"])
def test_resizing(reference: Recording) -> None:
    stored = reference["positions"]
    for side in (2, 3, 8):
        ours = vit.resize_position(stored, (1, 1 + side * side, 4))
        np.testing.assert_array_equal(ours[:, 0], stored[:, 0])
        assert relative_error(ours[:, 1:], reference[f"positions to {side}"]) < 1e-6
    for key in reference:
        if key.startswith("frames"):
            _, old, _, new = key.split()
            table = np.arange(int(old)).reshape(-1, 1)
            chosen = fusion.resize_frames(table, (int(new), 1))
            np.testing.assert_array_equal(chosen[:, 0], reference[key])


@pytest.mark.parametrize("name", ["fbank"])
def test_fbank(reference: Recording) -> None:
    for case in cases(reference).values():
        for mels in (64, 128):
            ours = kaldi_fbank(case["wave"], mels=mels)
            # Looser: near-empty bands are the logarithm of float32 rounding, theirs as ours.
            assert relative_error(ours, case[f"mels{mels}"]) < 1e-4


@pytest.mark.parametrize(
    ("module", "name", "config"),
    [(vit, "vit", VIT), (spectrogram, "spectrogram", SPECTROGRAM), (bert, "bert", BERT)],
)
def test_from_torch_stacks_blocks_for_scan(module: Any, name: str, config: Any) -> None:
    tensors = state(recorded(name))
    stacked = module.from_torch(tensors, replace(config, scan=True))
    separate = module.from_torch(tensors, config)
    jax.tree.map(np.testing.assert_array_equal, stacked, stack_blocks(separate))


@pytest.mark.parametrize(
    ("name", "kind"), [("vit", "eva"), ("spectrogram", "beats"), ("bert", "bert")]
)
def test_the_references_own_state_dicts_are_known_and_come_back(name: str, kind: str) -> None:
    tensors = state(recorded(name))
    assert detect(tensors, RECORDINGS / name) == kind
    converted = convert_file(tensors, FORMATS[kind])
    assert not converted.coverage.problems
    facts = converted.sizes, converted.spellings, converted.ties
    again = restore_file(converted.leaves, FORMATS[kind], *facts)
    assert again.keys() == tensors.keys()
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(again[key], tensor, strict=True)


def test_from_torch_names_every_misfit_at_once() -> None:
    tensors = state(recorded("spectrogram"))
    layer = "encoder.layers.1"
    tensors["predictor.weight"] = np.zeros((2, 2), np.float32)
    del tensors[f"{layer}.fc1.bias"]
    tensors[f"{layer}.fc2.bias"] = np.zeros(5, np.float32)
    tensors["encoder.pos_conv.0.bias"] = tensors["encoder.pos_conv.0.bias"][None]
    tensors[f"{layer}.self_attn.relative_attention_bias.weight"] = np.zeros((16, 4), np.float32)
    with pytest.raises(UserError) as error:
        spectrogram.from_torch(tensors, SPECTROGRAM)
    message = str(error.value)
    assert "unused predictor.weight" in message
    assert f"missing {layer}.fc1.bias" in message
    assert f"mis-shaped {layer}.fc2.bias: (5,)" in message
    assert "mis-shaped encoder.pos_conv.0.bias: (1, 32)" in message
    assert f"{layer}.self_attn.relative_attention_bias.weight differs" in message
    assert message.count(";") == 4


def test_from_torch_reads_the_official_spelling_of_weight_norm() -> None:
    tensors = state(recorded("spectrogram"))
    official = {
        key.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for key, tensor in tensors.items()
    }
    assert official.keys() != tensors.keys()
    jax.tree.map(
        np.testing.assert_array_equal,
        spectrogram.from_torch(official, SPECTROGRAM),
        spectrogram.from_torch(tensors, SPECTROGRAM),
    )


@pytest.mark.parity
@needs_torch
@pytest.mark.parametrize("name", NAMES)
def test_recordings_equal_the_live_run(name: str) -> None:
    stored, now = recorded(name), live(name)
    assert stored.keys() == now.keys()
    # The log of next to nothing shows how a processor's transform rounds: 7e-4 between two of them.
    near = 2e-3 if name == "fbank" else 1e-5
    for key, array in now.items():
        np.testing.assert_allclose(stored[key], array, rtol=1e-5, atol=near, err_msg=key)


def test_recordings_are_small() -> None:
    sizes = {path.stem: path.stat().st_size for path in RECORDINGS.glob("*.npz")}
    assert sizes.keys() == set(NAMES)
    assert max(sizes.values()) < 300_000
    assert sum(sizes.values()) < 1_500_000
