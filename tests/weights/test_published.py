"""Published GRAM checkpoints in and out: every key accounted for, every number back in its place."""

import math

import numpy as np
import pytest
from published_keys import SMALL, Sizes, bert, gram, numbers

from weavejax.errors import UserError
from weavejax.weights.gram import GRAM, VAST
from weavejax.weights.published import BERT, convert_file, restore_file


@pytest.fixture(scope="module")
def small():
    return numbers(gram(SMALL._replace(depth=True)))


def back(converted, kind, leaves=None):
    given = converted.sizes, converted.spellings, converted.ties
    return restore_file(leaves or converted.leaves, kind, *given)


def same(found, expected):
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        np.testing.assert_array_equal(found[key], array, strict=True, err_msg=key)


def test_small_files_come_back_exactly(small):
    converted = convert_file(small, GRAM)
    assert not converted.coverage.problems
    leaves = converted.leaves
    kernel = small["vision_encoder.visual.blocks.1.attn.qkv.weight"][24:48].T
    np.testing.assert_array_equal(leaves["vision/blocks_1/attention/key/kernel"], kernel)
    np.testing.assert_array_equal(
        leaves["head/depth/kernel"], small["contra_head_d.linear.weight"].T
    )
    np.testing.assert_array_equal(leaves["fusion/video/frames"], small["vision_frame_embedding"][0])
    np.testing.assert_array_equal(leaves["temperature"], small["contra_temp"])
    same(back(converted, GRAM), small)


def test_the_decoder_follows_the_words_it_is_tied_to(small):
    decoder = "multimodal_encoder.cls.predictions.decoder.weight"
    words = "multimodal_encoder.bert.embeddings.word_embeddings.weight"
    converted = convert_file(small, GRAM)
    assert f"published/{decoder}" not in converted.leaves
    tuned = {**converted.leaves, "text/word/embedding": np.zeros_like(small[words])}
    assert not back(converted, GRAM, tuned)[decoder].any()
    untied = {**small, decoder: small[decoder] + 1}
    converted = convert_file(untied, GRAM)
    same(back(converted, GRAM), untied)


def test_nothing_is_copied_on_the_way_in(small):
    for path, leaf in convert_file(small, GRAM).leaves.items():
        assert any(np.shares_memory(leaf, array) for array in small.values()), path


@pytest.mark.parametrize("depth", [False, True])
def test_the_published_size_has_its_keys_and_counts(depth):
    """Abstractly: arrays of one number, seen at the full shapes."""
    shapes = gram(Sizes(depth=depth))
    assert len(shapes) == 1287 + depth
    state = {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}
    assert GRAM.recognises(state)
    converted = convert_file(state, GRAM)
    assert not converted.coverage.problems
    used = {group.name: (group.keys, group.parameters) for group in converted.coverage.used}
    head = 512 * 1408 * depth
    assert used == {
        "vision": (528, 1_012_588_928),
        "audio": (250, 90_311_792),
        "text": (317, 137_258_496),
        "contrast": (5 + depth, 512 * (1408 + 3 * 768) + 1 + head),
        "fusion": (23, 2_866_178),
    }
    kept = {group.name: (group.keys, group.parameters) for group in converted.coverage.kept}
    assert kept["dead tower (EVA-CLIP's text encoder)"] == (149, 123_846_912)
    assert kept["EVA-CLIP's temperature"] == (1, 1)
    assert kept["VAST's fused heads"][0] == 6
    assert kept["captioning head"][0] == 7
    assert kept["buffer of positions"] == (1, 512)
    groups = converted.coverage.used + converted.coverage.kept
    assert sum(group.keys for group in groups) == 1287 + depth
    text = {path: leaf for path, leaf in converted.leaves.items() if path.startswith("text/")}
    assert sum(math.prod(leaf.shape) for leaf in text.values()) == used["text"][1]


def test_module_may_stand_anywhere_in_a_key_and_returns_there(small):
    spelt = {f"module.{k}" if "audio" in k else k: x for k, x in small.items()}
    spelt = {
        k.replace("multimodal_encoder.", "multimodal_encoder.module."): x for k, x in spelt.items()
    }
    converted = convert_file(spelt, GRAM)
    assert converted.leaves.keys() == convert_file(small, GRAM).leaves.keys()
    same(back(converted, GRAM), spelt)


@pytest.mark.parametrize("clip", ["evaclip_model", "clip_model"])
def test_vast_spells_vision_otherwise(small, clip):
    old = {
        k.replace("vision_encoder", clip).replace("vision_", "video_"): x for k, x in small.items()
    }
    assert f"{clip}.visual.cls_token" in old
    assert "hidden_trans_video_multimodal.0.bias" in old
    assert not GRAM.recognises(old)
    assert VAST.recognises(old)
    converted = convert_file(old, VAST)
    assert converted.leaves.keys() == convert_file(small, GRAM).leaves.keys()
    same(back(converted, VAST), old)


def test_every_misfit_is_named_at_once(small):
    state = dict(small)
    bias = "audio_encoder.encoder.layers.1.self_attn.relative_attention_bias.weight"
    state[bias] = state[bias] + 1
    state["alpha"] = np.zeros(())
    state["contra_temp"] = np.zeros((1,), np.float32)
    state["vision_encoder.visual.blocks.0.attn.qkv.weight"] = np.zeros((71, 24), np.float32)
    state["audio_encoder.encoder.layers.0.self_attn.grep_a"] = np.zeros((4, 1), np.float32)
    del state["itm_head.linear2.bias"]
    coverage = convert_file(state, GRAM).coverage
    assert coverage.unused == ["alpha"]
    assert coverage.missing == ["itm_head.linear2.bias"]
    words = "\n".join(coverage.misfits)
    assert f"{bias} differs" in words
    assert "mis-shaped contra_temp: (1,) does not give temperature ()" in words
    assert "mis-shaped vision_encoder.visual.blocks.0.attn.qkv.weight: (71, 24)" in words
    assert "mis-shaped audio_encoder.encoder.layers.0.self_attn.grep_a: (4, 1)" in words
    assert len(coverage.problems) == len(coverage.misfits) + 2
    with pytest.raises(UserError, match=r"vision_encoder\.visual\.pos_embed, which is missing"):
        convert_file({k: x for k, x in state.items() if "pos_embed" not in k}, GRAM)
    with pytest.raises(UserError, match="by the shapes of audio_encoder"):
        convert_file(state | {"audio_encoder.patch_embedding.weight": np.zeros(3)}, GRAM)


@pytest.mark.parametrize(
    "hostile",
    [
        {"vision_encoder.visual.blocks.99999999.norm1.bias": np.zeros(24, np.float32)},
        {"vision_encoder.visual.pos_embed": np.zeros((1, 10**12 + 1, 0), np.float32)},
        {"audio_encoder.encoder.pos_conv.0.weight_v": np.zeros((16, 17, 4), np.float32)},
    ],
)
def test_absurd_sizes_end_in_one_line(hostile, small):
    state = small | hostile
    try:
        problems = convert_file(state, GRAM).coverage.problems
    except UserError as error:
        problems = [str(error)]
    assert problems
    sizes = convert_file(small, GRAM).sizes
    sizes["text"]["layers"] = 10**8
    with pytest.raises(UserError, match="100000000 blocks of text"):
        restore_file(convert_file(small, GRAM).leaves, GRAM, sizes, {}, {})


def test_what_is_asked_for_may_be_missing_or_unknown(small):
    state = dict(small) | {"alpha": np.float32(0.5)[...]}
    del state["itm_head.linear2.bias"]
    converted = convert_file(state, GRAM, allow="^alpha$|^itm_head")
    assert not converted.coverage.problems
    assert converted.leaves["published/alpha"] == 0.5
    assert "match/dense2/bias" not in converted.leaves
    same(back(converted, GRAM), state)


def test_bert_is_read_in_both_spellings():
    prefix = "multimodal_encoder.bert."
    shapes = {k.removeprefix(prefix): x for k, x in bert(SMALL).items() if k.startswith(prefix)}
    state = numbers(shapes)
    old = {
        "bert." + k.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): x
        for k, x in state.items()
    } | {"cls.predictions.bias": np.zeros(64, np.float32)}
    converted = convert_file(old, BERT)
    assert not converted.coverage.problems
    new = convert_file(state, BERT)
    same(
        {k: x for k, x in converted.leaves.items() if k.startswith("text/")},
        {k: x for k, x in new.leaves.items() if k.startswith("text/")},
    )
    same(back(converted, BERT), old)
